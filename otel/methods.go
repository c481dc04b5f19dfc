package otelrpcx

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// Names of attributes. The constants of the Go module of the conventions lag behind the
// conventions, so the names are here.
const (
	keySystem         = "rpc.system.name"
	keyMethod         = "rpc.method"
	keyMethodOriginal = "rpc.method_original"
	keyStatusCode     = "rpc.status_code"
	keyErrorType      = "error.type"
	keyRequestID      = "jsonrpc.request.id"
	keyVersion        = "jsonrpc.protocol.version"
	keyServerAddress  = "server.address"
	keyServerPort     = "server.port"
	keyPeerAddress    = "network.peer.address"
	keyPeerPort       = "network.peer.port"
	keyAttempt        = "rpcx.attempt"
	keyBatchSize      = "rpcx.batch.size"
	keyBatchNumber    = "rpcx.batch.number"
	keyLimit          = "rpcx.limit"
)

// system is the rpc.system.name, and the name of a span without a method.
const system = "jsonrpc"

var systemName = attribute.String(keySystem, system)

// direction holds the methods of the calls, or of the requests, of sessions.
type direction struct {
	role    rpcx.Role // of the sessions to which Config.ServerAddress applies
	plain   *telemetry.Methods[*method]
	located *telemetry.Methods[*method] // with server.address
}

// newDirection returns the methods of a direction. role is that of the sessions to which
// Config.ServerAddress applies.
func (in *instrumentation) newDirection(role rpcx.Role, known func(string) bool, hist metric.Float64Histogram) direction {
	kind := trace.SpanKindClient
	if role == rpcx.RoleServer {
		kind = trace.SpanKindServer
	}
	types := telemetry.NewTypes()
	methods := func(common ...attribute.KeyValue) *telemetry.Methods[*method] {
		return telemetry.NewMethods(in.MaxMethods, known, func(name string) *method {
			return newMethod(name, kind, hist, types, common)
		})
	}
	d := direction{role: role, plain: methods(systemName)}
	if in.ServerAddress != "" {
		d.located = methods(append(splitAddress(in.ServerAddress, keyServerAddress, keyServerPort), systemName)...)
	}
	return d
}

// of returns the method with the given name. s may be nil, for an exchange of this side.
func (d *direction) of(s *rpcx.Session, name string) *method {
	if d.located != nil && (s == nil || s.Role() == d.role) {
		return d.located.Get(name)
	}
	return d.plain.Get(name)
}

// method is what the spans and durations of a method have in common, in one direction.
type method struct {
	name      string // the method, or telemetry.Other
	spanName  string
	start     []trace.SpanStartOption
	attrs     []attribute.KeyValue
	durations metric.Float64Histogram
	success   []metric.RecordOption
	failures  *telemetry.Table[[]metric.RecordOption] // by error.type
	types     *telemetry.Table[string]                // error types with series of their own
}

func newMethod(name string, kind trace.SpanKind, hist metric.Float64Histogram, types *telemetry.Table[string], common []attribute.KeyValue) *method {
	attrs := append(slices.Clip(common), attribute.String(keyMethod, name))
	m := &method{
		name:      name,
		spanName:  name,
		start:     []trace.SpanStartOption{trace.WithSpanKind(kind)},
		attrs:     attrs,
		durations: hist,
		success:   []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attrs...))},
		types:     types,
	}
	if name == telemetry.Other {
		m.spanName = system
	}
	m.failures = telemetry.NewTable(2*telemetry.MaxCodes, func(failure string) []metric.RecordOption {
		all := append(slices.Clip(attrs), attribute.String(keyErrorType, failure))
		if _, err := strconv.Atoi(failure); err == nil {
			all = append(all, attribute.String(keyStatusCode, failure))
		}
		return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(all...))}
	})
	return m
}

// record records the duration of a call or request.
func (m *method) record(ctx context.Context, d time.Duration, o telemetry.Outcome) {
	options := m.success
	if o.Type != "" {
		options = m.failures.Get(m.types.Get(o.Type))
	}
	m.durations.Record(ctx, d.Seconds(), options...)
}

// describe adds the attributes of a call or request to a span that is recorded. s may be
// nil. original is the method in the message.
func (in *instrumentation) describe(span trace.Span, m *method, s *rpcx.Session, original string) {
	attrs := append(make([]attribute.KeyValue, 0, 8), m.attrs...)
	if m.name != original {
		attrs = append(attrs, attribute.String(keyMethodOriginal, bounded(original)))
	}
	protocol := in.protocol
	if s != nil {
		protocol = s.Protocol()
	}
	if protocol == nil || protocol == rpcx.JSONRPCv2 {
		attrs = append(attrs, attribute.String(keyVersion, "2.0"))
	}
	if s != nil {
		attrs = append(attrs, addrAttributes(s.RemoteAddr(), keyPeerAddress, keyPeerPort)...)
	}
	span.SetAttributes(attrs...)
}

// maxText is the length in bytes of the longest text from the peer in an attribute.
const maxText = 512

// bounded returns text, or its beginning if it is too long, in UTF-8. An exporter may drop
// all spans of an export if one text is not UTF-8.
func bounded(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "\uFFFD")
}

// addrAttributes returns the attributes of an address, which may be nil.
func addrAttributes(addr net.Addr, address, port string) []attribute.KeyValue {
	switch a := addr.(type) {
	case nil:
		return nil
	case *net.UnixAddr:
		if a.Name == "" {
			return nil
		}
		return []attribute.KeyValue{attribute.String(address, a.Name)}
	}
	return splitAddress(addr.String(), address, port)
}

// splitAddress returns the attributes of "host:port". Other texts have no port.
func splitAddress(text, address, port string) []attribute.KeyValue {
	host, number, err := net.SplitHostPort(text)
	n, notNumber := strconv.Atoi(number)
	if err != nil || notNumber != nil {
		return []attribute.KeyValue{attribute.String(address, text)}
	}
	return []attribute.KeyValue{attribute.String(address, host), attribute.Int(port, n)}
}
