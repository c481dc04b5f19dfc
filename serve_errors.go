package rpcx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
)

// wireError returns the error to be sent for err. If the text of err is not for the peer,
// wireError returns nil.
func wireError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if p, ok := errors.AsType[*ProtocolError](err); ok && !p.Unsent && p.Code != CodeInternalError { // unsent messages and internal errors are this side's
		return &Error{Code: p.Code, Message: p.Message}
	}
	return nil
}

// opaqueErrorFor returns the error to be sent for an err without a wire form.
func (rs *requestServer) opaqueErrorFor(err error) *Error {
	if p, ok := rs.s.Protocol().(ServiceProtocol); ok {
		return p.Exception(err)
	}
	return InternalError() // the text of err stays here
}

// hintForeign returns a hint if err, from a handler, has the error type of another
// JSON-RPC library. The session does not send the code and message of a foreign error.
func (rs *requestServer) hintForeign(err error) []slog.Attr {
	s := rs.s
	if !s.log.Enabled(context.Background(), slog.LevelError) {
		return nil
	}
	if _, service := s.Protocol().(ServiceProtocol); service || !hasForeignCode(err) {
		return nil
	}
	return []slog.Attr{slog.String("hint",
		fmt.Sprintf("the code and the message of an *rpcx.Error are sent, and those of a %T are not: return rpcx.Errorf(code, …)", err))}
}

// hasForeignCode reports whether err, or a wrapped error, has a code like the errors of
// foreign JSON-RPC libraries. The code is a method, or a field beside the message.
func hasForeignCode(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		t := reflect.TypeOf(err)
		for _, name := range []string{"ErrorCode", "ErrCode"} {
			if m, ok := t.MethodByName(name); ok && m.Type.NumIn() == 1 && m.Type.NumOut() == 1 && m.Type.Out(0).ConvertibleTo(reflect.TypeFor[int]()) {
				return true
			}
		}
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			continue
		}
		code, hasCode := t.FieldByName("Code")
		message, hasMessage := t.FieldByName("Message")
		if hasCode && hasMessage && code.Type.ConvertibleTo(reflect.TypeFor[int]()) && message.Type.Kind() == reflect.String {
			return true
		}
	}
	return false
}

// errorHint returns a hint how to fix the failure of c, or "" if no hint is known.
func (c *peerRequest) errorHint(e *Error) string {
	if _, objects := c.Params.codec.(*objectCodec); !objects && e.Code == CodeInvalidParams &&
		(bytes.Contains(c.Params.Positional, objectStart) || bytes.Contains(c.Params.Named, objectStart)) {
		return looksLikeObject
	}
	return e.Hint
}

// failureOf returns the error that a handler returned as the result, or nil.
func failureOf(result any) error {
	switch v := result.(type) {
	case Error: // only a *Error implements error
		return &v
	case error:
		if !isNilPointer(v) {
			return v
		}
	}
	return nil
}

// noNilError returns err. If err is a nil pointer, whose methods may panic, noNilError
// returns a new error instead.
func noNilError(err error) error {
	if err != nil && isNilPointer(err) {
		return fmt.Errorf("the handler returned a nil %T as its error: where there is none it has to return nil", err)
	}
	return err
}

// isNilPointer reports whether v is a nil pointer, such as a nil *Error returned as an
// error.
func isNilPointer(v any) bool {
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}

func responseTooLarge(limit int) *Error {
	return InvalidRequest("response too large (over %s bytes)", thousands(limit))
}

// findDisconnect returns the [*Disconnect] that the handler returned, or nil.
func findDisconnect(result any, err error) *Disconnect {
	if d, ok := result.(*Disconnect); ok || err == nil {
		return d
	}
	d, _ := errors.AsType[*Disconnect](err)
	return d
}

// refuseForShutdownLocked refuses what has not begun of an entry, because the session is
// shutting down. Callers must hold s.mu.
func (rs *requestServer) refuseForShutdownLocked(e queueEntry, from sendMode) {
	rs.s.mu.AssertHeld()
	why := rs.s.drainErrorLocked()
	rs.traceRefusedLocked(e, why)
	e.refuseRemaining(rs.s, why, from)
}

// recordRefusalLocked counts, logs and traces the refusal of a valid request, notification
// or batch. Callers must hold s.mu.
func (rs *requestServer) recordRefusalLocked(what refusable, why *Error) {
	rs.s.mu.AssertHeld()
	rs.countRefusedLocked(why)
	rs.traceRefusedLocked(what, why)
	msg, attr := what.about()
	rs.s.logs.logPeerLaterLocked(slog.LevelWarn, msg, attr, slog.Any("error", why))
}

// countRefusedLocked counts a valid request that is not handled, or not to the end.
// Callers must hold s.mu.
func (rs *requestServer) countRefusedLocked(why *Error) {
	s := rs.s
	s.mu.AssertHeld()
	switch why.Code {
	case CodeServerBusy: // a limit of this side, not the peer's fault
		s.stats.Errors++
		if !why.NotStarted() {
			s.cost.addCostLocked(s.limits.CostHandlerError)
		}
	case CodeExcessiveResourceUsage: // a charge would keep out for ever who asks again too early
		s.stats.Errors++
	default:
		s.reader.chargeErrorLocked(why)
	}
}

// countDroppedLocked counts a refused notification. The refusal counts as an error, too:
// see countRefusedLocked. While the session is open,
// recordRefusalLocked or timeOutLocked logs the refusal. Callers must hold s.mu.
func (rs *requestServer) countDroppedLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	if s.life.state == stateOpen {
		s.stats.NotificationsDropped++
	} else {
		s.countDroppedAtEndLocked(c)
	}
}

// dropDelayedLocked counts a delayed notification whose handler is not called. If the
// notification has timed out, timeOutLocked has logged the event. Callers must hold s.mu.
func (rs *requestServer) dropDelayedLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	if c.ctx.endCause() == errProcessing {
		s.stats.NotificationsDropped++
	} else {
		s.countDroppedAtEndLocked(c)
	}
}
