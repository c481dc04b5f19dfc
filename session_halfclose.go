package rpcx

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"time"
)

// Half-close (I14). A peer may close its half of the connection when it has sent all
// that it has to say, and read on. When its input ends between two messages, the
// session handles what it has read and sends the replies; then it ends with io.EOF.
// There is nobody to call any more: what is pending fails at once.
//
// A peer that has closed the whole connection looks the same, until something is
// written. So the session also ends at the first error of a write, when the operating
// system says that both halves are closed, and after Limits.HalfClose.

// inputCheck is how often the operating system is asked whether the peer is gone.
const inputCheck = time.Second

// inputClosed is the state of a session whose peer has finished sending. It is guarded
// by the session's lock.
type inputClosed struct {
	closed bool
	ending bool          // nothing is left to do
	endBy  time.Duration // when the session ends, whatever is left

	awaited bool          // the writer has failed, and waits for the reader
	awaitBy time.Duration // for so long at most
}

// errInputClosed is the reason why nothing can be asked of a peer that has finished
// sending.
var errInputClosed = errors.New("the peer has finished sending")

// halfCloser is a connection of which the peer may close one half.
type halfCloser interface{ CloseWrite() error }

// closeInput is called by the reader when the input has ended with err. It reports
// whether the session goes on without input.
func (s *Session) closeInput(err error) bool {
	if err != io.EOF {
		return false
	}
	limit := s.halfCloseLimit()
	if limit <= 0 || s.conn.hungUp() {
		return false
	}
	s.lock()
	if s.state >= stateClosing {
		s.unlock()
		return false
	}
	now := s.now()
	s.input.closed, s.input.endBy = true, after(now, limit)
	s.lose(s.endOfInput(), true)
	s.out.line.release()
	s.slots.line.release()
	s.arm(min(s.input.endBy, after(now, inputCheck)))
	s.loops--
	if s.input.awaited {
		s.out.wakeWriter()
	}
	s.unlock()
	return true
}

// awaitInput waits until the reader has read what the peer had sent, if err says that
// the peer has closed the connection: a write finds out before the reader does. The
// writer calls it when a write has failed.
func (s *Session) awaitInput(err error) {
	if !hungUp(err) {
		return
	}
	limit := closeGrace
	switch s.Conn().(type) {
	case *joined, *program: // whose input may go on
	default:
		if s.conn.hungUp() { // what is left has arrived already
			limit = max(limit, s.halfCloseLimit())
		}
	}
	s.lock()
	defer s.unlock()
	s.input.awaited, s.input.awaitBy = true, after(s.now(), limit)
	s.arm(s.input.awaitBy)
	for s.state < stateClosing && !s.input.closed && s.now() < s.input.awaitBy {
		s.out.idle = true
		s.out.wake.Wait()
	}
	s.input.awaited = false
}

// halfCloseLimit returns how long the session may go on without input; 0 if the
// connection has no halves.
func (s *Session) halfCloseLimit() time.Duration {
	if _, ok := s.conn.(*messages); ok {
		return 0 // whatever methods the type has of the connection below
	}
	limit := s.limits.HalfClose
	conn := s.Conn()
	for {
		switch c := conn.(type) {
		case *SOCKSConn:
			conn = c.Conn
			continue
		case *joined, *program, *net.UnixConn:
			if limit == 0 {
				limit = after(s.limits.ProcessingTimeout, closeGrace) // what times out is answered
			}
		case halfCloser:
			if limit == 0 {
				limit = 5 * time.Second
			}
		default:
			return 0
		}
		return limit
	}
}

// checkInputLocked ends a session without input when nothing is left to do. Callers
// must hold s.mu.
func (s *Session) checkInputLocked() {
	s.owner.Check()
	if !s.input.closed || s.input.ending || s.state >= stateClosing ||
		s.refusing > 0 || s.in.running > 0 || s.in.count > 0 || s.out.lent || s.out.size() > 0 {
		return
	}
	s.input.ending = true
	s.fx.end(io.EOF, closeGrace)
}

// checkInputTimeLocked is called by the session's timer. It ends a session whose input
// has ended, when its time is over or the peer is gone. Callers must hold s.mu.
func (s *Session) checkInputTimeLocked(now time.Duration) {
	s.owner.Check()
	switch {
	case !s.input.closed || s.state >= stateClosing:
		return
	case s.input.endBy <= now:
		s.note(slog.LevelWarn, "session ended: the peer has finished sending, and its requests take too long",
			timeLimit("Limits.HalfClose", s.halfCloseLimit()), slog.Int("requests", s.in.count), slog.Int("handlers", s.in.running))
		s.fx.end(io.EOF, closeGrace)
		return
	}
	s.arm(min(s.input.endBy, now+inputCheck))
	s.fx.set(&s.fx.checkHungUp)
}

// endIfHungUp ends the session if the operating system says that the peer is gone.
func (s *Session) endIfHungUp() {
	if s.conn.hungUp() {
		s.end(io.EOF, 0)
	}
}
