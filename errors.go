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

// Error codes. The first five are JSON-RPC's own; the rest are this library's
// (taken over from aiorpcX, so that its peers understand them).
const (
	CodeParseError     = -32700 // the message is no valid JSON or no UTF-8
	CodeInvalidRequest = -32600 // the message is no valid request
	CodeMethodNotFound = -32601 // there is no such method
	CodeInvalidParams  = -32602 // the arguments do not fit the method
	CodeInternalError  = -32603 // the handler failed

	CodeUnavailable            = -100 // the peer sent an error without a code
	CodeExcessiveResourceUsage = -101 // the session used more than it may
	CodeServerBusy             = -102 // too much work, over Limits.ProcessingTimeout, or shutting down
)

// Error is a JSON-RPC error: what a handler returns to have it sent to the
// peer, and what a call returns that the peer answered with an error.
//
// Match errors by their code with [errors.Is]: errors.Is(err,
// rpcx.ErrMethodNotFound) is true for every *Error whose Code is
// [CodeMethodNotFound].
type Error struct {
	Code    int
	Message string
	// Data is sent as the error's "data" member if it is not nil. If it cannot be encoded,
	// that is logged, and the error sent without it. In an error
	// that was received it is a json.RawMessage (see DecodeData), or nil if there was none; by [Aiomas],
	// the traceback, a string. By [JSONRPCv1] and [JSONRPCLoose] it is the whole error
	// if that is not an object with a code, a message and nothing else but data.
	Data any
	// Cost is what this error costs the session that caused it, beyond the
	// base cost of any error. It is for the side that answers and is never sent.
	Cost float64
	// Hint is logged with the error, and never sent: how the side that answers could
	// allow what is refused, for example. An error of [Func] has one if params are
	// missing or unknown.
	Hint string
}

// WithData returns a copy of e that has data, to be returned in one expression:
//
//	return nil, rpcx.Errorf(1, "out of stock").WithData(map[string]any{"item": id})
func (e *Error) WithData(data any) *Error {
	with := *e
	with.Data = data
	return &with
}

// DecodeData decodes the data of an error that the peer has sent into v, a pointer, as
// encoding/json does. If there is no data, v is left as it is.
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
	data, err := JSON.Append(nil, e.Data) // which Data of this side's own needs
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

// ParseError returns the [*Error] that answers what is no valid JSON.
func ParseError() *Error { return &Error{Code: CodeParseError, Message: textNotJSON} }

// InvalidRequest returns an [*Error] with [CodeInvalidRequest] and a formatted message.
func InvalidRequest(format string, args ...any) *Error {
	return Errorf(CodeInvalidRequest, format, args...)
}

// ExcessiveResourceUsage returns the [*Error] for a session that used too much.
func ExcessiveResourceUsage() *Error {
	return &Error{Code: CodeExcessiveResourceUsage, Message: "excessive resource usage"}
}

// MethodNotFound returns the [*Error] that answers a request for a method
// that does not exist. Its message repeats the first 64 bytes of the method's name
// and, if there are more, the length of the name.
func MethodNotFound(method string) *Error {
	return &Error{Code: CodeMethodNotFound, Message: `unknown method "` + excerpt(method) + `"`}
}

// InternalError returns the [*Error] that answers a request whose handler failed.
func InternalError() *Error {
	return &Error{Code: CodeInternalError, Message: "internal server error"}
}

// ServerBusy returns an [*Error] with [CodeServerBusy] and the message
// "server busy - " followed by why.
func ServerBusy(why string) *Error {
	return &Error{Code: CodeServerBusy, Message: "server busy - " + why}
}

// busyData is the data of this library's own errors with [CodeServerBusy], as JSON.
type busyData string

// MarshalJSON is for protocols and codecs that do not know the type.
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

// timedOut returns the error of a request at Limits.ProcessingTimeout. One that was
// not begun has only waited in the queue.
func timedOut(running bool) *Error {
	if running {
		return serverBusy("request timed out", true, "timeout")
	}
	return notStarted("queue", "request timed out")
}

