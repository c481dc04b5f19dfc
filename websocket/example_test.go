package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

func Example() {
	router := rpcx.NewRouter()
	router.Handle("greet", rpcx.Func(func(ctx context.Context, s *rpcx.Session) (string, error) {
		name, err := rpcx.Call[string](ctx, s, "name", nil) // calls the client back
		return "hello, " + name, err
	}))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	mux := http.NewServeMux()
	mux.Handle("/rpc", websocket.Handler(srv))
	web := httptest.NewServer(mux) // or http.ListenAndServe(addr, mux)
	defer web.Close()

	methods := rpcx.NewRouter()
	methods.Handle("name", rpcx.Func(func() string { return "client" }))
	ctx := context.Background()
	url := strings.Replace(web.URL, "http://", "ws://", 1) + "/rpc"
	s, err := websocket.Dial(ctx, url, &rpcx.Options{Handler: methods})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[string](ctx, s, "greet", nil))
	s.Close()
	fmt.Println(srv.Shutdown(ctx))
	// Output:
	// hello, client <nil>
	// <nil>
}

// A client that reconnects, over WebSockets: Dial of this package fits ClientOptions.Connect,
// and so does the method Dial of a [websocket.Dialer] with settings.
func ExampleDial_client() {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(message string) string { return message }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	web := httptest.NewServer(websocket.Handler(srv))
	defer web.Close()

	ctx := context.Background()
	c := rpcx.NewClient(&rpcx.ClientOptions{
		Addrs:   []string{strings.Replace(web.URL, "http://", "ws://", 1)},
		Connect: websocket.Dial,
	})
	fmt.Println(rpcx.Call[string](ctx, c, "echo", rpcx.Args{"hello"}))
	fmt.Println(c.Shutdown(ctx))
	// Output:
	// hello <nil>
	// <nil>
}

// A web server with WebSockets ends with its context, which in a program is that of
// [os/signal.NotifyContext]: calls and pages are finished first.
func ExampleServeContext() {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(message string) string { return message }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}, ShutdownTimeout: 10 * time.Second}
	mux := http.NewServeMux()
	mux.Handle("/rpc", websocket.Handler(srv))
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error)
	go func() { served <- websocket.ServeContext(ctx, srv, web, l) }()

	s, err := websocket.Dial(context.Background(), "ws://"+l.Addr().String()+"/rpc", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[string](context.Background(), s, "echo", rpcx.Args{"Howdy"}))
	stop()
	fmt.Println(<-served)
	<-s.Done()
	fmt.Println(s.Err())
	// Output:
	// Howdy <nil>
	// <nil>
	// peer closed the WebSocket with code 1001 "server shutting down"
}

// userKey is the key of the user's name in the context of a request.
type userKey struct{}

// A middleware refuses who is unknown before there is a session, and handlers ask
// who it was.
func ExampleRequest() {
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) string {
		r := websocket.Request(s)
		return fmt.Sprintf("%v in room %s", r.Context().Value(userKey{}), r.PathValue("room"))
	}))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	rpc := websocket.Handler(srv)
	mux := http.NewServeMux()
	mux.HandleFunc("/rpc/{room}", func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if password != "secret" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		rpc.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
	})
	web := httptest.NewServer(mux)
	defer web.Close()

	ctx := context.Background()
	host := strings.TrimPrefix(web.URL, "http://")
	s, err := websocket.Dial(ctx, "ws://ann:secret@"+host+"/rpc/kitchen", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[string](ctx, s, "whoami", nil))
	_, err = websocket.Dial(ctx, "ws://"+host+"/rpc/kitchen", nil)
	if refused, ok := errors.AsType[*websocket.StatusError](err); ok {
		fmt.Println(refused.Code)
	}
	fmt.Println(srv.Shutdown(ctx))
	// Output:
	// ann in room kitchen <nil>
	// 401
	// <nil>
}

// A program has codes of its own, from 4000 to 4999, for what its clients should know.
func ExampleSetCloseCode() {
	router := rpcx.NewRouter()
	router.Handle("logout", rpcx.Func(func(s *rpcx.Session) error {
		if err := websocket.SetCloseCode(s, 4001, "logged out"); err != nil {
			return err
		}
		return rpcx.ReplyAndDisconnect("bye") // or s.Close(), from anywhere
	}))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	web := httptest.NewServer(websocket.Handler(srv))
	defer web.Close()

	ctx := context.Background()
	s, err := websocket.Dial(ctx, strings.Replace(web.URL, "http://", "ws://", 1), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[string](ctx, s, "logout", nil))
	<-s.Done()
	if closed, ok := errors.AsType[*websocket.CloseError](s.Err()); ok {
		fmt.Println(closed.Code, closed.Reason)
	}
	fmt.Println(srv.Shutdown(ctx))
	// Output:
	// bye <nil>
	// 4001 logged out
	// <nil>
}
