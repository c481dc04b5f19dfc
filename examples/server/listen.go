package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// front is a listener. If paths is not nil, a web server accepts the connections.
type front struct {
	net.Listener
	paths paths
}

// paths is an http.Handler for each path, without patterns.
type paths map[string]http.Handler

func (p paths) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := p[r.URL.Path]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// listen listens at addresses, and returns also what each address has become: a port may
// be 0. The caller closes the fronts, also after an error.
func listen(ctx context.Context, srv *rpcx.Server, addrs []string, config *tls.Config) (fronts []front, urls []string, err error) {
	webs := make(map[string]front) // by host and port
	for _, addr := range addrs {
		scheme, rest, _ := strings.Cut(addr, "://")
		var handler http.Handler
		switch scheme {
		case "http":
			handler = &rpchttp.Handler{Server: srv}
		case "ws":
			handler = &websocket.Acceptor{Server: srv}
		default:
			l, err := rpcx.Listen(ctx, addr, config)
			if err != nil {
				return fronts, nil, err
			}
			fronts = append(fronts, front{Listener: l})
			urls = append(urls, fmt.Sprintf("%s://%s", scheme, l.Addr()))
			continue
		}
		host, path, _ := strings.Cut(rest, "/")
		path = "/" + path
		web, ok := webs[host]
		if !ok {
			l, err := rpcx.Listen(ctx, "tcp://"+host, nil)
			if err != nil {
				return fronts, nil, err
			}
			web = front{l, paths{"/ready": rpchttp.Ready(srv)}}
			webs[host] = web
			fronts = append(fronts, web)
		}
		if web.paths[path] != nil {
			return fronts, nil, fmt.Errorf("%s: the path %s has another use: give each address a path of its own", addr, path)
		}
		web.paths[path] = handler
		urls = append(urls, fmt.Sprintf("%s://%s%s", scheme, web.Addr(), path))
	}
	return fronts, urls, nil
}

// serve serves until ctx ends.
func (f front) serve(ctx context.Context, srv *rpcx.Server) error {
	if f.paths == nil {
		return srv.ServeContext(ctx, f.Listener)
	}
	web := &http.Server{
		Handler:        f.paths,
		ReadTimeout:    30 * time.Second, // of a message, and of a body to an unknown path
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	served := make(chan error, 1)
	// Owner: serve. End: Shutdown of web.
	go func() { served <- web.Serve(f.Listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// First, /ready says no, new messages are refused, and what is under way is finished.
	// Then the listener is closed.
	return errors.Join(srv.Shutdown(ending), web.Shutdown(ending))
}
