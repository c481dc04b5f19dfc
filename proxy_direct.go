package rpcx

import (
	"context"
	"encoding/json"
	"reflect"
)

// caller calls a method of the peer.
type caller func(ctx context.Context, params, result any) error

// directStub returns a function of type t that calls call without reflection, nil
// if t is not common: those that [direct] has for handlers. It costs what
// [Session.Call] does.
func directStub(t reflect.Type, call caller) any {
	fn := reflect.Zero(t).Interface()
	if _, ok := fn.(func(context.Context) error); ok {
		return func(ctx context.Context) error { return call(ctx, nil, nil) }
	}
	for _, try := range []func(any, caller) any{
		receiving[any], receiving[json.RawMessage], receiving[string], receiving[bool],
		receiving[int], receiving[int64], receiving[float64],
	} {
		if stub := try(fn, call); stub != nil {
			return stub
		}
	}
	return nil
}

// receiving is directStub for the functions that return an R.
func receiving[R any](fn any, call caller) any {
	if _, ok := fn.(func(context.Context) (R, error)); ok {
		return func(ctx context.Context) (result R, err error) {
			err = call(ctx, nil, &result)
			return result, err
		}
	}
	for _, try := range []func(any, caller) any{
		sending[json.RawMessage, R], sending[string, R], sending[int, R], sending[int64, R], sending[float64, R],
	} {
		if stub := try(fn, call); stub != nil {
			return stub
		}
	}
	return nil
}

// sending is directStub for the functions that take an A, and return an R or only an error.
func sending[A, R any](fn any, call caller) any {
	switch fn.(type) {
	case func(context.Context, A) error:
		return func(ctx context.Context, a A) error { return call(ctx, Args{a}, nil) }
	case func(context.Context, A) (R, error):
		return func(ctx context.Context, a A) (result R, err error) {
			err = call(ctx, Args{a}, &result)
			return result, err
		}
	case func(context.Context, A, A) (R, error):
		return func(ctx context.Context, a, b A) (result R, err error) {
			err = call(ctx, Args{a, b}, &result)
			return result, err
		}
	}
	return nil
}
