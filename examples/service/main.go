// Service is a service to copy from: a board of short notes, which programs call over TCP,
// WebSockets and HTTP, operators watch, and colleagues try in a browser:
//
//	go run . -http 127.0.0.1:8080 -tcp 127.0.0.1:8888
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/sync/errgroup"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
	otelrpcx "example.com/rpcx/otel"
	promrpcx "example.com/rpcx/prometheus"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

func main() {
	httpAddr := flag.String("http", "127.0.0.1:8080", "`address` for HTTP and WebSockets")
	tcpAddr := flag.String("tcp", "127.0.0.1:8888", "`address` for TCP")
	notice := flag.Duration("notice", 2*time.Second, "how long /ready says no before the end, so that balancers notice")
	traces := flag.String("traces", os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "`place` for traces: stdout, or the URL of a collector; from OTEL_EXPORTER_OTLP_ENDPOINT")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	flush, err := startTracing(ctx, *traces)
	if err == nil {
		err = errors.Join(run(ctx, *httpAddr, *tcpAddr, *notice), flush(context.Background()))
	}
	if err != nil {
		slog.Error("the service has failed", "error", err)
		os.Exit(1)
	}
}

// run connects the parts, and serves until ctx ends. board.go has the methods.
func run(ctx context.Context, httpAddr, tcpAddr string, notice time.Duration) error {
	router := new(board).methods()
	discover := openrpc.Discover(router, openrpc.Info{Title: "Notes", Version: "1.0.0"}, nil)
	router.Handle("rpc.discover", discover) // the document of the methods, for programs
	srv := &rpcx.Server{                    // one for all transports, so that the limits hold for all together
		Options: rpcx.Options{
			Handler:      router,
			Cancellation: rpcx.LSPCancellation, // a caller gives up by "$/cancelRequest"
			Meta:         rpcx.MemberMeta,      // a request has the trace context in its member "meta"
			Logger:       slog.Default(),
		},
		ShutdownNotice: notice, ShutdownTimeout: 20 * time.Second, // then calls under way are cut off
	}
	metrics := promrpcx.New(srv, nil)
	prometheus.MustRegister(metrics)
	srv.Options = *otelrpcx.Instrument(metrics.Instrument(&srv.Options), // in any order
		&otelrpcx.Config{Propagator: propagation.TraceContext{}}) // the form of the trace context

	mux := http.NewServeMux()
	mux.Handle("/rpc", &rpchttp.Handler{Server: srv}) // a POST is a call
	mux.Handle("GET /rpc", websocket.Handler(srv))    // a GET becomes a WebSocket
	mux.Handle("GET /{$}", openrpc.Page(discover.Document, "ws:/rpc", "/rpc"))
	mux.Handle("GET /ready", rpchttp.Ready(srv))          // for balancers
	mux.Handle("GET /metrics", promhttp.Handler())        // for Prometheus
	web := &http.Server{Handler: rpchttp.CheckHosts(mux), // behind a proxy, add the names that clients know
		ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}
	overTCP, err := rpcx.Listen(ctx, "tcp://"+tcpAddr, nil)
	overHTTP, errHTTP := rpcx.Listen(ctx, "tcp://"+httpAddr, nil)
	if err = errors.Join(err, errHTTP); err != nil {
		return err // at once, because nothing is served yet: for example, an address in use
	}
	slog.Info("serving", "page", "http://"+overHTTP.Addr().String()+"/", "tcp", overTCP.Addr())
	// Both end with ctx, or if the other fails: the notice, no new clients, the last answers.
	serving, ctx := errgroup.WithContext(ctx)
	serving.Go(func() error { return srv.ServeContext(ctx, overTCP) })
	serving.Go(func() error { return websocket.ServeContext(ctx, srv, web, overHTTP) })
	return serving.Wait()
}

// startTracing sends spans to a place; "" means nowhere. flush sends those that wait.
func startTracing(ctx context.Context, place string) (flush func(context.Context) error, err error) {
	var exporter trace.SpanExporter
	switch place {
	case "":
		return func(context.Context) error { return nil }, nil
	case "stdout":
		exporter, err = stdouttrace.New()
	default: // the exporter reads further variables, such as OTEL_EXPORTER_OTLP_HEADERS
		exporter, err = otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(strings.TrimSuffix(place, "/")+"/v1/traces"))
	}
	if err != nil {
		return nil, err
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter, trace.WithBatchTimeout(time.Second), trace.WithExportTimeout(5*time.Second)))
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}
