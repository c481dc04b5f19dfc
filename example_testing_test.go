package rpcx_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// A method that gives up after an hour is tested in no time.
func TestExampleReportTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		report := rpcx.Func(func(ctx context.Context) error {
			<-ctx.Done() // a report that is never ready
			return ctx.Err()
		})
		router := rpcx.NewRouter()
		router.Handle("report", within(time.Hour, report)) // what is tested
		client, server := rpcx.Pipe(nil, &rpcx.Options{
			Handler: router,
			Limits:  rpcx.Limits{ProcessingTimeout: 2 * time.Hour},
		})
		t.Cleanup(func() {
			client.Close()
			server.Close()
			<-client.Done()
			<-server.Done() // when the handler has returned
		})

		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		err := client.Call(ctx, "report", nil, nil)
		if !errors.Is(err, rpcx.ErrServerBusy) {
			t.Errorf("the error is %v, want %v", err, rpcx.ErrServerBusy)
		}
		if took := time.Since(begin); took != time.Hour {
			t.Errorf("the answer came after %v, want an hour", took)
		}
	})
}
