package rpcx_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// TestExampleOfTesting is the example in the manual's section Testing. The handler sleeps
// for ten seconds, which take no time.
func TestExampleOfTesting(t *testing.T) {
	router := rpcx.NewRouter()
	router.Handle("sleep", rpcx.Func(func(seconds int) {
		time.Sleep(time.Duration(seconds) * time.Second)
	}))
	synctest.Test(t, func(t *testing.T) {
		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
		defer func() {
			client.Close()
			server.Close()
			<-client.Done()
			<-server.Done() // when the handler has returned
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := client.Call(ctx, "sleep", rpcx.Args{10}, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A pipe has no halves: the peer's handlers end with it, and not after Limits.HalfClose.
func TestAPipeEndsTheHandlersOfThePeerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, ctx.Err()
		})})
		client.Go(t.Context(), "wait", nil)
		synctest.Wait()
		begin := time.Now()
		client.Close()
		<-ended
		<-server.Done()
		<-client.Done()
		if took := time.Since(begin); took != 0 {
			t.Errorf("the handler has ended after %v", took)
		}
	})
}

// Two limits of 30 s are met by a handler that takes too long. The text of each says which
// one it was.
func TestTheTextOfATimeoutSaysWhoseItWas(t *testing.T) {
	for want, limits := range map[string][2]time.Duration{
		"rpcx: request timed out (Limits.RequestTimeout)":                                                                       {30 * time.Second, time.Minute},
		"server busy - request timed out, over the time that the peer has for a handler (Limits.ProcessingTimeout) (code -102)": {time.Minute, 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := rpcx.Pipe(&rpcx.Options{Limits: rpcx.Limits{RequestTimeout: limits[0]}},
				&rpcx.Options{Handler: rpcx.HandlerFunc(hang), Limits: rpcx.Limits{ProcessingTimeout: limits[1]}})
			if err := client.Call(context.Background(), "hang", nil, nil); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			client.Close()
			server.Close()
			<-client.Done()
			<-server.Done()
		})
	}
}
