package rpcx

import (
	"fmt"
	"log/slog"
)

// faultOfFrame is fault for what the framer, or the connection, reports. Callers must
// hold the lock.
func (s *Session) faultOfFrame(frame *FrameError) {
	var more []slog.Attr
	if size := frame.TooLarge; size != nil {
		more = append(more, byteLimit(size.Field, size.Limit))
	}
	noted := *frame
	noted.Start = nil // not to be kept until it is logged
	s.fault(&noted, more...)
}

// receiveDropped tells whom it concerns of a message that was dropped, as far as its
// beginning shows who that is: the peer is answered, or the call ends that the message
// was a reply to. told reports whether the peer is answered. unclear reports whether
// somebody may be waiting who learns nothing of it.
func (s *Session) receiveDropped(m *Message, frame *FrameError) (told, unclear bool) {
	answer := frame.Answer
	if size := frame.TooLarge; size != nil && answer == nil {
		answer = InvalidRequest("message too large (over %s bytes)", thousands(size.Limit))
	}
	if answer == nil {
		return false, false
	}
	p, ok := s.Protocol().(StartDecoder)
	if !ok {
		return false, true
	}
	p.DecodeStart(m, frame.Start)
	item := &m.Items[0]
	switch item.Kind {
	case KindRequest, KindInvalid:
		s.lock()
		s.fx.replyError(item.ID, answer, fromReader)
		s.unlock()
		return true, item.ID == nil
	case KindResponse:
		return false, !s.failReply(item.ID, m.Batch, frame)
	}
	return false, item.Kind == KindFatal
}

// failReply ends the call, or the batch, whose reply was dropped. It reports whether
// no call can be waiting for that reply any more.
func (s *Session) failReply(id ID, array bool, frame *FrameError) bool {
	var err error = frame.TooLarge
	if frame.TooLarge == nil {
		err = frame
	}
	err = fmt.Errorf("reply dropped: %w", err)
	s.lock()
	defer s.unlock()
	f := s.table.only(array)
	if id != nil {
		f, _, _ = s.match(id, nil) // the fault is that of the frame
	} else if f != nil {
		s.table.remove(f)
	}
	if f == nil {
		return id != nil || s.table.pending == 0
	}
	now := s.now()
	s.complete(f, now, nil, err)
	if f.batch != nil && array {
		for _, member := range f.batch.own.members {
			if s.table.giveUp(member) { // another part of its reply may come
				s.complete(member, now, nil, err)
			}
		}
	}
	return true
}
