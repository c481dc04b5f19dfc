package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"example.com/rpcx/internal/bounded"
)

// Error codes. The first five codes come from JSON-RPC. The remaining codes come from
// aiorpcX, so that its peers understand this library.
const (
	CodeParseError     = -32700 // the message is no valid JSON or no UTF-8
	CodeInvalidRequest = -32600 // the message is not a valid request
	CodeMethodNotFound = -32601 // the method does not exist
	CodeInvalidParams  = -32602 // the arguments do not fit the method
	CodeInternalError  = -32603 // the handler failed

	CodeUnavailable            = -100 // the peer sent an error without a code
	CodeExcessiveResourceUsage = -101 // the session exceeded its resource limits
	CodeServerBusy             = -102 // too much work, over Limits.ProcessingTimeout, or shutting down
)

// Error is a JSON-RPC error. A handler returns an Error to send it to the peer. A call
// returns an Error if the peer answered with an error.
//
// Match errors by their code with [errors.Is]: errors.Is(err, rpcx.ErrMethodNotFound) is
// true for every *Error with Code [CodeMethodNotFound].
type Error struct {
	Code    int
	Message string
	// Data, if not nil, is sent as the error's "data" member. If Data cannot be encoded,
	// the failure is logged, and the error is sent without data.
	//
	// In a received error, Data is a json.RawMessage (see DecodeData), or nil without data.
	// With [Aiomas], Data is the traceback, a string. With [JSONRPCv1] and [JSONRPCLoose],
	// Data is the whole error, unless the error is an object with only code, message and
	// optional data.
	Data any
	// Cost is charged to the causing session, on top of the base cost of any error. Only
	// the answering side uses Cost, and never sends it.
	Cost float64
	// Hint is logged with the error, and never sent. It may say how the answering side
	// could allow the refused request. Errors of [Func] for missing or unknown params have
	// a hint.
	Hint string
}

// WithData returns a copy of e with data, for use in a single expression:
//
//	return nil, rpcx.Errorf(1, "out of stock").WithData(map[string]any{"item": id})
func (e *Error) WithData(data any) *Error {
	with := *e
	with.Data = data
	return &with
}

// DecodeData decodes the data of a received error into v, a pointer, as encoding/json does.
// Without data, v is unchanged.
//
//	if e, ok := errors.AsType[*rpcx.Error](err); ok && e.Code == 1 {
//		var stock struct{ Item string }
//		err := e.DecodeData(&stock)
//		…
//	}
func (e *Error) DecodeData(v any) error {
	if e.Data == nil {
		return nil
	}
	data, err := JSON.Append(nil, e.Data) // needed if this side made the error
	if err == nil {
		err = JSON.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("decode the data of error %d: %w", e.Code, bounded.Error(err))
	}
	return nil
}

