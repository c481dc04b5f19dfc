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

// visitors are those of all sessions. OnSession adds one before the session's
// first request is handled, and OnClose takes it away when no handler runs.
type visitors struct{ m sync.Map }

func (v *visitors) add(s *rpcx.Session) {
	v.m.Store(s, &visitor{known: make(chan struct{})})
	s.OnClose(func(error) { v.m.Delete(s) })
}

func (v *visitors) of(s *rpcx.Session) *visitor {
	who, _ := v.m.Load(s)
	return who.(*visitor)
}

// loginFirst lets no request pass before the login. Handlers run concurrently, so
// a call that a client sends right behind its login can be here first: it waits.
func (v *visitors) loginFirst(next rpcx.Handler) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if req.Method != "login" {
			select {
			case <-v.of(req.Session()).known:
			case <-ctx.Done(): // at the latest after Limits.ProcessingTimeout
				return nil, rpcx.ReplyAndDisconnect(rpcx.InvalidRequest("login first"))
			}
		}
		return next.ServeRPC(ctx, req)
	})
}

// The state of a session: here a name, without which there is nothing to be had.
func ExampleServer_state() {
	var all visitors
	router := rpcx.NewRouter()
	router.Handle("login", rpcx.Func(func(s *rpcx.Session, name string) error {
		err := error(rpcx.InvalidRequest("logged in already"))
		who := all.of(s)
		who.login.Do(func() {
			who.name, err = name, nil
			close(who.known)
		})
		return err
	}))
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) string { return all.of(s).name }))
	srv := &rpcx.Server{OnSession: all.add, Options: rpcx.Options{
		Handler:    router,
		Middleware: []func(rpcx.Handler) rpcx.Handler{all.loginFirst},
	}}

	here, there := net.Pipe()
	srv.ServeConn(there)
	s := rpcx.NewSession(here, nil)
	ctx := context.Background()
	login := s.Go(ctx, "login", rpcx.Args{"gopher"})
	name, err := rpcx.Call[string](ctx, s, "whoami", nil) // without waiting for the login
	fmt.Println(name, err, login.Wait(ctx, nil))
	fmt.Println(s.Call(ctx, "login", rpcx.Args{"ferris"}, nil))
	s.Close()
	srv.Wait()
	// Output:
	// gopher <nil> <nil>
	// logged in already (code -32600)
}
