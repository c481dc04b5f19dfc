package natsrpcx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"example.com/rpcx"
)

// Forward returns a handler that has requests answered by the workers of c. It makes a
// server a gateway: the server has the sessions of the clients, with a Gate, limits and
// costs, and the workers have the methods. A handler of the program's own may answer some
// methods itself and give the other requests to Forward:
//
//	forward := natsrpcx.Forward(config)
//	server := &rpcx.Server{Options: rpcx.Options{Handler: forward}}
//
// The handler waits for the worker, so Limits.Concurrency bounds the requests of a session
// that are under way. An error of a worker is passed on unchanged, and its cost is that of
// an error of a handler. The members of a client's batch are separate requests, and the
// data of Options.Meta, which the gateway takes out of a request, is not passed on. Clients
// may speak every JSON protocol. A MessagePack client, a plain message, and positional
// together with named params are refused.
//
// The handler subscribes to replies and announcements, until Conn is closed. Forward panics
// if c is invalid.
func Forward(c Config) rpcx.Handler {
	resolved, err := c.resolved()
	if err != nil {
		panic(err.Error())
	}
	r, err := newRequester(resolved)
	if err != nil {
		panic(err.Error())
	}
	return &forwarder{requester: r}
}

// forwarder is the handler of Forward.
type forwarder struct {
	requester *requester
	messages  sync.Pool // of *rpcx.Message
}

// forwardedID is the id of every request to a worker. The subject of the reply tells
// requests apart.
var forwardedID = rpcx.ID("0")

// ServeRPC implements [rpcx.Handler].
func (f *forwarder) ServeRPC(ctx context.Context, req *rpcx.Request) (any, error) {
	subject, ok := methodSubject(req.Method)
	if !ok {
		return nil, rpcx.MethodNotFound(req.Method) // no worker has such a method
	}
	params, err := forwardedParams(&req.Params)
	if err != nil {
		return nil, err
	}
	h, err := f.requester.headers(ctx, req.Session())
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 0, len(params)+len(req.Method)+64)
	if req.IsNotification() {
		msg, err := rpcx.JSONRPCv2.AppendNotification(buf, req.Method, params, rpcx.JSON)
		if err != nil {
			return nil, fmt.Errorf("forward a notification: %w", err)
		}
		return nil, f.requester.notify(ctx, subject, h, msg)
	}
	msg, err := rpcx.JSONRPCv2.AppendRequest(buf, forwardedID, req.Method, params, rpcx.JSON)
	if err != nil {
		return nil, fmt.Errorf("forward a request: %w", err)
	}
	reply, err := f.requester.request(ctx, subject, h, msg)
	if err != nil {
		if answer := f.requester.answerFor(subject, req.Method, err); answer != nil {
			return nil, answer
		}
		return nil, fmt.Errorf("forward a request: %w", err)
	}
	return f.decodeReply(reply.Data)
}

// errBothParams answers params that JSON-RPC cannot express.
var errBothParams = rpcx.InvalidParams("positional and named params together cannot be forwarded")

// forwardedParams returns p as the params of a request of JSON-RPC.
func forwardedParams(p *rpcx.Params) (json.RawMessage, error) {
	params := p.Positional
	switch {
	case p.Raw != nil:
		return nil, rpcx.InvalidRequest("a plain message cannot be forwarded")
	case isEmpty(p.Positional) && p.Named != nil:
		params = p.Named
	case !isEmpty(p.Positional) && !isEmpty(p.Named): // of aiomas
		return nil, errBothParams
	}
	if len(params) > 0 && params[0] != '[' && params[0] != '{' { // MessagePack
		return nil, rpcx.InvalidRequest("only JSON can be forwarded")
	}
	return params, nil
}

// isEmpty reports whether raw, an array or an object, has nothing in it.
func isEmpty(raw json.RawMessage) bool {
	return len(raw) <= len("[]") || len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
}

// decodeReply returns the result of a worker's reply. The result shares memory with reply.
func (f *forwarder) decodeReply(reply []byte) (any, error) {
	m, _ := f.messages.Get().(*rpcx.Message)
	if m == nil {
		m = new(rpcx.Message)
	}
	defer f.messages.Put(m)
	rpcx.JSONRPCv2.Decode(m, reply, 1)
	item := m.Items[0]
	m.Single() // keeps no part of reply
	switch {
	case m.Batch || item.Kind != rpcx.KindResponse:
		return nil, errors.New("the worker's reply is no response")
	case item.Err == nil:
		return item.Result, nil
	}
	if e, ok := item.Err.(*rpcx.Error); ok {
		return nil, e
	}
	return nil, fmt.Errorf("the worker's reply: %v", item.Err) // the client is not to blame
}
