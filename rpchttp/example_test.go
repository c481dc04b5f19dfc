package rpchttp_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

func ExampleHandler() {
	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(a, b int) int { return a + b }, "a", "b"))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	mux := http.NewServeMux()
	mux.Handle("/rpc", &rpchttp.Handler{Server: srv})
	mux.Handle("/ready", rpchttp.Ready(srv))
	web := httptest.NewServer(mux) // or http.ListenAndServe(addr, mux)
	defer web.Close()

	resp, err := http.Post(web.URL+"/rpc", "application/json", strings.NewReader(`{"jsonrpc":"2.0","method":"add","params":[2,3],"id":1}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	fmt.Printf("%s %s %v\n", resp.Status, reply, err)
	// Output:
	// 200 OK {"jsonrpc":"2.0","result":5,"id":1} <nil>
}

// A proxy on the same machine names its clients.
func ExampleXForwardedFor() {
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) string { return s.RemoteAddr().String() }))
	h := &rpchttp.Handler{
		Server: &rpcx.Server{Options: rpcx.Options{Handler: router}},
		Client: rpchttp.XForwardedFor(netip.MustParsePrefix("127.0.0.1/32")),
	}
	r := httptest.NewRequest(http.MethodPost, "/rpc", strings.NewReader(`{"jsonrpc":"2.0","method":"whoami","id":1}`))
	r.RemoteAddr = "127.0.0.1:4711"
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Forwarded-For", "10.0.0.1, 198.51.100.7") // 10.0.0.1 is what the client says
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Body)
	// Output:
	// {"jsonrpc":"2.0","result":"198.51.100.7:0","id":1}
}