// Errorf returns an [*Error] with the given code and a formatted message.
func Errorf(code int, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// InvalidParams returns an [*Error] with [CodeInvalidParams] and a formatted message.
func InvalidParams(format string, args ...any) *Error {
	return Errorf(CodeInvalidParams, format, args...)
}

// ParseError returns the [*Error] that answers invalid JSON.
func ParseError() *Error { return &Error{Code: CodeParseError, Message: textNotJSON} }

// InvalidRequest returns an [*Error] with [CodeInvalidRequest] and a formatted message.
func InvalidRequest(format string, args ...any) *Error {
	return Errorf(CodeInvalidRequest, format, args...)
}

// ExcessiveResourceUsage returns the [*Error] for a session that exceeded its resource
// limits.
func ExcessiveResourceUsage() *Error {
	return &Error{Code: CodeExcessiveResourceUsage, Message: "excessive resource usage"}
}

// MethodNotFound returns the [*Error] that answers a request for an unknown method. The
// message quotes the first 64 bytes of the method's name and, if the name is longer, its
// length.
func MethodNotFound(method string) *Error {
	return &Error{Code: CodeMethodNotFound, Message: `unknown method "` + excerpt(method) + `"`}
}

// InternalError returns the [*Error] that answers a request after its handler failed.
func InternalError() *Error {
	return &Error{Code: CodeInternalError, Message: "internal server error"}
}

// ServerBusy returns an [*Error] with [CodeServerBusy] and the message
// "server busy - " followed by why.
func ServerBusy(why string) *Error {
	return &Error{Code: CodeServerBusy, Message: "server busy - " + why}
}

// busyData is the JSON data of this library's own [CodeServerBusy] errors.
type busyData string

// MarshalJSON implements [json.Marshaler], for protocols and codecs that do not know the
// type.
func (d busyData) MarshalJSON() ([]byte, error) { return []byte(d), nil }

func serverBusy(why string, started bool, reason string) *Error {
	e := ServerBusy(why)
	e.Data = busyData(fmt.Sprintf(`{"started":%t,"reason":%q}`, started, reason))
	return e
}

// notStarted returns the error of a request whose handler was not called.
func notStarted(reason, why string) *Error {
	return serverBusy(why, false, reason)
}

// timedOut returns the error of a request at Limits.ProcessingTimeout. If running is false,
// the request has only waited in the queue.
func timedOut(running bool) *Error {
	if running {
		return serverBusy("request timed out", true, "timeout")
	}
	return notStarted("queue", "request timed out")
}

// NotStarted reports whether the peer says that the request's handler has not begun, so
// that the request may be repeated. The error then has [CodeServerBusy] and, as data, an
// object with "started": false. If the data lacks "started", the result is false. This
// library sends
//
//	{"started": false, "reason": "queue" | "sessions" | "shutting down" | "no worker"}
//	{"started": true, "reason": "timeout"}
//
// "queue" means that the queue was full (Limits.Queue), or that the request waited there
// until Limits.ProcessingTimeout. "sessions" means that a server had too many sessions for
// [Server.ServeMessage]. "no worker" comes from gateways, as does "connection lost", with
// "started": true: see package natsrpcx. After "timeout" the
// handler may still run.
func (e *Error) NotStarted() bool {
	if e == nil || e.Code != CodeServerBusy {
		return false
	}
	started, _ := e.busyDetails()
	return started != nil && !*started
}

// busyDetails returns the details in the data of a CodeServerBusy error: whether the
// handler was started, and the reason for the refusal. If the data has no "started",
// started is nil.
func (e *Error) busyDetails() (started *bool, reason string) {
	var data struct {
		Started *bool
		Reason  any
	}
	switch d := e.Data.(type) {
	case busyData:
		_ = json.Unmarshal([]byte(d), &data)
	case json.RawMessage:
		if json.Unmarshal(d, &data) != nil {
			return nil, ""
		}
	}
	reason, _ = data.Reason.(string)
	return data.Started, reason
}

// handlerTimedOut reports whether the peer says that the handler exceeded its time limit.
func (e *Error) handlerTimedOut() bool {
	if _, received := e.Data.(json.RawMessage); !received || e.Code != CodeServerBusy {
		return false
	}
	started, reason := e.busyDetails()
	return started != nil && *started && reason == "timeout"
}

// Error returns the message and the code. The message may come from a hostile peer, so
// unprintable characters are escaped. Of a message over 512 bytes, the text has the
// beginning and the length; Message has the whole. If the data says that the handler
// exceeded its time limit, so does the text.
func (e *Error) Error() string {
	text := bounded.Text(e.Message)
	if e.handlerTimedOut() {
		text += ", over the time that the peer has for a handler (Limits.ProcessingTimeout)"
	}
	return fmt.Sprintf("%s (code %d)", text, e.Code)
}

// Is reports whether target is an *Error with the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Sentinels for the codes, for matching with [errors.Is]. Handlers should not return the
// sentinels, but an [*Error] with a message.
var (
	ErrParseError             error = &Error{Code: CodeParseError, Message: "parse error"}
	ErrInvalidRequest         error = &Error{Code: CodeInvalidRequest, Message: "invalid request"}
	ErrMethodNotFound         error = &Error{Code: CodeMethodNotFound, Message: "method not found"}
	ErrInvalidParams          error = &Error{Code: CodeInvalidParams, Message: "invalid params"}
	ErrInternalError          error = &Error{Code: CodeInternalError, Message: "internal error"}
	ErrUnavailable            error = &Error{Code: CodeUnavailable, Message: "no error code given"}
	ErrExcessiveResourceUsage error = &Error{Code: CodeExcessiveResourceUsage, Message: "excessive resource usage"}
	ErrServerBusy             error = &Error{Code: CodeServerBusy, Message: "server busy"}
)

// Sentinels for the fate of sessions and calls. Errors of this package wrap the sentinels;
// match with [errors.Is].
var (
	// ErrClosed is the error of a session that is ending or has ended, and accepts no more
	// work.
	ErrClosed error = &closedError{"rpcx: session closed"}
	// ErrServerClosed is the result of a Server's Serve, ServeContext and ListenAndServe
	// after StopListening, Shutdown or Close, but not after the end of their context.
	ErrServerClosed error = &closedError{"rpcx: server closed"}
	// ErrInHandler is the error of a Shutdown, or of Server.Wait, under the context of a
	// handler or a derived context. Such a call would wait for the handler, and the handler
	// for the call.
	ErrInHandler = errors.New("rpcx: called by a handler that it would wait for: " +
		"return ReplyAndDisconnect to end the session, or shut down in a goroutine, with context.Background()")
	// ErrConnectionLost is matched by the [*ConnectionError] of a call whose connection
	// ended before the reply. If this side did not close the session, later calls match
	// both ErrClosed and ErrConnectionLost.
	ErrConnectionLost = errors.New("rpcx: connection lost")
	// ErrSlowPeer is the error of a session ended because the peer did not read. The
	// session's error wraps ErrSlowPeer and names the limit: Limits.SendTimeout,
	// Limits.Outbox or Server.MaxQueuedBytes.
	ErrSlowPeer = errors.New("rpcx: peer does not read")
	// ErrFaultyPeer is the error of a session ended because the peer sent too many faulty
	// messages.
	ErrFaultyPeer = errors.New("rpcx: peer sends too much that is wrong (Limits.PeerErrors)")
	// ErrIdle is the error of a session ended after Limits.IdleTimeout, or by
	// Server.CrowdedIdleTimeout.
	ErrIdle = errors.New("rpcx: session idle (Limits.IdleTimeout)")
	// ErrNotAdmitted is the error of a session with Options.Gate ended because too much arrived
	// before Session.Admit, or because Admit was not called in time. The session's error wraps
	// ErrNotAdmitted and names the limit: Limits.GateQueue, GateQueueBytes or GateTimeout.
	ErrNotAdmitted = errors.New("rpcx: session not admitted")
	// ErrServerFull is the error of a session ended to make room on its server: at
	// Server.MaxQueuedBytes, or near MaxSessions. The error also matches a [*FrameError],
	// ErrSlowPeer or ErrIdle, depending on the data held by the session. [Server.ServeMessage]
	// refuses messages with ErrServerFull.
	ErrServerFull = errors.New("rpcx: server is full")
	// ErrNoCallback is the error of a call to the peer of [Server.ServeMessage], and of a
	// notification if ServeMessage has no notify. Nothing is sent.
	ErrNoCallback = errors.New("rpcx: the peer cannot be called: a message without a connection has only its reply; notifications need a notify (Server.ServeMessage), or over HTTP a client that accepts text/event-stream (rpchttp.Handler.SSE)")
	// ErrUnreachable is the error of a session ended because the peer acknowledged nothing
	// for three times Limits.KeepAlive. Either the peer or the network is gone.
	ErrUnreachable = errors.New("rpcx: peer is unreachable (Limits.KeepAlive)")
	// ErrExcessiveCost, returned by a handler, ends the session as too costly.
	ErrExcessiveCost = errors.New("rpcx: excessive cost")
	// ErrPeerCancelled is the cause of a handler's context when the peer cancels the
	// request; see [Cancellation].
	ErrPeerCancelled error = &cancelledError{"rpcx: request cancelled by the peer"}
	// ErrTimeout is the error of a call without a reply within Limits.RequestTimeout. It
	// also matches context.DeadlineExceeded. If a bad message, such as an oversized
	// message, came while the call was pending, the call's error says so and wraps
	// ErrTimeout.
	ErrTimeout error = &timeoutError{"rpcx: request timed out (Limits.RequestTimeout)"}
	// ErrNoResponse is the error of a batch member without a response in the reply. The
	// error of a call on an [Exchange] without any reply matches ErrNoResponse.
	ErrNoResponse = errors.New("rpcx: no response to this member of the batch")
	// ErrNotDone is the error of a Future or a Task without an outcome yet.
	ErrNotDone = errors.New("rpcx: not done")
	// ErrCancelled is the error of a call abandoned by Future.Cancel. It also matches
	// context.Canceled.
	ErrCancelled error = &cancelledError{"rpcx: call cancelled"}
	// ErrBatchSent is the error of sending a Batch a second time.
	ErrBatchSent = errors.New("rpcx: batch was sent already")
)

// Sentinels for task groups.
var (
	// ErrTaskCancelled is the error of a task cancelled by Task.Cancel, or by the end of a
	// group that did not need the task. It also matches context.Canceled.
	ErrTaskCancelled error = &cancelledError{"rpcx: task cancelled"}
	// ErrTaskGroupJoined is the error of adding a task to a group that accepts no more
	// tasks.
	ErrTaskGroupJoined = errors.New("rpcx: task group was joined")
	// ErrTaskInGroup is the error of adding a task that is, or was, in a group.
	ErrTaskInGroup = errors.New("rpcx: task is in a group already")
	// ErrNoRemainingTasks is the error of a group whose tasks have been taken.
	ErrNoRemainingTasks = errors.New("rpcx: no tasks remain")
	// ErrNotJoined is the error of asking a group for its outcome before the join.
	ErrNotJoined = errors.New("rpcx: task group is not joined yet")
	// ErrNoTaskCompleted is the error of a joined group without a completed task; see
	// [TaskGroup.Completed].
	ErrNoTaskCompleted = errors.New("rpcx: no task completed")
)

// slowPeer returns ErrSlowPeer together with the exceeded limit.
func slowPeer(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSlowPeer}, args...)...)
}

