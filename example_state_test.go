package rpcx_test

import (
	"context"
	"fmt"
	"net"
	"sync"

	"example.com/rpcx"
)

// visitor is what a server knows of one session.
type visitor struct {
	login sync.Once
	known chan struct{} // closed at the login
	name  string        // set before that
}

type visitorKey struct{}

// visitorOf returns what a handler has to know of who calls it.
func visitorOf(ctx context.Context) *visitor {
	return ctx.Value(visitorKey{}).(*visitor)
}

// loginFirst lets no request pass before the login. Handlers run concurrently, so
// a call that a client sends right behind its login can be here first: it waits.
func loginFirst(next rpcx.Handler) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if req.Method != "login" {
			select {
			case <-visitorOf(ctx).known:
			case <-ctx.Done(): // at the latest after Limits.ProcessingTimeout
				return nil, rpcx.ReplyAndDisconnect(rpcx.InvalidRequest("login first"))
			}
		}
		return next.ServeRPC(ctx, req)
	})
}

// The state of a session: here a name, without which there is nothing to be had. What
// comes before the login is done waits for it. To refuse it instead see the example Login.
func ExampleServer_state() {
	router := rpcx.NewRouter()
	router.Handle("login", rpcx.Func(func(ctx context.Context, name string) error {
		err := error(rpcx.InvalidRequest("logged in already"))
		who := visitorOf(ctx)
		who.login.Do(func() {
			who.name, err = name, nil
			close(who.known)
		})
		return err
	}))
	router.Handle("whoami", rpcx.Func(func(ctx context.Context) string { return visitorOf(ctx).name }))
	srv := &rpcx.Server{
		Options: rpcx.Options{Handler: router, Middleware: []func(rpcx.Handler) rpcx.Handler{loginFirst}},
		OnSession: func(s *rpcx.Session) { // before its first request is handled
			s.SetValue(visitorKey{}, &visitor{known: make(chan struct{})})
		},
	}

	here, there := net.Pipe()
	srv.ServeConn(there)
	s := rpcx.NewSession(here, nil)
	ctx := context.Background()
	login := s.Go(ctx, "login", rpcx.Args{"gopher"})
	name, err := rpcx.Call[string](ctx, s, "whoami", nil) // without waiting for the login
	fmt.Println(name, err, login.Wait(ctx, nil))
	fmt.Println(s.Call(ctx, "login", rpcx.Args{"ferris"}, nil))
	s.Close()
	srv.Wait(context.Background())
	// Output:
	// gopher <nil> <nil>
	// logged in already (code -32600)
}

// client is what a server knows of one session. It needs no lock, since the handlers of
// the session run one at a time.
type client struct{ name string }

type clientKey struct{}

// refuseBeforeLogin refuses at once what comes before the login, and ends the session.
func refuseBeforeLogin(next rpcx.Handler) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if req.Method != "login" && ctx.Value(clientKey{}).(*client).name == "" {
			return nil, rpcx.ReplyAndDisconnect(rpcx.InvalidRequest("login first"))
		}
		return next.ServeRPC(ctx, req)
	})
}

// A method that must be first, here login. With Order: Sequential a request is handled when
// the one before has been: so the server knows what was first, and can be strict.
func ExampleServer_login() {
	router := rpcx.NewRouter()
	router.Handle("login", rpcx.Func(func(ctx context.Context, name string) {
		ctx.Value(clientKey{}).(*client).name = name
	}))
	router.Handle("whoami", rpcx.Func(func(ctx context.Context) string { return ctx.Value(clientKey{}).(*client).name }))
	srv := &rpcx.Server{
		Options: rpcx.Options{
			Handler:    router,
			Middleware: []func(rpcx.Handler) rpcx.Handler{refuseBeforeLogin},
			Order:      rpcx.Sequential,
		},
		OnSession: func(s *rpcx.Session) { s.SetValue(clientKey{}, new(client)) },
	}
	connect := func() *rpcx.Session {
		here, there := net.Pipe()
		srv.ServeConn(there)
		return rpcx.NewSession(here, nil)
	}

	ctx := context.Background()
	s := connect()
	login := s.Go(ctx, "login", rpcx.Args{"gopher"})
	name, err := rpcx.Call[string](ctx, s, "whoami", nil) // without waiting for the login
	fmt.Println(name, err, login.Wait(ctx, nil))
	s.Close()

	s = connect()
	_, err = rpcx.Call[string](ctx, s, "whoami", nil)
	fmt.Println(err)
	<-s.Done()
	srv.Wait(ctx)
	// Output:
	// gopher <nil> <nil>
	// login first (code -32600)
}