// NotStarted reports whether the peer says that it has not begun to handle the request,
// which may be repeated then: an error with [CodeServerBusy] whose data is an object
// with "started": false. It is false where the data does not say so. This library sends
//
//	{"started": false, "reason": "queue" | "shutting down" | "no worker"}
//	{"started": true, "reason": "timeout"}
//
// where "queue" is that there was no room (Limits.Queue), or that it waited for a handler
// until Limits.ProcessingTimeout; "no worker" is kept for gateways; and after "timeout" its
// handler may still run.
func (e *Error) NotStarted() bool {
	if e == nil || e.Code != CodeServerBusy {
		return false
	}
	started, _ := e.busyDetails()
	return started != nil && !*started
}

// busyDetails returns what the data of an error with CodeServerBusy says: whether the request was
// begun, nil if the data does not say so, and why the request was refused.
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

// handlerTimedOut reports whether the peer says that the time of the handler was over.
func (e *Error) handlerTimedOut() bool {
	if _, received := e.Data.(json.RawMessage); !received || e.Code != CodeServerBusy {
		return false
	}
	started, reason := e.busyDetails()
	return started != nil && *started && reason == "timeout"
}

// Error returns the message and the code. It writes characters that cannot be printed
// as escape sequences, and of a message over 512 bytes only the beginning and the
// length: the message may be a hostile peer's. Message has the whole of it. If the data
// says that the time of the handler was over, the text says so.
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

// Sentinels for the codes, to be matched with [errors.Is]. They are not meant
// to be returned by handlers: build an [*Error] with a message for that.
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

// Sentinels for what happens to sessions and calls. Errors that this package
// returns wrap them; match with [errors.Is].
var (
	// ErrClosed says that the session is over (or ending) and takes no more work.
	ErrClosed error = &closedError{"rpcx: session closed"}
	// ErrServerClosed is returned by a Server's Serve, ServeContext and ListenAndServe
	// after StopListening, Shutdown or Close, not at the end of their context.
	ErrServerClosed error = &closedError{"rpcx: server closed"}
	// ErrInHandler is returned by a Shutdown, and by Server.Wait, whose context is that of
	// a handler that it would wait for, or is made from it: neither would ever end.
	ErrInHandler = errors.New("rpcx: called by a handler that it would wait for: " +
		"return ReplyAndDisconnect to end the session, or shut down in a goroutine, with context.Background()")
	// ErrConnectionLost says that the connection ended before the reply came;
	// the error is a [*ConnectionError].
	ErrConnectionLost = errors.New("rpcx: connection lost")
	// ErrSlowPeer says that the session was ended because its peer did not read. The
	// session's error wraps it, and names the limit: Limits.SendTimeout, Limits.Outbox or
	// Server.MaxQueuedBytes.
	ErrSlowPeer = errors.New("rpcx: peer does not read")
	// ErrFaultyPeer says that the session was ended because too much of what its peer
	// sent was wrong.
	ErrFaultyPeer = errors.New("rpcx: peer sends too much that is wrong (Limits.PeerErrors)")
	// ErrIdle says that the session was ended after Limits.IdleTimeout, or by
	// Server.CrowdedIdleTimeout.
	ErrIdle = errors.New("rpcx: session idle (Limits.IdleTimeout)")
	// ErrServerFull says that the server ended the session to make room for others: at
	// Server.MaxQueuedBytes or near MaxSessions. The error matches a [*FrameError],
	// ErrSlowPeer or ErrIdle, too: for what the session held.
	ErrServerFull = errors.New("rpcx: server is full")
	// ErrUnreachable says that the session was ended because the peer has acknowledged
	// nothing for three times Limits.KeepAlive: it or the network is gone.
	ErrUnreachable = errors.New("rpcx: peer is unreachable (Limits.KeepAlive)")
	// ErrExcessiveCost, returned by a handler, has the session end as one whose
	// cost is too high.
	ErrExcessiveCost = errors.New("rpcx: excessive cost")
	// ErrPeerCancelled is the cause with which a handler's context ends when the
	// peer cancels the request; see [Cancellation].
	ErrPeerCancelled error = &cancelledError{"rpcx: request cancelled by the peer"}
	// ErrTimeout says that Limits.RequestTimeout passed without a reply. It
	// matches context.DeadlineExceeded too. If a bad message came while the call was
	// pending, such as one that was too large, the error of the call wraps ErrTimeout and
	// says so.
	ErrTimeout error = &timeoutError{"rpcx: request timed out (Limits.RequestTimeout)"}
	// ErrNoResponse says that a batch was answered without this member of it.
	ErrNoResponse = errors.New("rpcx: no response to this member of the batch")
	// ErrNotDone says that a Future or a Task has no outcome yet.
	ErrNotDone = errors.New("rpcx: not done")
	// ErrCancelled says that a call was given up by Future.Cancel. It matches
	// context.Canceled too.
	ErrCancelled error = &cancelledError{"rpcx: call cancelled"}
	// ErrBatchSent says that a Batch was sent a second time.
	ErrBatchSent = errors.New("rpcx: batch was sent already")
)