// closedError is a sentinel wrapping net.ErrClosed.
type closedError struct{ text string }

func (e *closedError) Error() string { return e.text }
func (e *closedError) Unwrap() error { return net.ErrClosed }

// timeoutError is a sentinel matching context.DeadlineExceeded.
type timeoutError struct{ text string }

func (e *timeoutError) Error() string      { return e.text }
func (*timeoutError) Timeout() bool        { return true }
func (*timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// errProcessing is the cause of a handler's context at Limits.ProcessingTimeout.
var errProcessing error = &timeoutError{"rpcx: request timed out (Limits.ProcessingTimeout)"}

// cancelledError is a sentinel matching context.Canceled.
type cancelledError struct{ text string }

func (e *cancelledError) Error() string      { return e.text }
func (*cancelledError) Is(target error) bool { return target == context.Canceled }

// ConnectionError is the error of a call pending at the end of the connection, and of a
// [Stream]. It matches [ErrConnectionLost], and wraps the reason for the end.
type ConnectionError struct {
	// Written reports whether the whole request was handed to the connection. If true, the
	// peer may have handled the request. If false, the peer has not handled the request,
	// unless this side closed the session: queued messages are still written then. For a
	// stream, Written is true.
	Written bool
	// Err is the reason for the session's end: io.EOF if the peer closed the connection,
	// ErrClosed if this side did.
	Err error

	isStream    bool   // the text is that of a stream
	isRoundTrip bool   // the error of a RoundTripper
	message     uint64 // number of the message on its session, for the order of a Client's repetitions
}

func (e *ConnectionError) Error() string {
	how := "request not written"
	switch {
	case e.isRoundTrip && e.Written:
		return fmt.Sprintf("no reply to the request: %v", e.Err)
	case e.isRoundTrip:
		return fmt.Sprintf("request not sent: %v", e.Err)
	case e.isStream:
		how = "end of the stream"
	case e.Written:
		how = "request written, reply not received"
	}
	return fmt.Sprintf("connection lost (%s): %v", how, e.Err)
}

func (e *ConnectionError) Is(target error) bool { return target == ErrConnectionLost }
func (e *ConnectionError) Unwrap() error        { return e.Err }

// ProtocolError is a violation of the protocol, by a received message or by an outgoing
// message. Unsent marks an outgoing message, refused because the protocol cannot express
// the message.
type ProtocolError struct {
	Code    int // code of the answer, if the message is answered
	Message string
	// Unsent is set if the message is this side's, and was not sent.
	Unsent bool
	// Hint says how to fix a likely mistake of this side, or is empty. The text of Error
	// has the hint; the peer does not receive it.
	Hint string
}

func protocolError(code int, text string) *ProtocolError {
	return &ProtocolError{Code: code, Message: text}
}

func protocolErrorf(code int, format string, args ...any) *ProtocolError {
	return protocolError(code, fmt.Sprintf(format, args...))
}

// unsentf returns the error of an unsent outgoing message.
func unsentf(code int, format string, args ...any) *ProtocolError {
	return &ProtocolError{Code: code, Message: fmt.Sprintf(format, args...), Unsent: true}
}

// asUnsent returns err marked as the error of an outgoing message. A Protocol of another
// package may not set the mark.
func asUnsent(err error) error {
	if e, ok := err.(*ProtocolError); ok && !e.Unsent {
		marked := *e
		marked.Unsent = true
		return &marked
	}
	return err
}

// Error returns the message and the code, in the form of [Error.Error].
func (e *ProtocolError) Error() string {
	what, hint := "protocol error", e.Hint
	if e.Unsent {
		what = "message not sent"
	}
	if hint != "" {
		hint = "; " + hint
	}
	return fmt.Sprintf("%s: %s%s (code %d)", what, bounded.Text(e.Message), hint, e.Code)
}

// Is reports whether target is an *Error with the same code.
func (e *ProtocolError) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// unexpectedReply returns the error for a response that no call waits for; err is the error
// in the response.
func unexpectedReply(id ID, err error) *ProtocolError {
	if e, ok := err.(*Error); ok && id == nil {
		return protocolErrorf(CodeInvalidRequest, "diagnostic error received: %d %s", e.Code, excerpt(e.Message))
	}
	text := "null"
	if id != nil {
		text = excerpt(id)
	}
	return protocolError(CodeInvalidRequest, "response to unsent request (ID: "+text+")")
}

// FrameError is a violation of the framing of a byte stream.
type FrameError struct {
	// Message describes the violation. If Message does not name the field of the exceeded
	// limit, Error adds the name.
	Message string
	// Recoverable means that the session goes on: the bad message was dropped, and the
	// stream is in step again, or will be without further errors. Otherwise the session
	// ends with this error.
	Recoverable bool
	// Cost is charged to the session, on top of the base cost of any error.
	Cost float64
	// TooLarge is the limit exceeded by the message, or nil for another violation. If Start
	// identifies a request, its sender is told of the limit; if Start identifies a reply,
	// the call fails with the limit.
	TooLarge *SizeError
	// Start is the beginning of a dropped message, up to [StartSize] bytes. The error owns
	// the slice.
	Start []byte
	// Answer is sent to the peer before the session ends or goes on. If nil, the session
	// sends nothing, or an error made from TooLarge.
	Answer *Error
}

// Error returns the message, in the form of [Error.Error].
func (e *FrameError) Error() string { return "framing error: " + bounded.Text(e.textWithLimit()) }

// textWithLimit returns the message with the field of the exceeded limit.
func (e *FrameError) textWithLimit() string {
	if e.TooLarge == nil || e.TooLarge.Field == "" || strings.Contains(e.Message, e.TooLarge.Field) {
		return e.Message
	}
	return e.Message + " (" + e.TooLarge.Field + ")"
}

// Unwrap returns TooLarge.
func (e *FrameError) Unwrap() error {
	if e.TooLarge == nil {
		return nil
	}
	return e.TooLarge
}

// SizeError is the error of a message over the limit of this end's framer or [MessageConn].
// An unsent message has this error, and a call whose reply was dropped.
type SizeError struct {
	Size  int    // message size in bytes; 0 if the message was dropped before its end
	Limit int    // in bytes
	Field string // name of the limit's field, such as "NewlineFramer.MaxSize"
}

func (e *SizeError) Error() string {
	size := "message"
	if e.Size > 0 {
		size += " of " + thousands(e.Size) + " bytes"
	}
	return size + " is too large: " + overLimitText(e.Limit, "bytes", e.Field) + ", to be raised at both ends"
}

// excerpt returns the peer's text in the form of errors and logs: at most 64 bytes, and the
// length of a longer text.
func excerpt[T ~string | ~[]byte](text T) string { return bounded.Excerpt(text) }

// overLimitText names the exceeded limit, in the same form as all errors.
func overLimitText(limit int, unit, field string) string { return bounded.Over(limit, unit, field) }

// thousands formats n with a comma between thousands.
func thousands(n int) string { return bounded.Thousands(n) }

// trimPrefix returns the text of err without the sentinels' prefix "rpcx: ".
func trimPrefix(err error) string { return strings.TrimPrefix(err.Error(), "rpcx: ") }
