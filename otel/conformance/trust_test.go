package conformance_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	otelrpcx "example.com/rpcx/otel"
	"example.com/rpcx/rpchttp"
)

const (
	strangeTrace = "0af7651916cd43dd8448eb211c80319c"
	strangeSpan  = "b7ad6b7169203331"
)

// strangeFields are a trace context.
func strangeFields(flags string) map[string]string {
	return map[string]string{"traceparent": "00-" + strangeTrace + "-" + strangeSpan + "-" + flags, "tracestate": "a=b", "baggage": "user=root"}
}

// seen is what a handler finds in its context.
type seen struct {
	span    trace.SpanContext
	baggage string
}

// look calls a method of a server with the options of the site, over tr. The caller is not
// instrumented, and sends fields as a trace context: in the message if the transport has a
// place there, or else in headers.
func look(t *testing.T, s *site, tr transport, fields map[string]string) (got seen) {
	t.Helper()
	r := router(nil)
	r.Handle("look", rpcx.Func(func(ctx context.Context) {
		got = seen{trace.SpanContextFromContext(ctx), baggage.FromContext(ctx).String()}
	}))
	s.srv.Options = *otelrpcx.Instrument(&rpcx.Options{Handler: r, Meta: rpcx.MemberMeta}, &s.config)
	headers := func(context.Context) map[string]string { return fields }
	switch tr.name {
	case overHTTP.name:
		addr := s.listenHTTP(&rpchttp.Handler{Server: s.srv})
		d := rpchttp.Dialer{CallHeader: headers}
		c := must(d.Dial("http://"+addr, nil))
		s.caller = c
		s.atClose(func() { c.Close() })
	case overNATS.name:
		config := s.work(t)
		config.Header = headers
		c := must(natsrpcx.Dial(config, nil))
		s.caller = c
		s.atClose(func() { c.Close() })
	default:
		send := func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			for key, value := range fields {
				c.SetMeta(key, value)
			}
			return ctx, nil, nil
		}
		tr.connect(t, s, &rpcx.Options{Meta: rpcx.MemberMeta, OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){send}})
	}
	s.spans.Reset()
	if err := s.caller.Call(t.Context(), "look", nil, nil); err != nil {
		t.Error(err)
	}
	s.close()
	return got
}

// Neither the trace id, the sampled flag, the trace state nor the baggage of a stranger go
// on. A link has the ids.
func TestStrangersTraceDoesNotGoOn(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		for _, flags := range []string{"00", "01"} {
			s := newSite(t)
			s.config.TrustPeer = nil // the default
			got := look(t, s, tr, strangeFields(flags))
			if got.span.TraceID().String() == strangeTrace || !got.span.IsSampled() || got.span.TraceState().Len() != 0 || got.baggage != "" {
				t.Errorf("flags %s: %+v", flags, got)
			}
			s.want(t, `
		SERVER look jsonrpc.request.id=0 → a stranger's span`)
			link := s.spans.Ended()[0].Links()[0].SpanContext
			if link.TraceID().String() != strangeTrace || link.SpanID().String() != strangeSpan || link.IsSampled() || link.TraceState().Len() != 0 {
				t.Errorf("link %v", link)
			}
		}
	})
}

// A stranger's flag does not make a server record that samples by the parent.
func TestStrangersFlagDoesNotSample(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		s := newSite(t)
		s.config.TrustPeer = nil
		s.config.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
		if got := look(t, s, tr, strangeFields("01")); got.span.IsSampled() || len(s.spans.Ended()) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func TestTraceOfATrustedPeerGoesOn(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		for flags, recorded := range map[string]int{"00": 0, "01": 1} {
			s := newSite(t)
			got := look(t, s, tr, strangeFields(flags))
			if got.span.TraceID().String() != strangeTrace || got.span.IsSampled() != (recorded > 0) || got.span.TraceState().String() != "a=b" || got.baggage != "user=root" {
				t.Errorf("flags %s: %+v", flags, got)
			}
			if n := len(s.spans.Ended()); n != recorded {
				t.Errorf("flags %s: %d spans are recorded", flags, n)
			}
		}
	})
}

