package natsrpcx

import (
	"context"
	"errors"

	"example.com/rpcx"
	"github.com/nats-io/nats.go"
)

// Client makes calls that workers answer. It is an [rpcx.Caller]: each call, notification
// or batch is one NATS message. The methods are those of [rpcx.Exchange], may be called
// from any goroutine, and [rpcx.Call], [rpcx.Remote] and [rpcx.BindProxy] take a Client.
//
// Limits.Outgoing of the options, by default 50, is the maximum number of messages
// without a reply. Messages have no order. The package's comment has a table of the
// errors.
//
// Close ends the pending calls, and leaves Config.Conn open.
type Client struct {
	*rpcx.Exchange
}

var _ rpcx.Caller = (*Client)(nil)

// Dial returns a Client whose calls are answered by the workers of c. Workers speak
// JSON-RPC 2.0, so Options.Protocol is nil or [rpcx.JSONRPCv2]. [rpcx.NewExchange]
// describes which other options matter. Dial sends nothing.
func Dial(c Config, opts *rpcx.Options) (*Client, error) {
	resolved, err := c.resolved()
	if err != nil {
		return nil, err
	}
	if opts != nil && opts.Protocol != nil && opts.Protocol != rpcx.JSONRPCv2 {
		return nil, errors.New("natsrpcx: Options.Protocol is not JSONRPCv2, which the workers speak: leave it out")
	}
	r, err := newRequester(resolved)
	if err != nil {
		return nil, err
	}
	return &Client{rpcx.NewExchange(&transport{r}, opts)}, nil
}

// transport is the RoundTripper of a Client.
type transport struct{ requester *requester }

// RoundTrip implements [rpcx.RoundTripper].
func (t *transport) RoundTrip(ctx context.Context, msg []byte) ([]byte, error) {
	method, expectsReply := describe(msg)
	subject, ok := methodSubject(method)
	if !ok {
		return answer(rpcx.MethodNotFound(method)) // no worker has such a method
	}
	h, err := t.requester.headers(ctx, nil)
	if err != nil {
		return nil, &requestError{err: err}
	}
	if !expectsReply {
		return nil, t.requester.notify(ctx, subject, h, msg)
	}
	reply, err := t.requester.request(ctx, subject, h, msg)
	switch {
	case err == nil:
		return reply.Data, nil
	case errors.Is(err, errNoWorker):
		return answer(t.requester.answerFor(subject, method, err))
	}
	return nil, err
}

// answer returns a reply with e, which is the error of all calls of the message.
func answer(e *rpcx.Error) ([]byte, error) {
	return rpcx.JSONRPCv2.AppendError(nil, nil, e, rpcx.JSON)
}

// describe returns the first method in msg, and whether msg has calls.
func describe(msg []byte) (method string, expectsReply bool) {
	var m rpcx.Message
	rpcx.JSONRPCv2.Decode(&m, msg, 0)
	for _, item := range m.Items {
		if item.Kind == rpcx.KindRequest {
			expectsReply = true
			break
		}
	}
	return m.Items[0].Method, expectsReply
}

// Close implements [rpcx.RoundTripper].
func (t *transport) Close() error {
	t.requester.close()
	return nil
}

// Message returns the NATS message that a session of [Serve] answers: its headers are
// those of Config.Peer and Config.Header at the sender. For another session, the result
// is nil. Callers must not change the message. Limits.Group and Limits.Exempt may call
// Message, too.
func Message(s *rpcx.Session) *nats.Msg {
	if x, ok := s.Conn().(*exchange); ok {
		return x.msg
	}
	return nil
}
