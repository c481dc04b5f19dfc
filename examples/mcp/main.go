// Mcp is a server of the Model Context Protocol, 2025-11-25 and 2025-06-18, over standard
// input and output. The resources are notes. The tools count, and write notes. A client
// starts the program; MCP Inspector for example:
//
//	go build -o mcp ./examples/mcp
//	npx @modelcontextprotocol/inspector ./mcp
//
// With -http, the program serves streamable HTTP instead, for any number of clients:
//
//	go run ./examples/mcp -http 127.0.0.1:8891
//	npx @modelcontextprotocol/inspector --transport http --server-url http://127.0.0.1:8891/mcp
//
// The file main.go has the beginning of a session, tools.go the tools, resources.go the
// notes and their subscriptions, and http.go what is different over HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/rpcx"
)

func main() {
	step := flag.Duration("step", 100*time.Millisecond, "the time that the tool count takes for each number")
	addr := flag.String("http", "", "host:port to serve HTTP at, in place of standard input and output")
	flag.Parse()
	signal.Ignore(syscall.SIGPIPE) // standard error may be a pipe to the client
	srv := newServer(*step, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	serve := srv.serveStdio
	if *addr != "" {
		serve = func() error {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			context.AfterFunc(ctx, stop) // so that a second signal ends the program
			return srv.serveHTTP(ctx, os.Stdout, *addr)
		}
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "mcp:", err)
		os.Exit(1)
	}
}

// serveStdio serves the client that has started the program.
func (srv *server) serveStdio() error {
	s := rpcx.NewSession(rpcx.Stdio(), srv.options())
	<-s.Done() // the client closes the input
	if err := s.Err(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// versions are the supported versions of the protocol, the preferred one first.
var versions = []string{"2025-11-25", "2025-06-18"}

// levels are the levels of log messages, the lowest first.
var levels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// object is a JSON object.
type object = map[string]any

// empty is the result of a method without a result: {} for this protocol.
type empty struct{}

// server serves one client, or many over HTTP.
type server struct {
	step      time.Duration
	log       *slog.Logger
	stateless bool         // over HTTP: nothing is sent but answers and progress
	level     atomic.Int32 // the lowest level that the client wants, an index of levels
	notes     notes
}

func newServer(step time.Duration, log *slog.Logger) *server {
	srv := &server{step: step, log: log}
	srv.level.Store(int32(slices.Index(levels, "info")))
	srv.notes.text = map[string]string{noteURI("welcome"): "A note. The tool write changes it."}
	return srv
}

// options returns the settings of the session.
func (srv *server) options() *rpcx.Options {
	return &rpcx.Options{
		Gate:                srv.gate(),
		Handler:             srv.methods(),
		Cancellation:        rpcx.MCPCancellation,
		Correlations:        []*rpcx.Correlation{rpcx.MCPProgress},
		IgnoreUnknownParams: true, // clients say more than this server asks
		Logger:              srv.log,
		Limits: rpcx.Limits{
			ProcessingTimeout: -1,                     // the client decides how long a tool may take
			HalfClose:         500 * time.Millisecond, // the client has closed the input, and waits for the end
		},
	}
}

// gate returns the handler of the messages before "initialize".
func (srv *server) gate() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("initialize", rpcx.Func(srv.initialize))
	router.Handle("ping", rpcx.Func(ping))
	return router
}

// methods returns the handler of the messages after "initialize".
func (srv *server) methods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("notifications/initialized", rpcx.Func(func() {}))
	router.Handle("ping", rpcx.Func(ping))
	router.Handle("logging/setLevel", rpcx.Func(srv.setLevel))
	router.Handle("tools/list", rpcx.Func(srv.listTools))
	router.Handle("tools/call", rpcx.Func(srv.callTool))
	router.Handle("resources/list", rpcx.Func(srv.listNotes))
	router.Handle("resources/read", rpcx.Func(srv.readNote))
	router.Handle("resources/subscribe", rpcx.Func(srv.subscribe))
	router.Handle("resources/unsubscribe", rpcx.Func(srv.unsubscribe))
	return router
}

// initialize begins the session. The messages behind it wait, and go to the methods.
func (srv *server) initialize(_ context.Context, s *rpcx.Session, p struct {
	ProtocolVersion string `json:"protocolVersion"`
}) object {
	version := p.ProtocolVersion
	if !slices.Contains(versions, version) {
		version = versions[0] // the client decides whether it can speak that
	}
	s.Admit()
	capabilities := object{"tools": object{}, "resources": object{}}
	if !srv.stateless {
		capabilities["logging"] = object{}
		capabilities["resources"] = object{"subscribe": true, "listChanged": true}
	}
	return object{
		"protocolVersion": version,
		"serverInfo":      object{"name": "rpcx-example", "title": "Notes and numbers", "version": "1.0.0"},
		"capabilities":    capabilities,
	}
}

// ping answers at any time.
func ping() empty { return empty{} }

// setLevel says which log messages the client wants.
func (srv *server) setLevel(p struct {
	Level string `json:"level"`
}) (empty, error) {
	i := slices.Index(levels, p.Level)
	if i < 0 {
		return empty{}, rpcx.InvalidParams("unknown level %q", p.Level)
	}
	srv.level.Store(int32(i))
	return empty{}, nil
}

// tell sends a log message, if the client wants the level, and has room for news.
func (srv *server) tell(s *rpcx.Session, level, text string) {
	if srv.stateless || slices.Index(levels, level) < int(srv.level.Load()) {
		return
	}
	message := object{"level": level, "logger": "rpcx-example", "data": text}
	if _, err := s.TryNotify("notifications/message", message); err != nil {
		srv.log.Warn("no log message to the client", "err", err)
	}
}