// Sentinels of task groups.
var (
	// ErrTaskCancelled says that a task was cancelled: by Task.Cancel, or because
	// its group ended and did not need it. It matches context.Canceled too.
	ErrTaskCancelled error = &cancelledError{"rpcx: task cancelled"}
	// ErrTaskGroupJoined says that a group takes no tasks any more.
	ErrTaskGroupJoined = errors.New("rpcx: task group was joined")
	// ErrTaskInGroup says that a task is, or was, in a group.
	ErrTaskInGroup = errors.New("rpcx: task is in a group already")
	// ErrNoRemainingTasks says that all tasks of a group have been taken.
	ErrNoRemainingTasks = errors.New("rpcx: no tasks remain")
	// ErrNotJoined says that a group has no outcome before it is joined.
	ErrNotJoined = errors.New("rpcx: task group is not joined yet")
	// ErrNoTaskCompleted says that a joined group has no task whose outcome is the
	// group's: see [TaskGroup.Completed].
	ErrNoTaskCompleted = errors.New("rpcx: no task completed")
)

// slowPeer returns ErrSlowPeer with the limit that the peer has exceeded.
func slowPeer(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSlowPeer}, args...)...)
}

// closedErrorLocked is a sentinel that wraps net.ErrClosed.
type closedError struct{ text string }

func (e *closedError) Error() string { return e.text }
func (e *closedError) Unwrap() error { return net.ErrClosed }

// timeoutError is a timeout of ours.
type timeoutError struct{ text string }

func (e *timeoutError) Error() string      { return e.text }
func (*timeoutError) Timeout() bool        { return true }
func (*timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// errProcessing is the cause with which a handler's context ends at
// Limits.ProcessingTimeout.
var errProcessing error = &timeoutError{"rpcx: request timed out (Limits.ProcessingTimeout)"}

// cancelledError is a sentinel that matches context.Canceled.
type cancelledError struct{ text string }

func (e *cancelledError) Error() string      { return e.text }
func (*cancelledError) Is(target error) bool { return target == context.Canceled }

// ConnectionError is the error of a call that was pending when its connection
// ended. It matches [ErrConnectionLost], and wraps the reason for the end.
type ConnectionError struct {
	// Written says whether the whole request had been handed to the connection:
	// if so, the peer may have carried it out. If not, it has not, unless this
	// side closed the session, for then what was queued is still written.
	Written bool
	// Err is why the session ended: io.EOF if the peer closed the connection,
	// ErrClosed if this side did.
	Err error
}

func (e *ConnectionError) Error() string {
	how := "request not written"
	if e.Written {
		how = "request written, reply not received"
	}
	return fmt.Sprintf("connection lost (%s): %v", how, e.Err)
}

func (e *ConnectionError) Is(target error) bool { return target == ErrConnectionLost }
func (e *ConnectionError) Unwrap() error        { return e.Err }

// ProtocolError is a violation of the protocol: by a message that was
// received, or by one that cannot be expressed and so was not sent (Unsent).
type ProtocolError struct {
	Code    int // the code with which it is answered, if it is
	Message string
	// Unsent is set if the message is one of this side, which was not sent.
	Unsent bool
	// Hint says what may be wrong at this side and how to mend it, "" if nothing is
	// known. Error has it; the peer is not told.
	Hint string
}

func protocolError(code int, text string) *ProtocolError {
	return &ProtocolError{Code: code, Message: text}
}

func protocolErrorf(code int, format string, args ...any) *ProtocolError {
	return protocolError(code, fmt.Sprintf(format, args...))
}

// unsentf returns the error of a message of this side that is not sent.
func unsentf(code int, format string, args ...any) *ProtocolError {
	return &ProtocolError{Code: code, Message: fmt.Sprintf(format, args...), Unsent: true}
}

// asUnsent returns err, with which a message of this side could not be built, marked as
// that: a Protocol of another package may not do so.
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

// unexpectedReply is the error for a response that nothing waited for; err is
// what it carried.
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
	// Message says what was wrong. If the limit that was exceeded has a field that
	// Message does not name, Error names it.
	Message string
	// Recoverable says that the offending message was dropped and the stream is
	// in step again (or will be, without further errors): the session goes on.
	// Otherwise the session ends with this error.
	Recoverable bool
	// Cost is what it costs the session, beyond the base cost of any error.
	Cost float64
	// TooLarge is the limit that the message exceeds, nil if it is no matter of size.
	// If Start shows what the message was, its sender or the call that it answers is
	// told of the limit.
	TooLarge *SizeError
	// Start is how the message begins, up to [StartSize] bytes, if it was dropped. The
	// error owns it.
	Start []byte
	// Answer is what the peer is answered, before the session ends or goes on; nil
	// for nothing, or for what TooLarge says.
	Answer *Error
}

