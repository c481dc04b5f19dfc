package websocket

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"example.com/rpcx"

	"github.com/coder/websocket"
)

// closing is the content of a close frame: a code of RFC 6455, section 7.4, and a reason
// for people.
type closing struct {
	code   websocket.StatusCode
	reason string
}

// verdict is the result of faulty input: the error of ReadMessage, and the close frame for
// the peer.
type verdict struct {
	err error
	closing
}

// maxReason is the maximum length of the reason in a close frame, in bytes.
const maxReason = 123

// SetCloseCode sets the code and the reason for closing the WebSocket of s. They apply to
// every later end of s: its Close, its server's Shutdown, or a handler that returns
// [rpcx.ReplyAndDisconnect]. SetCloseCode itself ends nothing:
//
//	websocket.SetCloseCode(s, 4001, "logged in elsewhere")
//	s.Close()
//
// Codes from 4000 to 4999 are for applications, and codes from 3000 to 3999 for libraries.
// The protocol's codes 1000 to 1003 and 1007 to 1014 are allowed too (1012, say, before a
// server restarts). The reason is UTF-8 of at most 123 bytes. For any other code or reason,
// SetCloseCode returns an error and changes nothing. If the session is no WebSocket,
// SetCloseCode does nothing.
func SetCloseCode(s *rpcx.Session, code int, reason string) error {
	switch {
	case (code < 1000 || code > 1003) && (code < 1007 || code > 1014) && (code < 3000 || code > 4999):
		return fmt.Errorf("close code %d cannot be sent: want 1000 to 1003, 1007 to 1014 or 3000 to 4999", code)
	case len(reason) > maxReason:
		return fmt.Errorf("close reason of %d bytes: at most %d fit", len(reason), maxReason)
	case !utf8.ValidString(reason):
		return errors.New("close reason is no UTF-8")
	}
	if c, ok := s.Conn().(*conn); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.chosen = &closing{websocket.StatusCode(code), reason}
	}
	return nil
}

// closing returns the close frame for cause. Callers must hold c.mu.
func (c *conn) closing(cause error) closing {
	switch {
	case c.chosen != nil:
		return *c.chosen
	case c.verdict != nil && errors.Is(cause, c.verdict.err):
		return c.verdict.closing
	}
	return closingFor(cause)
}

// closingFor returns the close frame for the end of a session. Texts of this side's
// internal errors are not sent.
func closingFor(cause error) closing {
	if _, ok := errors.AsType[*rpcx.CostError](cause); ok {
		return closing{websocket.StatusPolicyViolation, rpcx.ExcessiveResourceUsage().Message}
	}
	if size, ok := errors.AsType[*rpcx.SizeError](cause); ok {
		return closing{websocket.StatusMessageTooBig, clip(fmt.Sprintf("message too large (over %d bytes)", size.Limit))}
	}
	busy, _ := errors.AsType[*rpcx.Error](cause)
	violation, _ := errors.AsType[*rpcx.ProtocolError](cause)
	switch {
	case errors.Is(cause, rpcx.ErrServerFull): // also matches a second error
		return closing{websocket.StatusTryAgainLater, "server full"}
	case errors.Is(cause, rpcx.ErrClosed), errors.Is(cause, io.EOF):
		return closing{code: websocket.StatusNormalClosure}
	case errors.Is(cause, rpcx.ErrServerClosed):
		return closing{websocket.StatusGoingAway, "server shutting down"}
	case errors.Is(cause, rpcx.ErrIdle):
		return closing{websocket.StatusNormalClosure, "session idle"}
	case errors.Is(cause, rpcx.ErrSlowPeer):
		return closing{websocket.StatusPolicyViolation, "peer does not read"}
	case errors.Is(cause, rpcx.ErrFaultyPeer):
		return closing{websocket.StatusPolicyViolation, "too many bad messages"}
	case errors.Is(cause, rpcx.ErrNotAdmitted):
		return closing{websocket.StatusPolicyViolation, "session not admitted"}
	case busy != nil && busy.Code == rpcx.CodeServerBusy:
		return closing{websocket.StatusTryAgainLater, clip(busy.Message)}
	case violation != nil:
		return closing{websocket.StatusProtocolError, clip(violation.Message)}
	}
	return closing{code: websocket.StatusInternalError}
}

// clip cuts a text to the size of a close frame's reason.
func clip(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= maxReason {
		return reason
	}
	cut := maxReason
	for !utf8.RuneStart(reason[cut]) {
		cut--
	}
	return reason[:cut]
}
