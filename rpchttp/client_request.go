package rpchttp

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"example.com/rpcx"
)

// delivery is an attempt to send a message, and to read the reply. It finds out whether the
// server may have received the message.
type delivery struct {
	content []byte
	first   messageBody // the first body of the request
	reply   replyReader
	cancel  context.CancelFunc // ends the request; nil unless the Client asks for events
	// sent is set when the HTTP transport has read the last byte of the content. The
	// server may have the whole message from then on, and not before.
	sent atomic.Bool
}

func newDelivery(content []byte) *delivery {
	d := &delivery{content: content}
	d.first.delivery = d
	return d
}

// rewind makes d ready for sending after Dialer.Auth, which may have read the body.
func (d *delivery) rewind() {
	d.first.read = 0
	d.sent.Store(false)
}

// newBody is GetBody of the request. package http calls it to send the message again:
// after a redirect, or if nothing was written to a connection, or if HTTP/2 says that the
// server has ignored the request.
func (d *delivery) newBody() (io.ReadCloser, error) { return &messageBody{delivery: d}, nil }

// messageBody is the body of a request.
type messageBody struct {
	delivery *delivery
	read     int // bytes
}

func (b *messageBody) Read(p []byte) (int, error) {
	content := b.delivery.content
	n := copy(p, content[b.read:])
	b.read += n
	if b.read < len(content) {
		return n, nil
	}
	b.delivery.sent.Store(true)
	return n, io.EOF
}

func (b *messageBody) Close() error { return nil }

// closedWhileIdle reports whether err means that the server had closed an idle connection
// before anything was written. package http does not export the error.
func closedWhileIdle(err error) bool {
	return err.Error() == "http: server closed idle connection"
}

// isFinal reports whether err, an error of sending, would come again.
func isFinal(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	name, ok := errors.AsType[*net.DNSError](err)
	return ok && name.IsNotFound
}

// compressFrom is the size of the smallest message that is compressed, in bytes. A smaller
// message fits into one packet anyway.
const compressFrom = 1 << 10

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	return w
}}

// compress returns msg as it is sent, and whether it is compressed.
func (t *transport) compress(msg []byte) (content []byte, compressed bool) {
	if !t.Compress || len(msg) < compressFrom {
		return msg, false
	}
	var b bytes.Buffer
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&b)
	w.Write(msg) // a Buffer has no errors
	w.Close()
	w.Reset(io.Discard) // the pool must not keep b
	if b.Len() >= len(msg) {
		return msg, false
	}
	return b.Bytes(), true
}

// traceHeaders is the trace context of a message, for Dialer.Meta.
type traceHeaders struct{ parent, state string }

// traceKey is the context key of a *traceHeaders.
type traceKey struct{}

// withTraceHeaders returns a copy of opts with functions that put the trace context of
// calls into their contexts. The functions come last, so that they see the values of the
// others.
func withTraceHeaders(opts *rpcx.Options) *rpcx.Options {
	var own rpcx.Options
	if opts != nil {
		own = *opts
	}
	own.OnCall = append(own.OnCall[:len(own.OnCall):len(own.OnCall)], traceOfCall)
	own.OnBatchCall = append(own.OnBatchCall[:len(own.OnBatchCall):len(own.OnBatchCall)], traceOfBatch)
	return &own
}

// traceOfBatch is a function of Options.OnBatchCall. It makes room for the trace context of
// a member, whose own context does not reach the RoundTripper.
func traceOfBatch(ctx context.Context, _ *rpcx.Session, _ *rpcx.Batch) (context.Context, func(error)) {
	return context.WithValue(ctx, traceKey{}, new(traceHeaders)), nil
}

// traceOfCall is a function of Options.OnCall.
func traceOfCall(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
	var h traceHeaders
	h.parent, _ = c.Meta["traceparent"].(string)
	h.state, _ = c.Meta["tracestate"].(string)
	outer, _ := ctx.Value(traceKey{}).(*traceHeaders)
	switch {
	case outer != nil && c.Batch != nil:
		if outer.parent == "" {
			*outer = h
		}
	case outer != nil || h.parent != "": // outer is that of a call whose handler makes this call
		ctx = context.WithValue(ctx, traceKey{}, &h)
	}
	return ctx, nil, nil
}

// addTraceHeaders adds the trace context in ctx to header.
func addTraceHeaders(ctx context.Context, header http.Header) {
	h, _ := ctx.Value(traceKey{}).(*traceHeaders)
	if h == nil || h.parent == "" || !isHeaderText(h.parent) {
		return
	}
	header.Set("Traceparent", h.parent)
	if h.state != "" && isHeaderText(h.state) {
		header.Set("Tracestate", h.state)
	}
}

// addCallHeaders adds the result of Dialer.CallHeader to r.
func addCallHeaders(r *http.Request, values map[string]string) error {
	for name, value := range values {
		if !isHeaderText(value) {
			return fmt.Errorf("Dialer.CallHeader has returned the header %q with a character that no header can have", name)
		}
		if http.CanonicalHeaderKey(name) == "Host" { // package http ignores it in the headers
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	return nil
}

// isHeaderText reports whether text can be the value of a header as it is.
func isHeaderText(text string) bool {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