// Error returns the message, in the form of [Error.Error].
func (e *FrameError) Error() string { return "framing error: " + bounded.Text(e.textWithLimit()) }

// textWithLimit returns the message, with the field of the limit that was exceeded.
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

// SizeError says that a message is larger than the framer of this end, or its
// [MessageConn], takes. It is the error of what is not sent for that reason, and of a
// call whose reply was dropped.
type SizeError struct {
	Size  int    // of the message, in bytes; 0 if it was dropped before it had come whole
	Limit int    // in bytes
	Field string // that sets the limit: "NewlineFramer.MaxSize"
}

func (e *SizeError) Error() string {
	size := "message"
	if e.Size > 0 {
		size += " of " + thousands(e.Size) + " bytes"
	}
	return size + " is too large: " + overLimitText(e.Limit, "bytes", e.Field) + ", to be raised at both ends"
}

// BatchError is the error of a batch of which at least one item failed.
type BatchError struct {
	// Errs has an entry for each request of the batch, in order, nil where it
	// succeeded. (Notifications have none.)
	Errs []error
}

func (e *BatchError) Error() string {
	failed, number := 0, 0
	for i, err := range e.Errs {
		if err != nil {
			if failed++; number == 0 {
				number = i + 1
			}
		}
	}
	if failed == 0 {
		return fmt.Sprintf("none of %d batch requests failed", len(e.Errs))
	}
	return fmt.Sprintf("%d of %d batch requests failed, the first, number %d: %v", failed, len(e.Errs), number, e.Errs[number-1])
}

// Unwrap returns the errors of the items that failed.
func (e *BatchError) Unwrap() []error {
	var errs []error
	for _, err := range e.Errs {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// batchError returns a *BatchError of the members' errors, nil if none has one.
func batchError(members []*Future, errOf func(*Future) error) error {
	var errs []error
	for i, f := range members {
		if err := errOf(f); err != nil {
			if errs == nil {
				errs = make([]error, len(members))
			}
			errs[i] = err
		}
	}
	if errs == nil {
		return nil
	}
	return &BatchError{errs}
}

// excerpt returns a text of the peer as errors and logs repeat it: 64 bytes at most, and
// the length of a longer text.
func excerpt[T ~string | ~[]byte](text T) string { return bounded.Excerpt(text) }

// overLimitText says which limit is exceeded, in the one form that errors have for it.
func overLimitText(limit int, unit, field string) string { return bounded.Over(limit, unit, field) }

// thousands writes n with commas between its thousands.
func thousands(n int) string { return bounded.Thousands(n) }

// trimPrefix takes the sentinels' prefix off, for a text that has one already.
func trimPrefix(err error) string { return strings.TrimPrefix(err.Error(), "rpcx: ") }
