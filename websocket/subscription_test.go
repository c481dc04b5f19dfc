package websocket_test

import (
	"context"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// TestSubscriptions subscribes again and again beside a publisher. No value is missing
// between the first and the last of a stream, and no subscription is left.
func TestSubscriptions(t *testing.T) {
	for name, protocol := range map[string]rpcx.Protocol{"2.0": rpcx.JSONRPCv2, "auto-detected": rpcx.JSONRPCAutoDetect} {
		t.Run(name, func(t *testing.T) {
			hub := new(rpcx.Hub)
			router := rpcx.NewRouter()
			subscribe, unsubscribe := hub.Handlers(nil, func(context.Context, *rpcx.Request) (string, error) { return "numbers", nil }, nil)
			router.Handle("eth_subscribe", subscribe)
			router.Handle("eth_unsubscribe", unsubscribe)
			srv := &rpcx.Server{Options: rpcx.Options{Handler: router, Protocol: protocol}}
			t.Cleanup(func() { srv.Wait(context.Background()) })
			t.Cleanup(func() { srv.Close() })
			s := dial(t, websocket.Dialer{}, serve(t, &websocket.Acceptor{Server: srv}), nil)

			wanted, published := make(chan struct{}, 1), make(chan struct{})
			publishSome := func() {
				select {
				case wanted <- struct{}{}:
				default: // some are about to be published
				}
			}
			go func() { // ends when the test closes wanted
				defer close(published)
				n := 0
				for range wanted {
					for range 10 {
						if err := hub.Publish(context.Background(), "numbers", n); err != nil {
							t.Error(err)
						}
						n++
					}
				}
			}()
			for range 200 {
				publishSome()
				numbers, err := rpcx.Subscribe[int](t.Context(), s, rpcx.Subscription{Method: "eth_subscribe"})
				if err != nil {
					t.Fatal(err)
				}
				last := -1
				for range 3 {
					publishSome()
					n, err := numbers.Next(t.Context())
					if err != nil || last >= 0 && n != last+1 {
						t.Fatalf("after %d: %d, %v; %d dropped", last, n, err, numbers.Dropped())
					}
					last = n
				}
				numbers.Close()
			}
			close(wanted)
			<-published
			if err := s.Shutdown(t.Context()); err != nil { // after the unsubscribing calls
				t.Error(err)
			}
			srv.Close()
			srv.Wait(t.Context())
			if stats := hub.Stats(); stats.Subscribers != 0 || stats.Topics != 0 || stats.Lagging != 0 {
				t.Errorf("left: %+v", stats)
			}
		})
	}
}
