package websocket_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

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
