package websocket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// methods are those of both ends.
func methods() *rpcx.Router {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(message json.RawMessage) json.RawMessage { return message }, "message"))
	router.Handle("refuse", rpcx.Func(func() error { return rpcx.Errorf(42, "refused") }))
	router.Handle("back", rpcx.Func(func(ctx context.Context, s *rpcx.Session, text string) (string, error) {
		return rpcx.Call[string](ctx, s, "echo", rpcx.Args{text})
	}))
	router.Handle("bye", rpcx.Func(func() error { return rpcx.ReplyAndDisconnect("bye") }))
	return router
}

// All that a session does works from both ends.
func TestSession(t *testing.T) {
	for name, config := range map[string]websocket.Config{
		"as it is":   {},
		"compressed": {Compress: true},
	} {
		t.Run(name, func(t *testing.T) {
			accepted := make(chan *rpcx.Session, 1)
			srv := &rpcx.Server{
				Options:   rpcx.Options{Handler: methods()},
				OnSession: func(s *rpcx.Session) { accepted <- s },
			}
			t.Cleanup(func() { srv.Wait(context.Background()) })
			t.Cleanup(func() { srv.Close() })
			url := serve(t, &websocket.Acceptor{Server: srv, Config: config})
			client := dial(t, websocket.Dialer{Config: config}, url, &rpcx.Options{Handler: methods()})
			server := <-accepted
			if client.Role() != rpcx.RoleClient || server.Role() != rpcx.RoleServer {
				t.Errorf("the roles are %v and %v", client.Role(), server.Role())
			}
			if a, b := client.LocalAddr(), server.RemoteAddr(); a == nil || b == nil || a.String() != b.String() {
				t.Errorf("the client is at %v, and the server has it at %v", a, b)
			}
			for _, s := range []*rpcx.Session{client, server} {
				converse(t, s)
			}
		})
	}
}

func converse(t *testing.T, s *rpcx.Session) {
	ctx := t.Context()
	for _, text := range []string{"", "Howdy", "naïve ☃ 𝄞\n", strings.Repeat("x", 126), strings.Repeat("x", 70_000), strings.Repeat("é", 400_000)} {
		if got, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{text}); got != text || err != nil {
			t.Errorf("echo of %.20q: %.20q, %v", text, got, err)
		}
	}
	if got, err := rpcx.Call[string](ctx, s, "back", rpcx.Args{"there"}); got != "there" || err != nil {
		t.Errorf("back: %q, %v", got, err)
	}
	if err := s.Call(ctx, "refuse", nil, nil); !errors.Is(err, &rpcx.Error{Code: 42}) {
		t.Errorf("refuse: %v", err)
	}
	if err := s.Notify(ctx, "echo", rpcx.Args{"not answered"}); err != nil {
		t.Error(err)
	}
	var b rpcx.Batch
	var first, second string
	b.Call("echo", rpcx.Args{"one"}, &first)
	b.Notify("echo", rpcx.Args{"not answered"})
	b.Call("nope", nil, nil)
	b.Call("back", rpcx.Args{"two"}, &second)
	if err := s.SendBatch(ctx, &b); !errors.Is(err, rpcx.ErrMethodNotFound) || first != "one" || second != "two" {
		t.Errorf("batch: %q, %q, %v", first, second, err)
	}
	var wg sync.WaitGroup
	for i := range 128 {
		wg.Go(func() {
			for j := range 10 {
				want := fmt.Sprintf("%d, %d", i, j)
				if got, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{want}); got != want || err != nil {
					t.Errorf("%s: %q, %v", want, got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestServerLimitsAndShutdown(t *testing.T) {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}, MaxSessions: 1}
	url := serveRPC(t, srv)
	first := dial(t, websocket.Dialer{}, url, nil)
	if err := first.Call(t.Context(), "echo", rpcx.Args{1}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := websocket.Dial(t.Context(), url, nil); !hasStatus(err, http.StatusServiceUnavailable) {
		t.Errorf("the session beyond MaxSessions: %v", err)
	}
	if n := srv.Stats().Refused["Server.MaxSessions"]; n != 1 {
		t.Errorf("%d connections are counted as refused", n)
	}
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := ended(t, first); !errors.Is(err, io.EOF) {
		t.Errorf("the session ended with %v", err)
	}
	if _, err := websocket.Dial(t.Context(), url, nil); !hasStatus(err, http.StatusServiceUnavailable) {
		t.Errorf("a session after the shutdown: %v", err)
	}
}

// hasStatus reports whether err says that dialling was answered with an HTTP status.
func hasStatus(err error, status int) bool {
	e, ok := errors.AsType[*websocket.StatusError](err)
	return ok && e.Code == status
}

// What can be known only of a connection that is there ends it at once, however many
// come at the same time.
func TestServerLimitsWhenAllComeAtOnce(t *testing.T) {
	const all, most = 20, 3
	asked := make(chan struct{}, all)
	together := make(chan struct{})
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}, MaxSessions: most}
	srv.Options.Limits.Group = func(*rpcx.Session) string { // called before the limits are looked at
		asked <- struct{}{}
		<-together
		return "all"
	}
	url := serveRPC(t, srv)
	var served atomic.Int32
	var wg sync.WaitGroup
	for range all {
		s := dial(t, websocket.Dialer{}, url, nil) // nobody is served yet, so none is refused
		wg.Go(func() {
			err := s.Call(t.Context(), "echo", rpcx.Args{1}, nil)
			if err == nil {
				served.Add(1)
			} else if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != 1013 {
				t.Error(err)
			}
		})
	}
	for range all {
		<-asked
	}
	close(together)
	wg.Wait()
	if got := served.Load(); got != most {
		t.Errorf("%d sessions were served", got)
	}
	if got := srv.Stats().Refused["Server.MaxSessions"]; got != all-most {
		t.Errorf("%d sessions were refused", got)
	}
}

func TestReplyAndDisconnect(t *testing.T) {
	s := dial(t, websocket.Dialer{}, serveRPC(t, &rpcx.Server{Options: rpcx.Options{Handler: methods()}}), nil)
	if got, err := rpcx.Call[string](t.Context(), s, "bye", nil); got != "bye" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := ended(t, s); err != io.EOF {
		t.Errorf("the session ended with %v", err)
	}
}

// One server has TCP and WebSocket clients.
func TestOneServerTwoTransports(t *testing.T) {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	url := serveRPC(t, srv)
	l, err := rpcx.Listen(t.Context(), "tcp://127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	// Owner: the test. End: the server is closed.
	go func() { served <- srv.Serve(l) }()
	overTCP, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer overTCP.Close()
	for _, s := range []*rpcx.Session{overTCP, dial(t, websocket.Dialer{}, url, nil)} {
		if got, err := rpcx.Call[string](t.Context(), s, "echo", rpcx.Args{"both"}); got != "both" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if n := srv.Stats().Sessions; n != 2 {
		t.Errorf("%d sessions", n)
	}
	srv.Close()
	if err := <-served; !errors.Is(err, rpcx.ErrServerClosed) {
		t.Error(err)
	}
}
