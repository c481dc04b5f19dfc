package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"

	"example.com/rpcx"
)

// httpPeer is the peer of an exchange over HTTP.
type httpPeer struct{ addr net.Addr }

func (p httpPeer) RemoteAddr() net.Addr { return p.addr }

// rpcOverHTTP returns a handler that answers each POST by srv.
func rpcOverHTTP(srv *rpcx.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "POST application/json", http.StatusBadRequest)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		var peer any
		if addr, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			peer = httpPeer{net.TCPAddrFromAddrPort(addr)}
		}
		reply, err := srv.ServeMessage(r.Context(), peer, body, nil)
		status := http.StatusOK
		var costs *rpcx.CostError
		var refused *rpcx.Error
		switch {
		case errors.As(err, &costs):
			status = http.StatusTooManyRequests
			w.Header().Set("Retry-After", strconv.Itoa(int(costs.RetryAfter)))
		case errors.As(err, &refused): // not started: the client may try again
			status = http.StatusServiceUnavailable
			w.Header().Set("Retry-After", "1")
		case err != nil: // the client is gone, or a handler has closed the session
			status = http.StatusInternalServerError
		case reply == nil:
			status = http.StatusNoContent
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		w.Write(reply)
	})
}

// An http.Handler over ServeMessage. The same server may also serve connections, with the
// same limits.
func ExampleServer_ServeMessage() {
	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(a, b int) int { return a + b }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}

	web := httptest.NewServer(rpcOverHTTP(srv))
	defer web.Close()
	post := func(message string) {
		resp, err := http.Post(web.URL, "application/json", strings.NewReader(message))
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(body))))
	}
	post(`{"jsonrpc":"2.0","method":"add","params":[1,2],"id":1}`)
	post(`[{"jsonrpc":"2.0","method":"add","params":[3,4],"id":2},{"jsonrpc":"2.0","method":"sub","id":3}]`)
	post(`{"jsonrpc":"2.0","method":"add","params":[1,2]}`)
	srv.Shutdown(context.Background())
	post(`{"jsonrpc":"2.0","method":"add","params":[1,2],"id":4}`)
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// 200 {"jsonrpc":"2.0","result":3,"id":1}
	// 200 [{"jsonrpc":"2.0","result":7,"id":2}, {"jsonrpc":"2.0","error":{"code":-32601,"message":"unknown method \"sub\""},"id":3}]
	// 204
	// 503 {"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - shutting down","data":{"started":false,"reason":"shutting down"}},"id":4}
}
