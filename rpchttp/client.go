package rpchttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
)

// Client makes calls over HTTP. It is an [rpcx.Caller]: each call, notification or batch is
// the body of one POST, and the body of the response is the reply. The methods are those of
// [rpcx.Exchange], may be called from any goroutine, and [rpcx.Call], [rpcx.Remote] and
// [rpcx.BindProxy] take a Client. Limits.Outgoing bounds the requests at the same time, and
// so the connections. Messages have no order.
//
// # Errors
//
// The errors are those of [rpcx.Exchange.Call]. A reply in JSON-RPC counts whatever the
// status and the Content-Type. Without a reply, the error wraps a [*StatusError], except
// that other JSON with a status of success is a [*rpcx.ProtocolError]. If the body is
// empty, as with 204, a call fails with [rpcx.ErrNoResponse], and a notification succeeds.
// Written of the [rpcx.ConnectionError] is false only if the server has not received the
// whole message.
//
// # Repetition
//
// Within the call's context, and at most Dialer.Retries times, a message is sent again if
//
//   - the message was not sent as a whole: the server could not be reached, for example;
//   - the server has started nothing of the message: each call is [rpcx.Error.NotStarted],
//     and if the message has notifications, the status is 503;
//   - all methods of the message are Dialer.Idempotent, and the connection broke, or the
//     status was 429, or 502, 503 or 504 without a reply in JSON-RPC.
//
// The status alone is not enough: a proxy also answers 503 if a server breaks off after the
// server has received the request. Before, the Client waits as long as Retry-After asks
// for. If the wait would exceed Dialer.MaxRetryWait or the deadline of the context, the
// call fails at once. If a certificate is not trusted, or a name does not exist, the Client
// does not try again.
//
// # Progress
//
// The reply may be a stream of server-sent events: messages of the server before the
// response, and then the response, which ends the call. Options.Handler of the Client,
// inside Options.Middleware, is called with each notification, one after the other, before
// the call returns. If Handler is nil, the notifications are dropped, and the Client does
// not ask for events. The context has the values of the caller's context, so that a handler
// can tell calls apart. While a handler runs, the stream is not read. After the end of the
// call's context, a handler may still run. A request of the server is logged and dropped,
// since the Client cannot answer.
type Client struct {
	*rpcx.Exchange
}

var _ rpcx.Caller = (*Client)(nil)

// transport is the RoundTripper of a Client.
type transport struct {
	Dialer                // settings
	client   *http.Client // for the requests
	template http.Request // without a context and a body; its parts are shared unless copies is set
	copies   bool         // requests get copies of the template's parts, because others may change them
	protocol rpcx.Protocol
	maxBatch int
	events   eventHandler
	conns    *clientConns // of client, unless client is the user's
}

// newTransport returns a transport without a client.
func newTransport(d *Dialer, u *url.URL, opts *rpcx.Options) *transport {
	t := &transport{Dialer: *d, protocol: rpcx.JSONRPCv2, events: newEventHandler(opts), conns: newClientConns()}
	if opts != nil {
		t.maxBatch = opts.Limits.Batch
		if opts.Protocol != nil {
			t.protocol = opts.Protocol
		}
	}
	if t.maxBatch == 0 {
		t.maxBatch = 10_000
	}
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}
	if t.events.handler != nil {
		header.Set("Accept", "application/json, text/event-stream")
	}
	if d.Compress {
		header.Set("Accept-Encoding", "gzip")
	}
	for name, values := range d.Header {
		header[http.CanonicalHeaderKey(name)] = append([]string(nil), values...)
	}
	t.template = http.Request{Method: http.MethodPost, URL: u, Host: header.Get("Host"), Header: header}
	header.Del("Host")
	t.copies = d.Client != nil || d.Auth != nil || d.Compress || d.Meta || d.CallHeader != nil
	return t
}

// RoundTrip implements [rpcx.RoundTripper].
func (t *transport) RoundTrip(ctx context.Context, msg []byte) ([]byte, error) {
	content, compressed := t.compress(msg)
	for attempt := 0; ; attempt++ {
		o, err := t.post(ctx, msg, content, compressed)
		if attempt == t.retries() || !t.mayRepeat(msg, &o, err) || !t.waitToRepeat(ctx, attempt, &o, err) {
			return o.reply, err
		}
	}
}

// outcome is what a server has answered to a message.
type outcome struct {
	reply  []byte // nil for none
	status int
	header http.Header
}

// post sends msg once. content is msg as it is sent.
func (t *transport) post(ctx context.Context, msg, content []byte, compressed bool) (outcome, error) {
	d := newDelivery(content)
	if t.events.handler != nil {
		ctx, d.cancel = context.WithCancel(ctx)
		defer d.cancel()
	}
	r, err := t.newRequest(ctx, d, compressed)
	if err != nil {
		return outcome{}, &sendError{err: err, final: true}
	}
	response, err := t.client.Do(r)
	if err != nil {
		return outcome{}, d.errorFor(err)
	}
	defer response.Body.Close()
	o := outcome{status: response.StatusCode, header: response.Header}
	o.reply, err = t.readReply(ctx, response, d, msg)
	return o, err
}

// newRequest returns the request for d.
func (t *transport) newRequest(ctx context.Context, d *delivery, compressed bool) (*http.Request, error) {
	var r *http.Request
	if t.copies {
		r = t.template.Clone(ctx)
	} else {
		r = t.template.WithContext(ctx)
	}
	r.Body, r.GetBody, r.ContentLength = &d.first, d.newBody, int64(len(d.content))
	if compressed {
		r.Header.Set("Content-Encoding", "gzip")
	}
	if t.Meta {
		addTraceHeaders(ctx, r.Header)
	}
	if t.CallHeader != nil {
		if err := addCallHeaders(r, t.CallHeader(ctx)); err != nil {
			return nil, err
		}
	}
	if t.Auth != nil {
		if err := t.Auth(ctx, r); err != nil {
			return nil, err
		}
		d.rewind()
	}
	return r, nil
}

// Close implements [rpcx.RoundTripper].
func (t *transport) Close() error {
	t.conns.close()
	return nil
}

// decode decodes a message of either side.
func (t *transport) decode(m *rpcx.Message, text []byte) { t.protocol.Decode(m, text, t.maxBatch) }

// sendError is the error of a request without a response. It implements [rpcx.SentError].
type sendError struct {
	err   error
	sent  bool
	final bool // another attempt would fail in the same way
}

func (e *sendError) Error() string { return bounded.Text(e.err.Error()) }
func (e *sendError) Unwrap() error { return e.err }
func (e *sendError) Sent() bool    { return e.sent }

// errorFor returns the error for err, an error of http.Client.Do.
func (d *delivery) errorFor(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the URL, which may have secrets
	}
	e := &sendError{err: err, sent: d.sent.Load() && !closedWhileIdle(err), final: isFinal(err)}
	switch {
	case err == io.EOF:
		e.err = fmt.Errorf("the server has closed the connection: %w", err)
	case strings.Contains(err.Error(), "server response headers exceeded"):
		e.err = fmt.Errorf("%w (MaxResponseHeaderBytes of the Transport of Dialer.Client)", err)
	}
	return e
}
