package rpcx

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The members of a batch pass the gate one by one, also in an exchange whose group has its
// own cost.
func TestGateOfAnExchangeInAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		srv := &Server{}
		srv.Options.Limits.Group = func(*Session) string { return "all" }
		srv.Options.Gate = HandlerFunc(func(context.Context, *Request) (any, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			return nil, nil
		})
		const msg = `[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"b","id":2},{"jsonrpc":"2.0","method":"c","id":3}]`
		if _, err := srv.ServeMessage(t.Context(), nil, []byte(msg), nil); err != nil {
			t.Error(err)
		}
		if n := most.Load(); n != 1 {
			t.Errorf("%d members were at the gate at once", n)
		}
	})
}

// A Shutdown between the start of an exchange and its message refuses the message as not
// started.
func TestShutdownBeforeTheMessageOfAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{}
		srv.resolvedOptions()
		x := newExchange(t.Context(), srv, nil, nil)
		x.reserveWorker(srv)
		if err := srv.startSession(x.session, "", nil); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error)
		go func() { stopped <- srv.Shutdown(context.Background()) }()
		synctest.Wait()
		reply, err := x.serve([]byte(`{"jsonrpc":"2.0","method":"a","id":1}`))
		const want = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - shutting down","data":{"started":false,"reason":"shutting down"}},"id":1}`
		e, ok := errors.AsType[*Error](err)
		if string(reply) != want || !ok || !e.NotStarted() || !errors.Is(err, ErrServerClosed) {
			t.Errorf("the message is answered %s, %v", reply, err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
