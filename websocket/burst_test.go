package websocket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	coder "github.com/coder/websocket"
)

// sendBurst writes n requests without waiting, and reads the replies as they come. Each
// request must be answered once, with a result.
func sendBurst(t *testing.T, ws *coder.Conn, n int) {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		for i := range n {
			request := fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"m","id":%d}`, i)
			if err := ws.Write(context.Background(), coder.MessageText, request); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	answered := make([]bool, n)
	for i := range n {
		_, msg, err := ws.Read(context.Background())
		if err != nil {
			t.Errorf("after %d of %d replies: %v", i, n, err)
			return
		}
		var reply struct {
			ID     *int
			Result json.RawMessage
		}
		if err := json.Unmarshal(msg, &reply); err != nil || reply.ID == nil || reply.Result == nil || answered[*reply.ID] {
			t.Errorf("reply %d is %s", i, msg)
			return
		}
		answered[*reply.ID] = true
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// slow returns a handler that takes so long.
func slow(d time.Duration) rpcx.HandlerFunc {
	return func(context.Context, *rpcx.Request) (any, error) {
		time.Sleep(d)
		return true, nil
	}
}

func TestBurstIsAnsweredInFull(t *testing.T) {
	n := 20000
	if testing.Short() {
		n = 5000
	}
	for _, takes := range []time.Duration{0, 5 * time.Millisecond} {
		t.Run(takes.String(), func(t *testing.T) {
			srv := &rpcx.Server{Options: rpcx.Options{Handler: slow(takes)}}
			sendBurst(t, peer(t, serveRPC(t, srv), nil), n)
		})
	}
}

// While reading pauses, the answer to a ping is not read: the peer is not dead. The peer
// gives its answer up after 5 s, and may have to wait for two handlers: one before its
// request in front of the answer is read, and one before the answer is.
func TestPauseIsNotTakenForSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan *coder.Conn, 1)
		l, stop := inMemory(accepting(conns))
		defer stop()
		d := websocket.Dialer{
			Dialer: rpcx.Dialer{DialContext: l.dial},
			Config: websocket.Config{PingInterval: 3 * time.Second},
		}
		s, err := d.Dial(t.Context(), "ws://memory/", &rpcx.Options{Handler: slow(2 * time.Second), Limits: rpcx.Limits{Concurrency: 1}})
		if err != nil {
			t.Fatal(err)
		}
		ws := <-conns
		sendBurst(t, ws, 50)
		if stats := s.Stats(); stats.Paused < time.Minute {
			t.Errorf("it has paused for %v only", stats.Paused)
		}
		go ws.Read(context.Background()) // until the session closes it
		s.Close()
		<-s.Done()
	})
}
