package otelrpcx_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
)

const (
	strangeTrace  = "0af7651916cd43dd8448eb211c80319c"
	strangeParent = "00-" + strangeTrace + "-b7ad6b7169203331-01"
)

// seen is what a handler finds in its context.
type seen struct {
	span    trace.SpanContext
	baggage string
}

// ask lets a peer send one line to an instrumented server, and returns what the handler has
// found.
func ask(t *testing.T, config *otelrpcx.Config, line string) (got seen) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := rpcx.NewRouter()
		r.Handle("look", rpcx.Func(func(ctx context.Context) {
			got = seen{trace.SpanContextFromContext(ctx), baggage.FromContext(ctx).String()}
		}))
		srv := &rpcx.Server{Options: *otelrpcx.Instrument(&rpcx.Options{Handler: r, Meta: rpcx.MemberMeta}, config)}
		here, there := net.Pipe()
		srv.ServeConn(there)
		fmt.Fprintln(here, line)
		if reply := bufio.NewScanner(here); !reply.Scan() || !strings.Contains(reply.Text(), `"result"`) {
			t.Errorf("reply %s", reply.Text())
		}
		here.Close()
		srv.Close()
		_ = srv.Wait(context.Background())
	})
	return got
}

// lookWith returns a request with the given fields of a trace context.
func lookWith(fields ...string) string {
	var text strings.Builder
	text.WriteString(`{"jsonrpc":"2.0","method":"look","id":1,"meta":{`)
	for i := 0; i < len(fields); i += 2 {
		text.WriteString(fmt.Sprintf(`%q:%q,`, fields[i], fields[i+1]))
	}
	return strings.TrimSuffix(text.String(), ",") + "}}"
}

// Neither the trace id, the sampled flag, the trace state nor the baggage of a stranger go
// on. A link has the ids.
func TestStrangersTraceDoesNotGoOn(t *testing.T) {
	for _, flags := range []string{"00", "01"} {
		tel := newTelemetry()
		tel.config.TrustPeer = nil // the default
		got := ask(t, &tel.config, lookWith("traceparent", strings.TrimSuffix(strangeParent, "01")+flags, "tracestate", "a=b", "baggage", "user=root"))
		if got.span.TraceID().String() == strangeTrace || !got.span.IsSampled() || got.span.TraceState().Len() != 0 {
			t.Errorf("span context %v", got.span)
		}
		if got.baggage != "" {
			t.Errorf("baggage %q", got.baggage)
		}
		tel.wantTree(t, `
		SERVER look jsonrpc.request.id=1 → a stranger's span`)
		link := tel.spans.Ended()[0].Links()[0].SpanContext
		if link.TraceID().String() != strangeTrace || link.IsSampled() || link.TraceState().Len() != 0 || !link.IsRemote() {
			t.Errorf("link %v", link)
		}
	}
}

func TestTraceOfATrustedPeerGoesOn(t *testing.T) {
	for flags, recorded := range map[string]int{"00": 0, "01": 1} {
		tel := newTelemetry()
		got := ask(t, &tel.config, lookWith("traceparent", strings.TrimSuffix(strangeParent, "01")+flags, "tracestate", "a=b", "baggage", "user=root"))
		if got.span.TraceID().String() != strangeTrace || got.span.IsSampled() != (recorded > 0) || got.span.TraceState().String() != "a=b" || got.baggage != "user=root" {
			t.Errorf("%+v", got)
		}
		if n := len(tel.spans.Ended()); n != recorded {
			t.Errorf("%d spans are recorded", n)
		}
	}
}

