package main

import (
	"context"
	"encoding/json"
)

func callCommand() *command {
	return &command{
		name:    "call",
		usage:   "ADDR METHOD [PARAMS… | NAME=VALUE… | @FILE | -]",
		summary: "Call a method and print the result",
		setup: func(fs *flags) action {
			conn, out := declareConnFlags(fs), declareOutputFlags(fs)
			return func(ctx context.Context, e *env, args []string) error {
				p, err := out.printer(e)
				if err != nil {
					return err
				}
				t, args, err := conn.targetOf(args)
				if err != nil {
					return err
				}
				if len(args) == 0 {
					return usagef("no method to call")
				}
				params, err := parseParams(e, args[1:])
				if err != nil {
					return err
				}
				ctx, cancel := conn.withTimeout(ctx)
				defer cancel()
				c, err := conn.dial(ctx, e, t, nil)
				if err != nil {
					return err
				}
				defer c.Close()
				result, err := c.call(ctx, args[0], params)
				if err != nil {
					return err
				}
				return p.print(ctx, result)
			}
		},
	}
}

// paramsOrNil returns params as the params of a Caller: nil for none.
func paramsOrNil(params json.RawMessage) any {
	if params == nil {
		return nil
	}
	return params
}
