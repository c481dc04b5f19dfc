package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// grace is how long the tools may go on after a signal.
const grace = 10 * time.Second

// serveHTTP serves the streamable HTTP of the protocol at http://ADDR/mcp until ctx ends.
// It writes to out where it listens.
//
// Each message is served by itself: there are no sessions, and all clients share the notes.
// The answer of a tool with progress is a stream of events, any other answer is JSON. A
// client can only end a tool by closing the stream; a GET is refused, since nothing is sent
// outside of answers.
func (srv *server) serveHTTP(ctx context.Context, out io.Writer, addr string) error {
	srv.stateless = true
	rpc := &rpcx.Server{Options: *srv.httpOptions()}
	mux := http.NewServeMux()
	mux.Handle("/mcp", checkVersion(&rpchttp.Handler{
		Server: rpc,
		SSE:    true,
		Status: status,
		Empty:  func(*http.Request) int { return http.StatusAccepted },
	}))
	mux.Handle("/ready", rpchttp.Ready(rpc))
	l, err := rpcx.Listen(ctx, "tcp://"+addr, nil)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: mux, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	fmt.Fprintf(out, "listening on http://%s/mcp\n", l.Addr())
	served := make(chan error, 1)
	// Owner: serveHTTP. End: Shutdown of web.
	go func() { served <- web.Serve(l) }()
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	ending, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	// First, /ready says no, and what runs is finished; then the listener is closed.
	return errors.Join(err, rpc.Shutdown(ending), web.Shutdown(ending))
}

// httpOptions returns the settings of all messages over HTTP.
func (srv *server) httpOptions() *rpcx.Options {
	opts := srv.options()
	opts.Gate = nil // "initialize" is a message like any other
	opts.Handler = srv.httpMethods()
	opts.Limits.ProcessingTimeout = 10 * time.Minute
	return opts
}

// httpMethods returns the handler of the messages over HTTP.
func (srv *server) httpMethods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("initialize", rpcx.Func(srv.initialize))
	router.Handle("notifications/initialized", rpcx.Func(func() {}))
	router.Handle("ping", rpcx.Func(ping))
	router.Handle("tools/list", rpcx.Func(srv.listTools))
	router.Handle("tools/call", rpcx.Func(srv.callTool))
	router.Handle("resources/list", rpcx.Func(srv.listNotes))
	router.Handle("resources/read", rpcx.Func(srv.readNote))
	return router
}

// checkVersion refuses a request in an unknown version of the protocol. Clients name the
// version in all requests behind "initialize".
func checkVersion(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		version := r.Header.Get("MCP-Protocol-Version")
		if version != "" && !slices.Contains(versions, version) {
			http.Error(w, "unknown MCP-Protocol-Version: want "+strings.Join(versions, " or "), http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// status returns the HTTP status of an error. What is no message of the protocol is a bad
// request for HTTP, too.
func status(_ *http.Request, e *rpcx.Error, _ rpcx.Protocol) int {
	if e.Code == rpcx.CodeParseError || e.Code == rpcx.CodeInvalidRequest {
		return http.StatusBadRequest
	}
	return http.StatusOK
}