// A trace context that is wrong or too long counts as missing.
func TestTraceContextThatIsWrong(t *testing.T) {
	long := strings.Repeat("x", 9000)
	for name, line := range map[string]string{
		"no trace context":     lookWith(),
		"no hexadecimal digit": lookWith("traceparent", strings.Replace(strangeParent, "0af", "xaf", 1)),
		"a long parent":        lookWith("traceparent", strangeParent+"-"+long[:512]),
		"a number":             `{"jsonrpc":"2.0","method":"look","id":1,"meta":{"traceparent":1}}`,
		"an object":            `{"jsonrpc":"2.0","method":"look","id":1,"meta":{"traceparent":{},"baggage":[]}}`,
		"meta is no object":    `{"jsonrpc":"2.0","method":"look","id":1,"meta":7}`,
		"long baggage":         lookWith("baggage", "user="+long),
	} {
		t.Run(name, func(t *testing.T) {
			tel := newTelemetry()
			if got := ask(t, &tel.config, line); got.span.TraceID().String() == strangeTrace || got.baggage != "" {
				t.Errorf("%+v", got)
			}
			tel.wantTree(t, `
		SERVER look jsonrpc.request.id=1`)
		})
	}
	t.Run("an escaped parent", func(t *testing.T) {
		tel := newTelemetry()
		if got := ask(t, &tel.config, strings.Replace(lookWith("traceparent", strangeParent), "00-", `\u00300-`, 1)); got.span.TraceID().String() != strangeTrace {
			t.Errorf("%+v", got)
		}
	})
	t.Run("baggage of the longest length", func(t *testing.T) {
		tel := newTelemetry()
		if got := ask(t, &tel.config, lookWith("baggage", "user="+long[:8192-5])); len(got.baggage) != 8192 {
			t.Errorf("%d bytes", len(got.baggage))
		}
	})
}

// fieldsOf returns the fields that a call of an instrumented session carries.
func fieldsOf(t *testing.T, role rpcx.Role, ctx func(*telemetry) context.Context, propagators ...propagation.TextMapPropagator) map[string]string {
	t.Helper()
	got := make(map[string]string)
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		tel.config.TrustPeer = nil
		for _, p := range propagators {
			tel.config.Propagator = p
		}
		here, there := net.Pipe()
		opts := tel.instrument(rpcx.Options{Role: role})
		s := rpcx.NewSession(here, opts)
		r := rpcx.NewRouter()
		r.Handle("look", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			for _, key := range []string{"traceparent", "tracestate", "baggage"} {
				if v := req.Meta(key); v != nil {
					got[key] = string(v)
				}
			}
			return nil, nil
		}))
		peer := rpcx.NewSession(there, &rpcx.Options{Handler: r, Meta: rpcx.MemberMeta})
		if err := s.Call(ctx(tel), "look", nil, nil); err != nil {
			t.Error(err)
		}
		s.Close()
		peer.Close()
		<-s.Done()
		<-peer.Done()
	})
	return got
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

// Fields that are too long are not sent.
func TestLongFieldsAreNotSent(t *testing.T) {
	got := fieldsOf(t, rpcx.RoleClient, func(tel *telemetry) context.Context { return context.Background() }, fixedFields{
		"traceparent": strings.Repeat("p", 512), "tracestate": strings.Repeat("s", 513), "baggage": strings.Repeat("b", 8192),
	})
	if len(got["traceparent"]) != 514 || got["tracestate"] != "" || len(got["baggage"]) != 8194 {
		t.Errorf("%v", got)
	}
}

// Baggage is sent to trusted peers only.
func TestBaggageForTrustedPeers(t *testing.T) {
	with := func(value string) func(*telemetry) context.Context {
		return func(*telemetry) context.Context {
			b := must(baggage.New(must(baggage.NewMember("user", value))))
			return baggage.ContextWithBaggage(context.Background(), b)
		}
	}
	for _, test := range []struct {
		name  string
		role  rpcx.Role
		value string
		want  string
	}{
		{"a dialled peer", rpcx.RoleClient, "root", `"user=root"`},
		{"a peer that has dialled", rpcx.RoleServer, "root", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := fieldsOf(t, test.role, with(test.value))
			if got["baggage"] != test.want || len(got["traceparent"]) != 57 {
				t.Errorf("%v", got)
			}
		})
	}
}
