package websocket_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// A peer that notifies and closes is heard, with whatever code it closes and whatever
// OnSession does meanwhile.
func TestNotificationsBeforeTheCloseAreHandled(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *rpcx.Session) error{
		"Close":    func(_ *testing.T, s *rpcx.Session) error { return s.Close() },
		"Shutdown": func(t *testing.T, s *rpcx.Session) error { return s.Shutdown(t.Context()) },
		"a code of its own": func(t *testing.T, s *rpcx.Session) error {
			if err := websocket.SetCloseCode(s, 4001, "enough"); err != nil {
				return err
			}
			return s.Shutdown(t.Context())
		},
	} {
		for does, onSession := range map[string]func(t *testing.T, s *rpcx.Session, gone <-chan struct{}){
			"returns at once": func(*testing.T, *rpcx.Session, <-chan struct{}) {},
			"waits for a reply": func(t *testing.T, s *rpcx.Session, _ <-chan struct{}) {
				if err := s.Call(context.Background(), "hang", nil, nil); !errors.Is(err, rpcx.ErrConnectionLost) && !errors.Is(err, rpcx.ErrServerBusy) {
					t.Errorf("the call fails with %v", err)
				}
			},
			"speaks to who is gone": func(_ *testing.T, s *rpcx.Session, gone <-chan struct{}) {
				<-gone // a Shutdown would wait for the peer's handlers of what is sent before
				for s.Notify(context.Background(), "greeting", nil) == nil {
				}
			},
		} {
			t.Run(name+": OnSession "+does, func(t *testing.T) {
				for range 10 {
					var handled atomic.Int32
					sessions := make(chan *rpcx.Session, 1)
					gone := make(chan struct{})
					srv := &rpcx.Server{OnSession: func(s *rpcx.Session) {
						sessions <- s
						onSession(t, s, gone)
					}}
					srv.Options.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
						handled.Add(1)
						return nil, nil
					})
					opts := &rpcx.Options{Handler: rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
						<-ctx.Done()
						return nil, rpcx.ServerBusy("shutting down")
					})}
					client := dial(t, websocket.Dialer{}, serveRPC(t, srv), opts)
					for range 50 {
						if err := client.Notify(t.Context(), "note", nil); err != nil {
							t.Fatal(err)
						}
					}
					s := <-sessions
					if does == "waits for a reply" {
						client.Close() // a Shutdown would wait for the handler
					} else if err := end(t, client); err != nil {
						t.Error(err)
					}
					close(gone)
					ended(t, s)
					srv.Wait(t.Context()) // handlers may run on after the end
					if n := handled.Load(); n != 50 || s.Stats().NotificationsDropped != 0 {
						t.Fatalf("%d of 50 were handled, and %d dropped; it ended with %v", n, s.Stats().NotificationsDropped, s.Err())
					}
				}
			})
		}
	}
}

func TestHandlerOfNoServer(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a nil server is accepted")
		}
	}()
	websocket.Handler(nil)
}