// Fields over 512 bytes are not read, and neither is baggage over 8,192.
func TestOversizeTraceContext(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		long := strings.Repeat("x", 9000)
		for _, test := range []struct {
			key, value  string
			wantBaggage int
			wantState   int
			wantTrace   bool
		}{
			{"baggage", "user=" + long[:8192-5], 8192, 3, true},
			{"baggage", "user=" + long[:8193-5], 0, 3, true},
			{"tracestate", "a=" + long[:256] + ",b=" + long[:251], 9, 512, true},
			{"tracestate", "a=" + long[:256] + ",b=" + long[:252], 9, 0, true},
			{"traceparent", "00-" + strangeTrace + "-" + strangeSpan + "-01-" + long[:512], 9, 0, false},
		} {
			s := newSite(t)
			fields := strangeFields("01")
			fields[test.key] = test.value
			got := look(t, s, tr, fields)
			if len(got.baggage) != test.wantBaggage || len(got.span.TraceState().String()) != test.wantState || (got.span.TraceID().String() == strangeTrace) != test.wantTrace {
				t.Errorf("%s of %d bytes: baggage of %d, state of %d, %v", test.key, len(test.value), len(got.baggage), len(got.span.TraceState().String()), got.span.TraceID())
			}
		}
	})
}

// Header lines of the same name are one list, and the limit is that of the list.
func TestHeaderLines(t *testing.T) {
	for n, want := range map[int]int{8192: 8192, 8193: 0} {
		s := newSite(t)
		var got seen
		r := router(nil)
		r.Handle("look", rpcx.Func(func(ctx context.Context) {
			got = seen{trace.SpanContextFromContext(ctx), baggage.FromContext(ctx).String()}
		}))
		s.srv.Options = *otelrpcx.Instrument(&rpcx.Options{Handler: r}, &s.config)
		body := strings.NewReader(`{"jsonrpc":"2.0","method":"look","id":1}`)
		req := must(http.NewRequestWithContext(t.Context(), "POST", "http://"+s.listenHTTP(&rpchttp.Handler{Server: s.srv}), body))
		req.Header = http.Header{
			"Content-Type": {"application/json"}, "Traceparent": {strangeFields("01")["traceparent"]}, "Tracestate": {"a=b", "c=d"},
			"Baggage": {"user=" + strings.Repeat("x", n-5-1-4), "k=vv"},
		}
		resp := must(http.DefaultClient.Do(req))
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		s.close()
		if resp.StatusCode != http.StatusOK || got.span.TraceState().String() != "a=b,c=d" || len(got.baggage) != want {
			t.Errorf("%s: state %q, baggage of %d bytes", resp.Status, got.span.TraceState(), len(got.baggage))
		}
	}
}

// fixedFields is a propagator of fields with fixed values.
type fixedFields map[string]string

func (f fixedFields) Inject(_ context.Context, c propagation.TextMapCarrier) {
	for key, value := range f {
		c.Set(key, value)
	}
}

func (f fixedFields) Extract(ctx context.Context, _ propagation.TextMapCarrier) context.Context {
	return ctx
}

func (f fixedFields) Fields() []string { return nil }

// Headers that are too long are not sent.
func TestOversizeHeadersAreNotSent(t *testing.T) {
	got := otelrpcx.Headers(&otelrpcx.Config{Propagator: fixedFields{
		"traceparent": strings.Repeat("p", 512), "tracestate": strings.Repeat("s", 513), "baggage": strings.Repeat("b", 8192),
	}})(context.Background())
	if len(got) != 2 || len(got["traceparent"]) != 512 || len(got["baggage"]) != 8192 {
		t.Errorf("%v", got)
	}
}
