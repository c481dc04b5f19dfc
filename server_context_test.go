package rpcx_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"

	"golang.org/x/sync/errgroup"
)

// Serving until a context ends is no error if all is finished in time.
func TestServeContext(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration
		handler rpcx.Handler
		end     func(srv *rpcx.Server, l net.Listener, cancel context.CancelFunc)
		takes   time.Duration
		want    string // in the error; "" for none
		is      error
	}{
		"the context, at rest": {
			end: func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
		},
		"the context, and a handler finishes": {
			handler: slow(20 * time.Second), takes: 20 * time.Second,
			end: func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
		},
		"the context, and a handler takes too long": {
			timeout: 10 * time.Second, handler: slow(20 * time.Second), takes: 10 * time.Second,
			end:  func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
			want: "10s, and are closed (Server.ShutdownTimeout)", is: context.DeadlineExceeded,
		},
		"the context, and a handler that heeds nothing": {
			handler: rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
				time.Sleep(time.Hour)
				return nil, nil
			}), takes: 30 * time.Second,
			end:  func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
			want: "30s", is: context.DeadlineExceeded,
		},
		"the context, without a limit": {
			timeout: -1, handler: slow(29 * time.Second), takes: 29 * time.Second,
			end: func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
		},
		"Shutdown by somebody": {
			end:  func(srv *rpcx.Server, _ net.Listener, _ context.CancelFunc) { srv.Shutdown(context.Background()) },
			want: "server closed", is: rpcx.ErrServerClosed,
		},
		"Close by somebody": {
			end:  func(srv *rpcx.Server, _ net.Listener, _ context.CancelFunc) { srv.Close() },
			want: "server closed", is: rpcx.ErrServerClosed,
		},
		"a listener that fails": {
			end:  func(_ *rpcx.Server, l net.Listener, _ context.CancelFunc) { l.Close() },
			want: "closed", is: net.ErrClosed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{ShutdownTimeout: c.timeout}
				srv.Options.Handler = c.handler
				m := newMemory()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				served := make(chan error, 1)
				go func() { served <- srv.ServeContext(ctx, m) }()
				far := m.connect(t)
				defer far.Close()
				if c.handler != nil {
					far.Write([]byte(ask("m", 1) + "\n"))
				}
				synctest.Wait()
				start := time.Now()
				c.end(srv, m, cancel)
				err := <-served
				if took := time.Since(start); took != c.takes {
					t.Errorf("it took %v, want %v", took, c.takes)
				}
				if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("it returns %v, want %q", err, c.want)
				}
				srv.Close()
				srv.Wait(context.Background())
			})
		})
	}
}

// The end of a context shared by several listeners is no error for any of them, though one
// of them shuts the server down before the others have noticed the end.
func TestServeContextOnSeveralListeners(t *testing.T) {
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		srv := new(rpcx.Server)
		var serving errgroup.Group
		accepting := make(chan struct{})
		for range 8 {
			l := &firstAccept{memory: newMemory(), begun: accepting}
			serving.Go(func() error { return srv.ServeContext(ctx, l) })
		}
		for range 8 {
			<-accepting
		}
		cancel()
		if err := serving.Wait(); err != nil {
			t.Fatalf("it returns %v", err)
		}
	}
}

// firstAccept is a listener that sends to begun when Accept is called first.
type firstAccept struct {
	*memory
	begun chan<- struct{}
	once  sync.Once
}

func (l *firstAccept) Accept() (net.Conn, error) {
	l.once.Do(func() { l.begun <- struct{}{} })
	return l.memory.Accept()
}

// A context that has ended before is the same, for Listen too.
func TestListenAndServeAfterTheEndOfItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, addr := range []string{"tcp://127.0.0.1:0", "tcp://localhost:0", "unix://" + t.TempDir() + "/s"} {
		if err := new(rpcx.Server).ListenAndServe(ctx, addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if err := new(rpcx.Server).ListenAndServe(ctx, "udp://127.0.0.1:0"); err == nil {
		t.Error("an address that is none is accepted")
	}
}

// A handler that would wait for itself is told so, and nothing is begun.
func TestErrInHandler(t *testing.T) {
	type key struct{}
	for name, wait := range map[string]func(ctx context.Context, srv *rpcx.Server, s *rpcx.Session) error{
		"Session.Shutdown": func(ctx context.Context, _ *rpcx.Server, s *rpcx.Session) error { return s.Shutdown(ctx) },
		"Server.Shutdown":  func(ctx context.Context, srv *rpcx.Server, _ *rpcx.Session) error { return srv.Shutdown(ctx) },
		"Server.Wait":      func(ctx context.Context, srv *rpcx.Server, _ *rpcx.Session) error { return srv.Wait(ctx) },
	} {
		for made, from := range map[string]func(ctx context.Context) context.Context{
			"its context":           func(ctx context.Context) context.Context { return ctx },
			"one made from it":      func(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, 1) },
			"one that does not end": context.WithoutCancel,
		} {
			t.Run(name+" with "+made, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv, other := &rpcx.Server{}, &rpcx.Server{}
					kept := make(chan context.Context, 1)
					srv.Options.Handler = methods{
						"stop": func(ctx context.Context, req *rpcx.Request) (any, error) {
							ctx = from(ctx)
							if err := wait(ctx, other, srv.ServeConn(deaf(t))); err != nil && name != "Session.Shutdown" {
								t.Errorf("of another server: %v", err)
							}
							kept <- ctx
							return nil, wait(ctx, srv, req.Session())
						},
						"echo": reply,
					}
					near, far := net.Pipe()
					s := srv.ServeConn(near)
					log := make(chan error, 1)
					client := rpcx.NewSession(far, nil)
					srv.Options.Logger = nil
					go func() { log <- client.Call(t.Context(), "stop", nil, nil) }()
					if err := <-log; !errors.Is(err, rpcx.ErrInternalError) {
						t.Errorf("stop: %v", err)
					}
					if got, err := rpcx.Call[int](t.Context(), client, "echo", rpcx.Args{1}); got != 1 || err != nil {
						t.Errorf("afterwards: %v, %v", got, err)
					}
					client.Close()
					srv.Close()
					if err := wait(<-kept, srv, s); errors.Is(err, rpcx.ErrInHandler) {
						t.Error("it is refused after the handler has returned, too")
					}
					srv.Wait(t.Context())
				})
			})
		}
	}
}

// deaf returns a connection whose peer closes it when the test ends.
func deaf(t *testing.T) net.Conn {
	near, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	return near
}

// Who keeps a handler's context is told what is wrong with it.
func TestCauseAfterTheHandlerHasReturned(t *testing.T) {
	for name, asked := range map[string]bool{"asked for before": true, "asked for later": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kept := make(chan context.Context, 1)
				s, w := newWire(t, handling(methods{"keep": func(ctx context.Context, _ *rpcx.Request) (any, error) {
					if asked {
						ctx.Done()
					}
					kept <- ctx
					return nil, nil
				}}))
				w.say(ask("keep", 1))
				w.expect(answered("null", 1))
				ctx := <-kept
				derived, cancel := context.WithCancel(ctx)
				defer cancel()
				for _, err := range []error{
					context.Cause(ctx), context.Cause(derived), s.Call(ctx, "m", nil, nil), s.Notify(ctx, "m", nil),
					s.Go(derived, "m", nil).Err(),
				} {
					if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the handler has returned") {
						t.Errorf("the error is %v", err)
					}
				}
				if ctx.Err() != context.Canceled {
					t.Errorf("Err returns %v", ctx.Err())
				}
			})
		})
	}
}
