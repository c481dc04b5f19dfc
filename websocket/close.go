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

// closing is how the peer is told of the end: a code of RFC 6455, section 7.4, and a
// reason for people.
type closing struct {
	code   websocket.StatusCode
	reason string
}

// verdict is on what the peer has sent: the error with which ReadMessage has ended.
type verdict struct {
	err error
	closing
}

// maxReason is how long the reason of a close frame may be, in bytes.
const maxReason = 123

// SetCloseCode has the WebSocket of s closed with a code and a reason of the user's
// choice, whatever ends s from then on: its Close, its server's Shutdown, or a handler
// that returns [rpcx.ReplyAndDisconnect]. It ends nothing by itself:
//
//	websocket.SetCloseCode(s, 4001, "logged in elsewhere")
//	s.Close()
//
// Codes from 4000 to 4999 are for applications, and those from 3000 to 3999 for
// libraries; those of the protocol, 1000 to 1003 and 1007 to 1014, may be sent as well
// (1012, say, before a server is started again). The reason is UTF-8, and of 123 bytes
// at most. Anything else is an error, and changes nothing. For a session that is no
// WebSocket's SetCloseCode does nothing.
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

// closing returns how the peer is told of cause. Callers must hold c.mu.
func (c *conn) closing(cause error) closing {
	switch {
	case c.chosen != nil:
		return *c.chosen
	case c.verdict != nil && errors.Is(cause, c.verdict.err):
		return c.verdict.closing
	}
	return closingFor(cause)
}

// closingFor returns how a peer is told why a session ends. The texts of errors that
// are this side's alone are not sent.
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
	case errors.Is(cause, rpcx.ErrServerFull): // as well as another
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
	case busy != nil && busy.Code == rpcx.CodeServerBusy:
		return closing{websocket.StatusTryAgainLater, clip(busy.Message)}
	case violation != nil:
		return closing{websocket.StatusProtocolError, clip(violation.Message)}
	}
	return closing{code: websocket.StatusInternalError}
}

// clip returns as much of a text as fits into a close frame.
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
