package rpcx

import (
	"net"
	"syscall"
	"time"
)

// sendQueue is what the operating system has taken of a connection's bytes and not
// sent yet. The system says that there is room only when a third of that is sent (of a
// unix socket, three quarters), which can be more than a megabyte: whether a slow peer
// makes progress is seen here. It is guarded by the session's lock.
type sendQueue struct {
	raw    syscall.RawConn // nil if there is no socket
	opened bool            // raw was looked for
	looked bool            // since the last progress; then the next two are set
	unsent int             // bytes, when it was looked at
	at     time.Duration   // when that was
}

// queueLooks is how many times in Limits.SendTimeout the queue is looked at.
const queueLooks = 8

// look returns how many bytes are unsent, and reports whether that is known.
func (q *sendQueue) look(conn net.Conn) (int, bool) {
	if !q.opened {
		q.opened = true
		q.raw = socketUnder(conn)
	}
	if q.raw == nil {
		return 0, false
	}
	return unsentBytes(q.raw)
}

// socketUnder returns the socket that carries conn, nil if there is none.
func socketUnder(conn net.Conn) syscall.RawConn {
	switch c := conn.(type) {
	case *SOCKSConn:
		return socketUnder(c.Conn)
	case *net.TCPConn, *net.UnixConn:
		if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
			return raw
		}
	case interface{ NetConn() net.Conn }:
		return socketUnder(c.NetConn())
	}
	return nil
}

// isProgress reports whether a queue that has fallen by so many bytes since some time
// falls fast enough: by writeChunk in the timeout.
func isProgress(fallen int, since, timeout time.Duration) bool {
	return fallen > 0 && float64(fallen) >= writeChunk*float64(since)/float64(timeout)
}

// checkSentLocked restarts the time that a write may take if the operating system has
// sent enough meanwhile: writeChunk in Limits.SendTimeout. What the writer adds to the
// queue between two looks is less than it writes at a time, and counts against the
// peer. Callers must hold s.mu.
func (s *Session) checkSentLocked(now time.Duration) {
	s.owner.Check()
	q, timeout := &s.out.queue, s.limits.SendTimeout
	if !canSeeUnsent || !s.out.writing || timeout == never {
		return
	}
	unsent, ok := q.look(s.NetConn())
	if !ok {
		return
	}
	switch {
	case !q.looked:
		q.looked, q.unsent, q.at = true, unsent, now
	case isProgress(q.unsent-unsent, now-q.at, timeout):
		q.unsent, q.at = unsent, now
		s.out.writeBy = after(now, timeout)
	}
	s.arm(after(now, timeout/queueLooks))
}
