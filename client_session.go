package rpcx

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"
)

// clientSession is what a session of a Client has beside other sessions. Methods of a nil
// clientSession do nothing, as for other sessions.
type clientSession struct {
	client  *Client
	session *Session
	number  uint64 // of the session, from 1
	addr    string
	since   time.Time     // when the session became ready
	lost    chan struct{} // closed when the session takes no more calls

	lostAt time.Time // set before lost is closed

	// Guarded by the session's lock.
	isLost     bool
	mayLose    bool     // Close of the client: unwritten calls do not wait for the writer
	unwritten  []uint64 // numbers of the client's notifications that may not be written yet, increasing
	returned   []keptNote
	inputs     uint64 // reads of parts of messages
	lastSeen   uint64 // messages received, and inputs, at the last check of keep-alive
	unanswered int    // checks in a row without a sign of life
	probe      uint64 // number of the last probe among the messages

	// Guarded by Client.mu.
	sending bool  // a goroutine runs sendWaiting for the session
	leaving error // why the session is to be replaced although it goes on; nil if it is not
}

// keptNote is a notification that was queued and not written. The message is sent again as
// it is: the functions of Options.OnCall have seen it, and a notification has no id.
type keptNote struct {
	order   sendOrder
	message []byte // owned by the keptNote; framed until returnNotes
}

// adopt makes s a session of c. The caller has just made s.
func (c *Client) adopt(s *Session, addr string, number uint64) (*clientSession, error) {
	cs := &clientSession{client: c, session: s, number: number, addr: addr, lost: make(chan struct{})}
	s.lock()
	defer s.unlock()
	switch {
	case s.exchange() != nil || s.server != nil:
		return nil, errors.New("rpcx: ClientOptions.Connect has returned a session of a server")
	case s.calls.client != nil:
		return nil, errors.New("rpcx: ClientOptions.Connect has returned a session twice: make a new one")
	}
	s.calls.client = cs
	if s.life.state != stateOpen || s.input.closed {
		cs.markLostLocked()
	}
	return cs, nil
}

// markLostLocked records that the session takes no more calls. Callers must hold the
// session's lock.
func (cs *clientSession) markLostLocked() {
	if cs == nil || cs.isLost {
		return
	}
	cs.session.mu.AssertHeld()
	cs.isLost, cs.lostAt = true, time.Now()
	close(cs.lost)
}

// takesCalls reports whether the session takes calls.
func (cs *clientSession) takesCalls() bool {
	select {
	case <-cs.lost:
		return false
	default:
		return true
	}
}

// isLeft reports whether the client replaces the session, which may go on.
func (cs *clientSession) isLeft() bool {
	c := cs.client
	c.mu.Lock()
	defer c.mu.Unlock()
	return cs.leaving != nil
}

// repeatsLocked reports whether unwritten calls are to be repeated, so that they must not
// be written after they have failed. Callers must hold the session's lock.
func (cs *clientSession) repeatsLocked() bool {
	if cs == nil {
		return false
	}
	cs.session.mu.AssertHeld()
	return !cs.mayLose
}

// reason returns why the session takes no more calls.
func (cs *clientSession) reason() error {
	if err := cs.session.Err(); err != nil {
		return err
	}
	return ErrClosed // Shutdown of the session
}

// keepNoteLocked records that the message with the given number is a notification of the
// client. Callers must hold the session's lock.
func (cs *clientSession) keepNoteLocked(number uint64) {
	s := cs.session
	s.mu.AssertHeld()
	written := 0
	for written < len(cs.unwritten) && cs.unwritten[written] <= s.writer.writtenMessages {
		written++
	}
	if written == len(cs.unwritten) {
		cs.unwritten = append(cs.unwritten[:0], number)
		return
	}
	cs.unwritten = append(cs.unwritten[written:], number)
}

