package rpcx

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"sync"
	"syscall"

	"example.com/rpcx/internal/buffers"
)

// transport is a connection as the session's reader and writer see it: a
// [MessageConn], or a byte stream with a [Framer].
type transport interface {
	// nextMessage returns the next message, valid until the next call. With wait unset
	// it returns nil when it would have to read from the connection.
	nextMessage(wait bool) ([]byte, error)
	// maxMessage returns the size of the largest message, 0 if that is not known.
	maxMessage() int
	// maxMessageField returns the name of the field that sets maxMessage.
	maxMessageField() string
	// appendFramed appends msg to dst as it goes into the outbox. It fails with a
	// [*SizeError] if msg is larger than maxMessage.
	appendFramed(dst, msg []byte) ([]byte, error)
	// writeFrames writes frames, ends being where each ends in buf. progress is called
	// after each part that was written and has more behind it. It returns how much
	// was written, or may have been.
	writeFrames(buf []byte, ends []int, progress func()) (int, error)
	// onPart has part called before more is read of a message that has come in
	// part, or is dropped, with the size of the buffer that this takes if that is
	// large, else 0; and when a large one has been given back. Its error ends the
	// reading.
	onPart(part func(size int) error)
	// socket returns what writes without waiting, nil if nothing can.
	socket() *socket
	// canWriteNow reports whether a write would not wait for the peer, as far as the
	// operating system says; false if the connection is none of the system's.
	canWriteNow() bool
	// closeWithCause closes the connection because of cause, which it may tell the peer.
	closeWithCause(cause error) error
	// tellsCause reports whether close tells the peer the cause.
	tellsCause() bool
	// closeWrite closes this end's half of the connection, and reports whether it could.
	closeWrite() bool
	// endedUnterminated reports whether the input has ended behind the last message without
	// what ends a message.
	endedUnterminated() bool
	// hasHungUp reports whether the operating system says that the peer has closed both
	// halves of the connection; false if that cannot be told.
	hasHungUp() bool
	receivedBytes() uint64 // bytes, for the reader
	// unreadInput returns what came in where next failed: the beginning of the message that
	// was at fault or cut off, and what is behind it. It is valid until the next call.
	unreadInput() ([]byte, framing)
	// releaseInput gives back what is held of the input. The reader calls it last: a
	// program may keep a session that has ended.
	releaseInput()
	userConn() any // what it was made of
}

// keptBytes returns how many bytes conn keeps beside messages, which are a part of the
// sizes that it gives to OnPart: those of the request of a WebSocket.
func keptBytes(conn any) int {
	if conn, ok := conn.(interface{ KeptBytes() int }); ok {
		return conn.KeptBytes()
	}
	return 0
}

// writeChunk is what is written at a time where that may wait.
const writeChunk = 16 << 10

// stream is a byte stream with a Framer.
type stream struct {
	conn             io.ReadWriteCloser
	framer           Framer
	maxSize          int // maxMessage
	split            bufio.SplitFunc
	sock             *socket // nil if conn is another kind of connection
	buf              []byte  // what was read and not consumed is buf[r:w]
	r, w             int
	unreadFrom       int // where what was split last begins
	onPartial        func(int) error
	largeSize        int // what it was told of last
	totalBytes       uint64
	lastRead         int   // what the last Read returned
	readErr          error // of it
	lastUnterminated bool  // the last message was the end of the input, without a delimiter
	closing          closeOnce
}

func newStream(conn io.ReadWriteCloser, framer Framer) *stream {
	s := &stream{
		conn: conn, framer: framer, maxSize: maxMessage(framer), sock: newSocket(conn),
		onPartial: func(int) error { return nil },
	}
	switch framingOf(framer) {
	case framedByLines, framedByValues, framedByHeaders:
		s.split = s.splitFirst
	default:
		s.split = framer.NewSplitter()
	}
	return s
}

// splitFirst splits the beginning of text, and passes over a byte order mark there.
func (s *stream) splitFirst(data []byte, atEOF bool) (int, []byte, error) {
	if len(data) < len(byteOrderMark) && bytes.HasPrefix(byteOrderMark, data) && !atEOF {
		return 0, nil, nil
	}
	s.split = s.framer.NewSplitter()
	if bytes.HasPrefix(data, byteOrderMark) {
		return len(byteOrderMark), nil, nil
	}
	return s.split(data, atEOF)
}

