package rpcx

import (
	"context"
	"errors"
	"slices"

	"example.com/rpcx/internal/jsonscan"
)

// Cancellation is how one side tells the other, by a notification, that it does
// not want the reply to a request any more. JSON-RPC itself has none.
//
// With Options.Cancellation set, a call that is given up (its context ended, its
// time was over, [Future.Cancel]) is reported to the peer, if the outbox has room
// for that: it never delays the caller. A request that the peer reports is answered
// at once if it waits for a handler; if one runs, its context ends with
// [ErrPeerCancelled], and what it returns is sent, unless that is the context's
// error. A report is a message of its own: in a batch it is a notification like any
// other.
type Cancellation struct {
	// Method is the notification's.
	Method string
	// Param is the name of the param that holds the request's id; "" if the id
	// is the first of positional ones.
	Param string
	// Code is that of the error which a cancelled request is answered; 0 if it
	// is not answered at all.
	Code int
}

// LSPCancellation is the cancellation of the language server protocol.
var LSPCancellation = &Cancellation{Method: "$/cancelRequest", Param: "id", Code: -32800}

// MCPCancellation is the cancellation of the Model Context Protocol. A request that is
// cancelled is not answered. (A client must not cancel its "initialize".)
var MCPCancellation = &Cancellation{Method: "notifications/cancelled", Param: "requestId"}

// RPCCancellation is the cancellation for a protocol of one's own, between programs that
// both set it: a notification "rpc.cancel" with the request's id as its only param.
// JSON-RPC reserves names that begin with "rpc." for such extensions.
//
//	{"jsonrpc":"2.0","method":"rpc.cancel","params":[7]}
//	{"jsonrpc":"2.0","error":{"code":-32097,"message":"request cancelled"},"id":7}
var RPCCancellation = &Cancellation{Method: "rpc.cancel", Code: -32097}

// dialects are the cancellations that have names.
var dialects = []*Cancellation{LSPCancellation, MCPCancellation, RPCCancellation}

// isCancellation reports whether a notification of that method cancels in a dialect that
// has a name.
func isCancellation(method string) bool {
	return slices.ContainsFunc(dialects, func(c *Cancellation) bool { return c.Method == method })
}

// params returns those of the notification that cancels our call id.
func (c *Cancellation) params(id uint64) any {
	if c.Param == "" {
		return Args{id}
	}
	return map[string]uint64{c.Param: id}
}

// id finds the id in the params of such a notification, nil if there is none.
func (c *Cancellation) id(p Params) ID {
	if c.Param == "" {
		id, _ := (&jsonscan.Scanner{Data: p.Positional}).NextElement()
		return ID(id)
	}
	var vals [1][]byte
	s := jsonscan.Scanner{Data: p.Named}
	if len(p.Named) == 0 {
		return nil
	}
	if dup, ok := s.ScanMembers([]string{c.Param}, vals[:]); !ok || dup != 0 {
		return nil
	}
	return vals[0]
}

// tell reports to the peer that calls were given up.
func (s *Session) tell(ids []uint64) {
	for _, id := range ids {
		if !s.mention(s.cancel.Method, s.cancel.params(id), "cancellation cannot be sent") {
			return
		}
	}
}

// know keeps a request that arrived, to be found if it is cancelled. It is
// called under the lock.
func (s *Session) know(c *call) {
	if s.cancel != nil && !c.IsNotification() && !c.answered {
		s.requests[string(c.ID)] = c
	}
}

// settle says that nobody has to answer c any more. It is called under the lock.
func (c *call) settle(s *Session) {
	c.answered = true
	if s.cancel != nil && s.requests[string(c.ID)] == c {
		delete(s.requests, string(c.ID))
	}
}

// cancelled deals with the peer's report that it does not want the reply to a
// request any more. It is called by the reader.
func (s *Session) cancelled(id ID) {
	s.lock()
	c := s.requests[string(id)]
	if c != nil { // otherwise it has been answered meanwhile
		if silent := s.cancel.Code == 0; !c.isRunning() || silent {
			c.entry.cancel(s, c, s.cancellationError())
		}
		s.fx.endContext(c, ErrPeerCancelled) // of a handler that runs, or of the wait for one
	}
	s.unlock()
}

// cancellationError is what a cancelled request is answered, nil if it is not.
func (s *Session) cancellationError() *Error {
	if s.cancel.Code == 0 {
		return nil
	}
	return &Error{Code: s.cancel.Code, Message: "request cancelled"}
}

// gaveUp reports whether what the handler of c failed with is that it was cancelled.
func (c *call) gaveUp(err error) bool {
	return c.ctx.ended() == ErrPeerCancelled && errors.Is(err, context.Canceled)
}
