package conformance_test

import (
	"context"
	"net"
	"net/http"
	"slices"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	otelrpcx "example.com/rpcx/otel"
	"example.com/rpcx/otel/internal/spantree"
	"example.com/rpcx/rpchttp"
)

// gateway makes the server of s a worker, and returns a server that forwards to it. The
// gateway trusts its clients if trusting is set; the worker trusts the gateway.
func (s *site) gateway(t *testing.T, trusting bool) *rpcx.Server {
	s.srv.Options = *otelrpcx.Instrument(&rpcx.Options{Handler: router(nil)}, &s.config)
	toWorkers := s.work(t)
	s.spans.Reset()
	edge := s.config
	edge.Methods = router(nil).Has
	if !trusting {
		edge.TrustPeer = nil
	}
	opts := &rpcx.Options{Handler: otelrpcx.InstrumentForward(natsrpcx.Forward(toWorkers), &edge), Meta: rpcx.MemberMeta, Order: rpcx.Sequential}
	return &rpcx.Server{Options: *otelrpcx.Instrument(opts, &edge)}
}

// connectTCPTo connects a session to srv.
func (s *site) connectTCPTo(t *testing.T, srv *rpcx.Server, client *rpcx.Options) {
	addr := s.listen(func(l net.Listener) { srv.Serve(l) }, func() { srv.Close(); _ = srv.Wait(context.Background()) })
	s.setSession(must(rpcx.Dial(t.Context(), "tcp://"+addr, client)))
}

// A gateway keeps the trace: client, gateway, worker.
func TestTreeThroughAGateway(t *testing.T) {
	t.Parallel()
	call := func(t *testing.T, s *site) {
		ctx, span := s.tracer.Start(t.Context(), "program")
		if sum, err := rpcx.Call[int](ctx, s.caller, "add", rpcx.Args{1, 2}); sum != 3 || err != nil {
			t.Error(sum, err)
		}
		if err := s.caller.Call(ctx, "refuse", nil, nil); err == nil {
			t.Error("no error")
		}
		var b rpcx.Batch
		b.Call("add", rpcx.Args{1, 2}, nil)
		b.Call("add", rpcx.Args{3, 4}, nil)
		if err := s.caller.SendBatch(ctx, &b); err != nil {
			t.Error(err)
		}
		span.End()
	}
	const tree = `
		program
			CLIENT add jsonrpc.request.id=0
				SERVER add jsonrpc.request.id=0
					CLIENT add
						SERVER add jsonrpc.request.id=0
			CLIENT refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7
				SERVER refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7
					CLIENT refuse error.type=7 rpc.status_code=7
						SERVER refuse error.type=7 jsonrpc.request.id=0 rpc.status_code=7
			jsonrpc batch rpcx.batch.size=2
				CLIENT add jsonrpc.request.id=2
					SERVER add jsonrpc.request.id=2 rpcx.batch.number=1 rpcx.batch.size=2
						CLIENT add
							SERVER add jsonrpc.request.id=0
				CLIENT add jsonrpc.request.id=3
					SERVER add jsonrpc.request.id=3 rpcx.batch.number=2 rpcx.batch.size=2
						CLIENT add
							SERVER add jsonrpc.request.id=0`
	t.Run("TCP", func(t *testing.T) {
		s := newSite(t)
		s.connectTCPTo(t, s.gateway(t, true), otelrpcx.Instrument(&rpcx.Options{Meta: rpcx.MemberMeta}, &s.config))
		call(t, s)
		s.want(t, tree)
	})
	t.Run("HTTP", func(t *testing.T) {
		s := newSite(t)
		srv := s.gateway(t, true)
		s.dialHTTP(s.listenHTTP(&rpchttp.Handler{Server: srv}), otelrpcx.Instrument(&rpcx.Options{Meta: rpcx.MemberMeta}, &s.config))
		call(t, s)
		s.want(t, tree)
	})
	t.Run("of a stranger", func(t *testing.T) {
		s := newSite(t)
		s.connectTCPTo(t, s.gateway(t, false), otelrpcx.Instrument(&rpcx.Options{Meta: rpcx.MemberMeta}, &s.config))
		if err := s.caller.Call(t.Context(), "add", rpcx.Args{1, 2}, nil); err != nil {
			t.Error(err)
		}
		s.want(t, `
		CLIENT add jsonrpc.request.id=0
		SERVER add jsonrpc.request.id=0 → client add
			CLIENT add
				SERVER add jsonrpc.request.id=0`)
	})
}

// With otelhttp at both ends, the spans of HTTP are between those of the call, whether or
// not the trace context also travels by CallHeader, and whether or not the peer is trusted:
// otelhttp decides by itself whom it trusts.
func TestTreeWithOtelhttp(t *testing.T) {
	for name, headers := range map[string]bool{"otelhttp's headers": false, "both": true} {
		for trust, trusts := range map[string]func(*rpcx.Session) bool{"trusted": func(*rpcx.Session) bool { return true }, "by default": nil} {
			t.Run(name+", "+trust, func(t *testing.T) {
				s := newSite(t)
				options := []otelhttp.Option{otelhttp.WithTracerProvider(s.config.TracerProvider), otelhttp.WithPropagators(s.config.Propagator)}
				server := s.config
				server.TrustPeer = trusts
				s.srv.Options = *otelrpcx.Instrument(&rpcx.Options{Handler: router(nil)}, &server)
				addr := s.listenHTTP(otelhttp.NewHandler(&rpchttp.Handler{Server: s.srv}, "rpc", options...))
				d := rpchttp.Dialer{Client: &http.Client{Transport: otelhttp.NewTransport(new(http.Transport), options...)}}
				if headers {
					d.CallHeader = otelrpcx.Headers(&s.config)
				}
				c := must(d.Dial("http://"+addr, otelrpcx.Instrument(nil, &s.config)))
				s.caller = c
				s.atClose(func() { c.Close(); d.Client.CloseIdleConnections() })
				if err := c.Call(t.Context(), "add", rpcx.Args{1, 2}, nil); err != nil {
					t.Error(err)
				}
				s.close()
				var names []string
				for _, line := range spantree.Lines(s.spans) {
					names = append(names, spantree.Name(line))
				}
				want := []string{"CLIENT add", "\tCLIENT HTTP POST", "\t\tSERVER POST", "\t\t\tSERVER add"}
				if !slices.Equal(names, want) {
					t.Errorf("spans: %q", names)
				}
			})
		}
	}
}
