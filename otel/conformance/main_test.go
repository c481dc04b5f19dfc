// Package conformance_test compares the spans of package otelrpcx over all transports.
package conformance_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	natsrpcx "example.com/rpcx/nats"
	"example.com/rpcx/nats/embedded"
	otelrpcx "example.com/rpcx/otel"
	"example.com/rpcx/otel/internal/spantree"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// errNotAdmitted is the answer of a worker that admits nothing.
var errNotAdmitted = rpcx.Errorf(-32002, "not initialized")

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// site is an instrumented server, and a caller of its methods.
type site struct {
	spans  *tracetest.SpanRecorder
	tracer trace.Tracer          // of the program
	config otelrpcx.Config       // of both ends
	admit  func(*nats.Msg) error // of a worker; may be nil

	caller rpcx.Caller
	srv    *rpcx.Server
	steps  []func() // of close, the last first
	closed bool
}

// newSite returns a site whose ends trust each other.
func newSite(t *testing.T) *site {
	s := &site{spans: tracetest.NewSpanRecorder(), srv: new(rpcx.Server)}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans))
	s.tracer = provider.Tracer("program")
	s.config = otelrpcx.Config{
		TracerProvider: provider,
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		TrustPeer:      func(*rpcx.Session) bool { return true },
	}
	t.Cleanup(s.close)
	return s
}

// atClose adds a step of close.
func (s *site) atClose(step func()) { s.steps = append(s.steps, step) }

// close ends the caller and the server, and waits for the handlers.
func (s *site) close() {
	if s.closed {
		return
	}
	s.closed = true
	for i := len(s.steps) - 1; i >= 0; i-- {
		s.steps[i]()
	}
	s.srv.Close()
	_ = s.srv.Wait(context.Background())
}

// listen serves on a port of this machine until close, and returns the address.
func (s *site) listen(serve func(net.Listener), stop func()) string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan struct{})
	// Owner: the site. End: stop.
	go func() { defer close(served); serve(l) }()
	s.atClose(func() { stop(); <-served })
	return l.Addr().String()
}

// listenHTTP is listen for a web server.
func (s *site) listenHTTP(h http.Handler) string {
	web := &http.Server{Handler: h}
	return s.listen(func(l net.Listener) { web.Serve(l) }, func() { _ = web.Shutdown(context.Background()) })
}

// transport connects a caller to a server. The options are instrumented by instrument.
type transport struct {
	name string
	// meta is Options.Meta of both ends, or nil if the trace context travels in headers.
	meta *rpcx.Meta
	// session is set if the caller is a session, so that the server can call back.
	session bool
	connect func(t *testing.T, s *site, client *rpcx.Options)
}

var (
	overTCP       = transport{"TCP", rpcx.MemberMeta, true, connectTCP}
	overWebSocket = transport{"WebSocket", rpcx.MemberMeta, true, connectWebSocket}
	overHTTP      = transport{"HTTP", nil, false, connectHTTP}
	overNATS      = transport{"NATS", nil, false, connectNATS}
)

func connectTCP(t *testing.T, s *site, client *rpcx.Options) {
	addr := s.listen(func(l net.Listener) { s.srv.Serve(l) }, func() { s.srv.Close() })
	s.setSession(must(rpcx.Dial(t.Context(), "tcp://"+addr, client)))
}

func connectWebSocket(t *testing.T, s *site, client *rpcx.Options) {
	web := &http.Server{Handler: websocket.Handler(s.srv)}
	addr := s.listen(func(l net.Listener) { web.Serve(l) }, func() { s.srv.Close(); web.Close() })
	s.setSession(must(websocket.Dial(t.Context(), "ws://"+addr, client)))
}

func connectHTTP(t *testing.T, s *site, client *rpcx.Options) {
	addr := s.listenHTTP(&rpchttp.Handler{Server: s.srv, SSE: true})
	s.dialHTTP(addr, client)
}

// dialHTTP makes a client of HTTP the caller. idempotent are methods.
func (s *site) dialHTTP(addr string, client *rpcx.Options, idempotent ...string) {
	d := rpchttp.Dialer{CallHeader: otelrpcx.Headers(&s.config), Idempotent: func(m string) bool { return slices.Contains(idempotent, m) }}
	c := must(d.Dial("http://"+addr+"/rpc", client))
	s.caller = c
	s.atClose(func() { c.Close() })
}

func connectNATS(t *testing.T, s *site, client *rpcx.Options) {
	config := s.work(t)
	c := must(natsrpcx.Dial(config, client))
	s.caller = c
	s.atClose(func() { c.Close() })
}

// work makes the server a worker of a NATS server within the process, and returns the
// configuration of callers.
func (s *site) work(t *testing.T) natsrpcx.Config {
	bus := must(embedded.Start())
	s.atClose(bus.Close)
	config := natsrpcx.Config{Conn: bus.Conn, Header: otelrpcx.Headers(&s.config)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	worker := config
	worker.Conn, worker.Admit = must(bus.Connect()), s.admit
	// Owner: the site. End: stop, after the handlers.
	go func() { done <- natsrpcx.Serve(ctx, s.srv, worker) }()
	s.atClose(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		worker.Conn.Close()
	})
	awaitWorker(t, config)
	return config
}

// awaitWorker waits until the worker has announced its methods.
func awaitWorker(t *testing.T, c natsrpcx.Config) {
	probe := must(natsrpcx.Dial(c, nil))
	defer probe.Close()
	for t.Context().Err() == nil {
		if err := probe.Call(t.Context(), "ready", nil, nil); err == nil || errors.Is(err, errNotAdmitted) {
			return
		}
	}
}

// setSession makes a session the caller.
func (s *site) setSession(session *rpcx.Session) {
	s.caller = session
	s.atClose(func() { session.Close(); <-session.Done() })
}

// open returns a site with the given options, over the transport.
func (tr transport) open(t *testing.T, client, server rpcx.Options) *site {
	t.Helper()
	s := newSite(t)
	client.Meta, server.Meta = tr.meta, tr.meta
	if server.Gate != nil {
		s.admit = func(*nats.Msg) error { return errNotAdmitted }
	}
	s.srv.Options = *otelrpcx.Instrument(&server, &s.config)
	tr.connect(t, s, otelrpcx.Instrument(&client, &s.config))
	s.spans.Reset()
	return s
}

// want closes the site and checks the spans.
func (s *site) want(t *testing.T, tree string) {
	t.Helper()
	s.close()
	spantree.Check(t, s.spans, tree)
}

// each runs a subtest over each transport. A want for "" applies to the transports that are
// not named.
func each(t *testing.T, test func(t *testing.T, tr transport)) {
	for _, tr := range []transport{overTCP, overWebSocket, overHTTP, overNATS} {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			test(t, tr)
		})
	}
}

// trees are the wanted spans by transports, whose names are separated by commas.
type trees map[string]string

func (w trees) of(t *testing.T, tr transport) string {
	for names, tree := range w {
		if strings.Contains(","+names+",", ","+tr.name+",") {
			return tree
		}
	}
	t.Fatalf("no spans are wanted for %s", tr.name)
	return ""
}
