package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"example.com/rpcx/nats/embedded"
	otelrpcx "example.com/rpcx/otel"
	"example.com/rpcx/rpchttp"
)

// shop is a service of several programs, in one process.
type shop struct {
	spans *tracetest.SpanRecorder
	stops []func() // the last first
}

// config returns the instrumentation of a program. The programs trust each other.
func (s *shop) config(program string) *otelrpcx.Config {
	return &otelrpcx.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans),
			sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", program)))),
		Propagator: propagation.TraceContext{},
		TrustPeer:  func(*rpcx.Session) bool { return true },
		Methods:    func(string) bool { return true },
	}
}

// listen serves on a port of this machine, and returns the address.
func (s *shop) listen(serve func(net.Listener), stop func()) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	// Owner: the shop. End: stop.
	go func() { defer close(done); serve(l) }()
	s.stops = append(s.stops, func() { stop(); <-done })
	return l.Addr().String(), nil
}

// serveTCP serves a router, and returns a session with it for the program caller.
func (s *shop) serveTCP(ctx context.Context, program string, h rpcx.Handler, caller string) (*rpcx.Session, error) {
	opts := &rpcx.Options{Handler: h, Meta: rpcx.MemberMeta}
	srv := &rpcx.Server{Options: *otelrpcx.Instrument(opts, s.config(program))}
	addr, err := s.listen(func(l net.Listener) { _ = srv.Serve(l) }, func() { srv.Close(); _ = srv.Wait(context.Background()) })
	if err != nil {
		return nil, err
	}
	session, err := rpcx.Dial(ctx, "tcp://"+addr, otelrpcx.Instrument(&rpcx.Options{Meta: rpcx.MemberMeta}, s.config(caller)))
	if err == nil {
		s.stops = append(s.stops, func() { _ = session.Shutdown(context.Background()) })
	}
	return session, err
}

// serveHTTP is serveTCP over HTTP.
func (s *shop) serveHTTP(program string, h rpcx.Handler, caller string) (*rpchttp.Client, error) {
	srv := &rpcx.Server{Options: *otelrpcx.Instrument(&rpcx.Options{Handler: h}, s.config(program))}
	web := &http.Server{Handler: &rpchttp.Handler{Server: srv}}
	addr, err := s.listen(func(l net.Listener) { _ = web.Serve(l) }, func() { _ = web.Shutdown(context.Background()) })
	if err != nil {
		return nil, err
	}
	d := rpchttp.Dialer{CallHeader: otelrpcx.Headers(s.config(caller))}
	client, err := d.Dial("http://"+addr, otelrpcx.Instrument(nil, s.config(caller)))
	if err == nil {
		s.stops = append(s.stops, func() { client.Close() })
	}
	return client, err
}

// stop ends the programs of the shop.
func (s *shop) stop() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
	s.stops = nil
}

// order has an order placed, and returns the spans: client, gateway, worker, and the
// services that the worker calls. Each unit of work takes the time unit.
func order(ctx context.Context, unit time.Duration) ([]sdktrace.ReadOnlySpan, error) {
	s := &shop{spans: tracetest.NewSpanRecorder()}
	defer s.stop()
	work := func(units int) { time.Sleep(time.Duration(units) * unit) }

	stock := rpcx.NewRouter()
	stock.Handle("stock.reserve", rpcx.Func(func(item string) { work(4 + 4*len(item)) }))
	toStock, err := s.serveTCP(ctx, "stock", stock, "worker")
	if err != nil {
		return nil, err
	}
	payment := rpcx.NewRouter()
	payment.Handle("card.charge", rpcx.Func(func(card string) error {
		work(15)
		if card == "old" {
			return rpcx.Errorf(7, "card expired")
		}
		return nil
	}))
	toPayment, err := s.serveHTTP("payment", payment, "worker")
	if err != nil {
		return nil, err
	}

	orders := rpcx.NewRouter()
	sent := make(chan struct{})
	stock.Handle("stock.ship", rpcx.Func(func(context.Context) { work(10); close(sent) }))
	orders.Handle("order.place", rpcx.Func(func(ctx context.Context) error {
		work(3)
		var b rpcx.Batch
		b.Call("stock.reserve", rpcx.Args{"tea"}, nil)
		b.Call("stock.reserve", rpcx.Args{"coffee"}, nil)
		if err := toStock.SendBatch(ctx, &b); err != nil {
			return err
		}
		err := toPayment.Call(ctx, "card.charge", rpcx.Args{"old"}, nil)
		if errors.Is(err, rpcx.Errorf(7, "")) {
			err = toPayment.Call(ctx, "card.charge", rpcx.Args{"new"}, nil)
		}
		if err != nil {
			return err
		}
		return toStock.Notify(ctx, "stock.ship", nil)
	}))
	gateway, err := s.forward(ctx, orders)
	if err != nil {
		return nil, err
	}
	session, err := s.serveTCP(ctx, "gateway", gateway, "client")
	if err != nil {
		return nil, err
	}
	for _, c := range []rpcx.Caller{toStock, toPayment, session} { // connections are open afterwards
		_ = c.Call(ctx, "hello", nil, nil)
	}
	s.spans.Reset()
	begin, span := s.config("client").TracerProvider.Tracer("client").Start(ctx, "buy")
	err = session.Call(begin, "order.place", nil, nil)
	span.End()
	if err == nil {
		<-sent
	}
	s.stop()
	return s.spans.Ended(), err
}

// forward makes orders the methods of a worker, and returns the handler of a gateway.
func (s *shop) forward(ctx context.Context, orders *rpcx.Router) (rpcx.Handler, error) {
	bus, err := embedded.Start()
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, bus.Close)
	conn, err := bus.Connect()
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, conn.Close)
	orders.Handle("ready", rpcx.Func(func() {}))
	srv := &rpcx.Server{Options: *otelrpcx.Instrument(&rpcx.Options{Handler: orders}, s.config("worker"))}
	working, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	// Owner: the shop. End: stop.
	go func() { defer close(done); _ = natsrpcx.Serve(working, srv, natsrpcx.Config{Conn: conn}) }()
	s.stops = append(s.stops, func() { stop(); <-done })
	gateway := natsrpcx.Config{Conn: bus.Conn, Header: otelrpcx.Headers(s.config("gateway"))}
	if err := awaitWorker(ctx, gateway); err != nil {
		return nil, err
	}
	return otelrpcx.InstrumentForward(natsrpcx.Forward(gateway), s.config("gateway")), nil
}

// awaitWorker waits until a worker answers.
func awaitWorker(ctx context.Context, c natsrpcx.Config) error {
	probe, err := natsrpcx.Dial(c, nil)
	if err != nil {
		return err
	}
	defer probe.Close()
	for ctx.Err() == nil {
		if err := probe.Call(ctx, "ready", nil, nil); err == nil {
			return nil
		}
	}
	return ctx.Err()
}
