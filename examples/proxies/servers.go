package main

import (
	"context"
	"net/http"
	"net/netip"

	"example.com/rpcx"
	"example.com/rpcx/proxyproto"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// clientKey is the key of the client's address in the context of a WebSocket's request.
type clientKey struct{}

// clientOf returns the address of the client, whatever the session runs over.
func clientOf(s *rpcx.Session) netip.Addr {
	if r := websocket.Request(s); r != nil {
		return r.Context().Value(clientKey{}).(netip.Addr)
	}
	addr, _ := netip.ParseAddrPort(s.RemoteAddr().String())
	return addr.Addr().Unmap()
}

// groupOf returns the name of the group of sessions that share a budget.
func groupOf(s *rpcx.Session) string {
	client := clientOf(s)
	if client.Is6() {
		subnet, _ := client.Prefix(64) // which one client may have as a whole
		client = subnet.Addr()
	}
	return client.String()
}

// behindProxies returns a server that believes the proxies, and a handler for the web server.
func behindProxies(methods *rpcx.Router, proxies ...netip.Prefix) (*rpcx.Server, http.Handler) {
	srv := &rpcx.Server{
		Options:  rpcx.Options{Handler: methods, Limits: rpcx.Limits{Group: groupOf}},
		Preamble: (&proxyproto.Config{Proxies: proxies}).Preamble, // for TCP
		MaxGroup: 100,                                             // sessions and requests of a client
	}
	forwardedFor := rpchttp.XForwardedFor(proxies...)
	ws := websocket.Handler(srv)
	mux := http.NewServeMux()
	mux.Handle("/rpc", &rpchttp.Handler{Server: srv, Client: forwardedFor})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), clientKey{}, forwardedFor(r))
		ws.ServeHTTP(w, r.WithContext(ctx))
	})
	return srv, mux
}

// behindTor returns a server for the unix socket of an onion service.
func behindTor(methods *rpcx.Router) *rpcx.Server {
	return &rpcx.Server{
		// Circuits differ in the last 32 bits of an address.
		Options:  rpcx.Options{Handler: methods, Limits: rpcx.Limits{Group: rpcx.GroupBySubnet(32, 128)}},
		Preamble: (&proxyproto.Config{UnixProxy: true}).Preamble,
		MaxGroup: 10, // sessions of a circuit
	}
}
