package embedded_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// A call whose deadline is centuries away received no reply: its reply subject was malformed.
func TestDeadlinesFarAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		startWork(t, serverOf(router()), c)
		s := pipeGateway(t, c, rpcx.Options{Limits: rpcx.Limits{ProcessingTimeout: 1<<63 - 1}}, nil)
		if err := s.Call(t.Context(), "sum", nil, nil); err != nil {
			t.Errorf("gateway: %v", err)
		}
		client := dial(t, c, nil)
		for _, years := range []int{40, 250, 7000} {
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().AddDate(years, 0, 0))
			call := make(chan error, 1)
			go func() { call <- client.Call(ctx, "sum", nil, nil) }()
			select {
			case err := <-call:
				if err != nil {
					t.Errorf("%d years: %v", years, err)
				}
			case <-time.After(time.Hour): // of the bubble
				t.Errorf("%d years: no reply", years)
			}
			cancel()
		}
	})
}

// A worker without messages did not notice that its server was stopped.
func TestAnIdleWorkerOfAStoppedServerEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		srv := serverOf(router())
		done := make(chan error, 1)
		go func() { done <- natsrpcx.Serve(t.Context(), srv, c) }()
		synctest.Wait()
		srv.Close()
		select {
		case err := <-done:
			if err != rpcx.ErrServerClosed {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("Serve goes on")
		}
		if err := natsrpcx.Serve(t.Context(), srv, c); err != rpcx.ErrServerClosed {
			t.Errorf("Serve with a stopped server: %v", err)
		}
	})
}

// Serve answered a message of its own at first, for which Message returned nil.
func TestFunctionsOfTheOptionsAlwaysFindAMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		srv := serverOf(router())
		srv.Options.Limits.Group = func(s *rpcx.Session) string { return natsrpcx.Message(s).Header.Get("Name") }
		srv.OnSession = func(s *rpcx.Session) { s.SetValue("name", natsrpcx.Message(s).Header.Get("Name")) }
		startWork(t, srv, c)
		if err := dial(t, c, nil).Call(t.Context(), "sum", nil, nil); err != nil {
			t.Error(err)
		}
	})
}

// A panic of Admit ended the program.
func TestAPanicOfAdmitRefusesTheMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		worker := c
		worker.Admit = func(m *nats.Msg) error {
			if strings.Contains(string(m.Data), "bad") {
				panic("bad")
			}
			return nil
		}
		startWork(t, serverOf(router()), worker)
		client := dial(t, c, nil)
		err := client.Call(t.Context(), "echo", rpcx.Args{"bad"}, nil)
		if e, ok := errors.AsType[*rpcx.Error](err); !ok || e.Code != rpcx.CodeInternalError {
			t.Errorf("error %v, want an internal error", err)
		}
		if err := client.Call(t.Context(), "echo", rpcx.Args{"good"}, nil); err != nil {
			t.Error(err)
		}
	})
}

// A method with a long name ended Serve in the middle of its requests.
func TestAnAddedMethodThatIsTooLongDrainsTheWorker(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		b := newBlocking()
		done := make(chan error, 1)
		go func() { done <- natsrpcx.Serve(t.Context(), serverOf(b.Router), c) }()
		synctest.Wait()
		client := dial(t, c, nil)
		call := make(chan error, 1)
		go func() { call <- client.Call(t.Context(), "block", nil, nil) }()
		synctest.Wait()
		b.Handle(strings.Repeat("x", 300), rpcx.Func(func() {}))
		time.Sleep(6 * time.Second) // after the next announcement
		select {
		case err := <-done:
			t.Fatalf("Serve ended during a request: %v", err)
		default:
		}
		close(b.release)
		if err := <-call; err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "over 255 bytes") {
			t.Error(err)
		}
	})
}

// Under a max_payload below the size of an error, a worker refused its own refusal without end.
func TestATinyMaxPayload(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bus := newBus(t, func(o *server.Options) { o.MaxPayload = 80 })
		c := natsrpcx.Config{Conn: bus.Conn}
		startWork(t, serverOf(router()), c)
		client := dial(t, c, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.Call(ctx, "text", rpcx.Args{200}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := client.Call(t.Context(), "text", rpcx.Args{1}, nil); err != nil {
			t.Error(err)
		}
	})
}