func (s *stream) socket() *socket { return s.sock }

func (s *stream) onPart(part func(int) error) { s.onPartial = part }

func (s *stream) nextMessage(wait bool) ([]byte, error) {
	for {
		if s.w > s.r || s.readErr != nil {
			s.markUnread()
			advance, token, err := s.split(s.buf[s.r:s.w], s.readErr == io.EOF)
			if advance < 0 || advance > s.w-s.r {
				return nil, &FrameError{Message: "the framer advanced beyond its data"}
			}
			s.r += advance
			s.lastUnterminated = s.readErr == io.EOF && len(token) == advance
			if advance == 0 && (err != nil || token != nil) {
				// It would do so again and again.
				if frame, ok := err.(*FrameError); ok && frame.Recoverable {
					final := *frame
					final.Recoverable = false
					err = &final
				} else if err == nil {
					err = &FrameError{Message: "the framer found a message in no bytes"}
				}
				return nil, err
			}
			if err != nil || token != nil {
				return token, err
			}
			if advance > 0 && s.r < s.w {
				continue
			} else if advance > 0 {
				if err := s.onPartial(s.largeSize); err != nil { // of a message that is dropped
					return nil, err
				}
			}
		}
		if s.readErr != nil {
			s.markUnread()
			if s.readErr == io.EOF && s.w > s.r {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, s.readErr
		}
		if !wait {
			return nil, nil
		}
		s.readMore()
	}
}

// markUnread notes where the next message begins, for unread. A last message without
// its delimiter stays what was not read.
func (s *stream) markUnread() {
	if !s.endedUnterminated() {
		s.unreadFrom = s.r
	}
}

// readMore reads once, into a buffer that grows when it is full. Only bytes that
// have arrived make it grow: how much is to come is never taken on trust.
func (s *stream) readMore() {
	if s.r == s.w {
		s.r, s.w = 0, 0
		if s.largeSize > 0 {
			s.largeSize = 0
			_ = s.onPartial(0) // asks for nothing
		}
		if s.sock != nil {
			recycleReadBuffer(s.buf)
			s.buf, s.w, s.readErr = s.sock.readSome()
			s.totalBytes += uint64(s.w)
			return
		}
		if len(s.buf) > readBuffer || len(s.buf) > firstBuffer && s.lastRead < len(s.buf)/8 {
			recycleReadBuffer(s.buf)
			s.buf = nil
		}
	} else if s.readErr = s.onPartial(s.largeSize); s.readErr != nil {
		return
	}
	switch {
	case s.buf == nil:
		s.buf = getReadBuffer(firstBuffer)
	case s.w == len(s.buf) && s.r > len(s.buf)/2:
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
	case s.w == len(s.buf):
		if size := 2 * len(s.buf); size > readBuffer {
			s.largeSize = size
			if s.readErr = s.onPartial(size); s.readErr != nil {
				return
			}
		}
		grown := getReadBuffer(2 * len(s.buf))
		s.w = copy(grown, s.buf[s.r:s.w])
		recycleReadBuffer(s.buf)
		s.buf, s.r = grown, 0
	}
	n, err := s.conn.Read(s.buf[s.w:])
	if n == len(s.buf)-s.w && n > 0 && s.r == 0 && s.w == 0 && len(s.buf) < readBuffer {
		// More than fits comes at once: read more at a time from now on.
		grown := getReadBuffer(min(4*len(s.buf), readBuffer))
		copy(grown, s.buf)
		recycleReadBuffer(s.buf)
		s.buf = grown
	}
	s.w += n
	s.lastRead = n
	s.totalBytes += uint64(n)
	s.readErr = err
}

func (s *stream) maxMessage() int { return s.maxSize }

func (s *stream) maxMessageField() string { return maxMessageField(s.framer) }

func (s *stream) appendFramed(dst, msg []byte) ([]byte, error) {
	if err := checkSize(s.framer, s.maxSize, msg); err != nil {
		return dst, err
	}
	return s.framer.AppendFrame(dst, msg)
}

func (s *stream) writeFrames(buf []byte, _ []int, progress func()) (written int, err error) {
	for {
		n := 0
		if s.sock != nil {
			n = s.sock.tryWrite(buf[written:]) // all that fits in one go
		}
		if n == 0 {
			chunk := buf[written:min(len(buf), written+writeChunk)]
			n, err = s.conn.Write(chunk)
			if err == nil && n < len(chunk) {
				err = io.ErrShortWrite
			}
		}
		if written += n; err != nil || written == len(buf) {
			return written, err
		}
		progress()
	}
}

func (s *stream) closeWithCause(error) (err error) {
	s.closing.do(func() { err = s.conn.Close() })
	return err
}

func (s *stream) tellsCause() bool { return false }

func (s *stream) receivedBytes() uint64 { return s.totalBytes }

func (s *stream) releaseInput() {
	if s.buf != nil {
		recycleReadBuffer(s.buf)
	}
	s.buf, s.r, s.w, s.unreadFrom = nil, 0, 0, 0
}

func (s *stream) unreadInput() ([]byte, framing) { return s.buf[s.unreadFrom:s.w], framingOf(s.framer) }

func (s *stream) closeWrite() bool {
	conn, ok := s.conn.(halfCloser)
	return ok && conn.CloseWrite() == nil
}

func (s *stream) endedUnterminated() bool { return s.lastUnterminated && s.r == s.w }

func (s *stream) hasHungUp() bool {
	if p, ok := s.conn.(*program); ok {
		return p.hasEnded()
	}
	raw := rawConn(s.conn)
	return raw != nil && hasPeerGone(raw)
}

func (s *stream) canWriteNow() bool { return canWriteNow(s.conn) }

func (s *stream) userConn() any { return s.conn }

// messages is a MessageConn.
type messages struct {
	conn       MessageConn
	maxSize    int // maxMessage
	msgs       [][]byte
	totalBytes uint64
	closing    closeOnce
	onWritten  func() // is told of parts that were written; for the writer
}

func newMessages(conn MessageConn) *messages {
	m := &messages{conn: conn, maxSize: maxMessage(conn)}
	if conn, ok := conn.(PartWriter); ok {
		conn.OnWritten(func() { m.onWritten() })
	}
	return m
}

func (m *messages) nextMessage(wait bool) ([]byte, error) {
	if !wait {
		return nil, nil
	}
	msg, err := m.conn.ReadMessage()
	m.totalBytes += uint64(len(msg))
	if msg == nil && err == nil {
		msg = []byte{}
	}
	return msg, err
}

func (m *messages) socket() *socket { return nil }

func (m *messages) onPart(part func(int) error) {
	if conn, ok := m.conn.(PartReader); ok {
		conn.OnPart(part)
	}
}

func (m *messages) maxMessage() int { return m.maxSize }

func (m *messages) maxMessageField() string { return maxMessageField(m.conn) }

func (m *messages) appendFramed(dst, msg []byte) ([]byte, error) {
	if err := checkSize(m.conn, m.maxSize, msg); err != nil {
		return dst, err
	}
	return append(dst, msg...), nil
}

func (m *messages) writeFrames(buf []byte, ends []int, progress func()) (int, error) {
	var err error
	written, start := 0, 0
	m.onWritten = progress
	for _, end := range ends {
		m.msgs = append(m.msgs, buf[start:end:end])
		start = end
		if end-written < writeChunk && end < len(buf) {
			continue
		}
		err = m.conn.WriteMessages(m.msgs)
		clear(m.msgs)
		m.msgs = m.msgs[:0]
		written = end // or a part of it, which is not known
		if err != nil {
			break
		}
		if end < len(buf) {
			progress()
		}
	}
	return written, err
}

// closeOnce closes a connection once. Who comes later waits for the first, which may take
// its time: on a channel, so that a bubble of testing/synctest goes on.
type closeOnce struct {
	mu     sync.Mutex
	closed chan struct{} // made by the first
}

func (c *closeOnce) do(closeConn func()) {
	c.mu.Lock()
	first := c.closed == nil
	if first {
		c.closed = make(chan struct{})
	}
	closed := c.closed
	c.mu.Unlock()
	if !first {
		<-closed
		return
	}
	defer close(closed)
	closeConn()
}

func (m *messages) closeWithCause(cause error) (err error) {
	m.closing.do(func() {
		if conn, ok := m.conn.(CloserWithError); ok {
			err = conn.CloseWithError(cause)
		} else {
			err = m.conn.Close()
		}
	})
	return err
}

func (m *messages) tellsCause() bool {
	_, ok := m.conn.(CloserWithError)
	return ok
}

func (m *messages) closeWrite() bool        { return false }
func (m *messages) endedUnterminated() bool { return false }
func (m *messages) hasHungUp() bool         { return false }
func (m *messages) canWriteNow() bool       { return canWriteNow(m.conn) }

func (m *messages) receivedBytes() uint64 {
	if conn, ok := m.conn.(PartReader); ok {
		return conn.Received()
	}
	return m.totalBytes
}

func (m *messages) releaseInput()                  {}
func (m *messages) unreadInput() ([]byte, framing) { return nil, framedOtherwise }

func (m *messages) userConn() any { return m.conn }

// RemoteAddr returns the peer's address, nil if the connection is no [net.Conn].
func (s *Session) RemoteAddr() net.Addr {
	if conn := s.NetConn(); conn != nil {
		return conn.RemoteAddr()
	}
	return nil
}

// LocalAddr returns this end's address, nil if the connection is no [net.Conn].
func (s *Session) LocalAddr() net.Addr {
	if conn := s.NetConn(); conn != nil {
		return conn.LocalAddr()
	}
	return nil
}

// canWriteNow reports whether the operating system takes more of conn's output at once.
func canWriteNow(conn any) bool {
	if p, ok := conn.(*program); ok {
		conn = p.WriteCloser
	}
	raw := rawConn(conn)
	return raw != nil && systemHasRoom(raw)
}

// rawConn returns the file descriptor under conn by which the peer's end can be
// watched, nil if there is none.
func rawConn(conn any) syscall.RawConn {
	switch c := conn.(type) {
	case *SOCKSConn:
		return rawConn(c.Conn)
	case *joinedConn:
		return rawConn(c.w)
	case syscall.Conn:
		if raw, err := c.SyscallConn(); err == nil {
			return raw
		}
	case interface{ NetConn() net.Conn }:
		return rawConn(c.NetConn())
	}
	return nil
}

// Conn returns the connection that the session was started on, an
// [io.ReadWriteCloser] or a [MessageConn], to look at and not to read, write or
// close. A transport finds what it knows of its connection there, such as who has
// logged in.
func (s *Session) Conn() any { return s.conn.userConn() }

// NetConn returns the connection under the session if it is a [net.Conn], to
// look at (the state of TLS, say) and not to read, write or close: [Session.Conn],
// or what that has under it, and shows by a method NetConn of its own.
func (s *Session) NetConn() net.Conn {
	switch conn := s.Conn().(type) {
	case net.Conn:
		return conn
	case interface{ NetConn() net.Conn }:
		return conn.NetConn()
	}
	return nil
}

const (
	firstBuffer = 512      // what an idle stream that is no socket holds to read into
	readBuffer  = 8 << 10  // what a socket is read into; beyond is counted, and given back
	largeBuffer = 64 << 10 // of messages that are larger, the next part has to come in time
)

// readBuffers are those of sockets, of which each read takes one.
var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// getReadBuffer returns a buffer of a size that is a power of two. Larger ones are used
// again, too: they would have to be cleared and soon be collected.
func getReadBuffer(size int) []byte {
	switch {
	case size == readBuffer:
		return readBuffers.Get().(*[readBuffer]byte)[:]
	case size > readBuffer:
		return buffers.Get(size)
	}
	return make([]byte, size)
}

// recycleReadBuffer gives back what getReadBuffer returned; nothing else may use it any more.
func recycleReadBuffer(buf []byte) {
	switch size := len(buf); {
	case size == readBuffer:
		readBuffers.Put((*[readBuffer]byte)(buf))
	case size > readBuffer:
		buffers.Put(buf)
	}
}
