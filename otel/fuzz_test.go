package otelrpcx_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
)

// FuzzStranger sends data about a request that is any JSON. The trace of a stranger never
// goes on, and the request is answered.
func FuzzStranger(f *testing.F) {
	f.Add(`{"traceparent":"` + strangeParent + `","tracestate":"a=b","baggage":"user=root"}`)
	f.Add(`{"traceparent":"\u00300-` + strangeTrace + `-b7ad6b7169203331-01"}`)
	f.Add(`{"traceparent":null,"tracestate":7,"baggage":["x"]}`)
	f.Add(`{"traceparent":"","traceparent":"\"\\"}`)
	f.Fuzz(func(t *testing.T, meta string) {
		if !json.Valid([]byte(meta)) || !utf8.ValidString(meta) || strings.ContainsAny(meta, "\r\n") {
			t.Skip("not a line of JSON")
		}
		tel := newTelemetry()
		tel.config.TrustPeer = nil
		var span trace.SpanContext
		var carried int
		r := rpcx.NewRouter()
		r.Handle("look", rpcx.Func(func(ctx context.Context) {
			span, carried = trace.SpanContextFromContext(ctx), baggage.FromContext(ctx).Len()
		}))
		srv := &rpcx.Server{Options: *tel.instrument(rpcx.Options{Handler: r})}
		here, there := net.Pipe()
		srv.ServeConn(there)
		fmt.Fprintf(here, `{"jsonrpc":"2.0","method":"look","id":1,"meta":%s}`+"\n", meta)
		if reply := bufio.NewScanner(here); !reply.Scan() || !strings.Contains(reply.Text(), `"result"`) {
			t.Errorf("reply %s", reply.Text())
		}
		here.Close()
		srv.Close()
		_ = srv.Wait(context.Background())
		if !span.IsSampled() || span.TraceState().Len() > 0 || carried > 0 || strings.Contains(strings.ToLower(meta), span.TraceID().String()) {
			t.Errorf("span context %v, %d members of baggage", span, carried)
		}
		for _, s := range tel.spans.Ended() {
			for _, link := range s.Links() {
				if link.SpanContext.IsSampled() || link.SpanContext.TraceState().Len() > 0 {
					t.Errorf("link %v", link)
				}
			}
		}
	})
}
