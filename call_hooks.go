package rpcx

// OutgoingCall is a request or a notification of this side that is about to be encoded.
type OutgoingCall struct {
	Session      *Session // nil for a call without a session
	Method       string
	Params       any
	Notification bool
	Batch        *Batch         // the batch with the call; nil for a single call
	Meta         map[string]any // data about the call, sent as Options.Meta says
	Attempt      int            // number of the attempt, from 1
}