// takeUnwrittenLocked keeps the notifications of the client among the frames of f from the
// given index on. The first of these frames follows the message with the number before. The
// writer calls takeUnwrittenLocked at the session's end. Callers must hold the session's
// lock.
func (cs *clientSession) takeUnwrittenLocked(f *frameBuffer, from int, before uint64) {
	if cs == nil || cs.mayLose {
		return
	}
	cs.session.mu.AssertHeld()
	for i := from; i < len(f.ends); i++ {
		number := before + uint64(i-from) + 1
		for len(cs.unwritten) > 0 && cs.unwritten[0] < number {
			cs.unwritten = cs.unwritten[1:]
		}
		if len(cs.unwritten) == 0 {
			return
		}
		if cs.unwritten[0] == number {
			start := 0
			if i > 0 {
				start = f.ends[i-1]
			}
			cs.returned = append(cs.returned, keptNote{sendOrder{cs.number, number}, bytes.Clone(f.buf[start:f.ends[i]])})
		}
	}
}

// returnNotes gives the client the notifications that takeUnwrittenLocked has kept.
func (cs *clientSession) returnNotes() {
	if cs == nil {
		return
	}
	s := cs.session
	s.lock()
	notes := cs.returned
	cs.returned, cs.unwritten = nil, nil
	s.unlock()
	if len(notes) == 0 {
		return
	}
	for i := range notes {
		notes[i].message = s.unframe(notes[i].message)
	}
	cs.client.keepNotes(notes)
}

// unframe returns the message in frame, a frame of s. The next session may have another
// framing.
func (s *Session) unframe(frame []byte) []byte {
	conn, ok := s.conn.(*stream)
	if !ok {
		return frame
	}
	split := conn.framer.NewSplitter()
	for len(frame) > 0 {
		n, message, err := split(frame, true)
		if message != nil {
			return message
		}
		if err != nil || n <= 0 {
			break
		}
		frame = frame[n:]
	}
	return nil
}

// sendNote sends a notification of an earlier session. It reports false if the session
// takes no more messages. A message that this connection cannot frame is dropped and logged.
func (cs *clientSession) sendNote(message []byte) bool {
	sc := getEncodeBuffer()
	defer sc.recycle()
	sc.msg = append(sc.msg[:0], message...)
	s := cs.session
	err := s.writer.sendMessage(cs.client.ctx, sc, fromClient, nil)
	if err == nil || !cs.takesCalls() {
		return err == nil
	}
	s.lock()
	s.logs.logLaterLocked(slog.LevelWarn, "notification of an earlier session cannot be sent", errorAttr(err))
	s.unlock()
	return true
}

// noteInputLocked records that a part of a message has arrived. Callers must hold the
// session's lock.
func (cs *clientSession) noteInputLocked() {
	if cs != nil {
		cs.inputs++
	}
}

// checkAlive checks for signs of life, each KeepAlive. After a period of silence, it calls
// Limits.KeepAliveMethod: any answer is a sign of life. After another period, the session
// ends with ErrUnreachable. While the probe waits for a slow peer to read, only
// Limits.SendTimeout counts.
func (cs *clientSession) checkAlive(method string) {
	s := cs.session
	s.lock()
	seen := s.stats.MessagesReceived + cs.inputs
	switch {
	case seen != cs.lastSeen || s.reader.role.vacancy == vacantPaused:
		cs.lastSeen, cs.unanswered = seen, 0
		s.unlock()
		return
	case cs.unanswered > 0 && cs.probe > s.writer.writtenMessages:
		s.unlock()
		return
	}
	cs.unanswered++
	unanswered := cs.unanswered
	s.unlock()
	if unanswered > 1 {
		c := cs.client
		c.retain()
		// Owner: the client. End: the connection is closed, which may take a WebSocket a second.
		go func() {
			defer c.release()
			s.closeWith(ErrUnreachable, 0)
		}()
		return
	}
	cs.sendProbe(method)
}

// sendProbe calls method, and drops the reply. If the outbox has no room, nothing is sent,
// and the next check sends the probe.
func (cs *clientSession) sendProbe(method string) {
	s := cs.session
	c := s.pool.takeCall(s, method) // not returned to the pool: nobody waits for the end
	err := s.sendCallAs(context.Background(), fromProbe, &c.message, nil, nil)
	s.lock()
	defer s.unlock()
	if cs.probe = c.message.messageSeq; err != nil {
		cs.unanswered = 0
	}
}
