package rpcx

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"

	"example.com/rpcx/internal/sockstate"
)

// transport is the connection that the session's reader and writer use: a [MessageConn], or
// a byte stream with a [Framer].
type transport interface {
	// nextMessage returns the next message, valid until the next call. If wait is unset and
	// only a read could yield a message, the result is nil.
	nextMessage(wait bool) ([]byte, error)
	// keepsMessages reports whether messages are valid until the next read: their memory is
	// that of the connection's input, and not that of a splitter of another package.
	keepsMessages() bool
	// maxMessage returns the size of the largest message, or 0 if the size is unknown.
	maxMessage() int
	// maxMessageField returns the name of the field that sets maxMessage.
	maxMessageField() string
	// frame returns msg in the outbox's format. If the format has no bytes before msg, the
	// frame is msg itself, extended in place. Otherwise the frame is a copy, appended to dst.
	// frame fails with a [*SizeError] if msg is larger than maxMessage.
	frame(dst, msg []byte) (frame []byte, inPlace bool, err error)
	// writeFrames writes the frames in buf; ends holds the end of each frame. It calls
	// progress after each part except the last. The result is the number of bytes written,
	// an upper bound after an error.
	writeFrames(buf []byte, ends []int, progress func()) (int, error)
	// onPart sets a callback for messages that are incomplete or being dropped. The reader
	// calls part before each further read, with the buffer's size, or 0 for a small buffer.
	// When a large buffer has been given back, the reader calls part with 0. An error from
	// part ends the reading.
	onPart(part func(size int) error)
	// socket returns the socket for writes that never wait, or nil.
	socket() *socket
	// canWriteNow reports whether the operating system has room, so that a write would not
	// wait for the peer. It is false if the system does not know the connection.
	canWriteNow() bool
	// closeWithCause closes the connection, and may send cause to the peer.
	closeWithCause(cause error) error
	// tellsCause reports whether closeWithCause sends the cause to the peer.
	tellsCause() bool
	// closeWrite closes this end's half of the connection, and reports success.
	closeWrite() bool
	// endedUnterminated reports whether the input ended right after a message without a
	// delimiter.
	endedUnterminated() bool
	// hasHungUp reports whether, according to the operating system, the peer has closed
	// both halves of the connection. It is false if the system cannot tell.
	hasHungUp() bool
	receivedBytes() uint64 // for the reader
	// detachInput gives the buffer with the last message, of size bytes, to the caller. If
	// the message fills less than half of a large buffer, or has other memory, the result is
	// nil, and the buffer stays with the connection.
	detachInput(size int) []byte
	// unreadInput returns the input from the start of the faulty, incomplete or cut-off
	// message on. It is valid until the next call.
	unreadInput() ([]byte, framing)
	// releaseInput gives back the input buffer. The reader calls it last, since a program
	// may keep a session that has ended.
	releaseInput()
	userConn() any // the user's connection object
}

// keptBytes returns how many bytes conn holds beside messages, such as a WebSocket's
// request. The sizes that conn passes to the OnPart callback include these bytes.
func keptBytes(conn any) int {
	if conn, ok := conn.(interface{ KeptBytes() int }); ok {
		return conn.KeptBytes()
	}
	return 0
}

// writeChunk is the size of a write that may wait, in bytes.
const writeChunk = 16 << 10

// stream is a byte stream with a Framer.
type stream struct {
	conn             io.ReadWriteCloser
	framer           Framer
	maxSize          int // see maxMessage
	split            bufio.SplitFunc
	sock             *socket // nil if conn is another kind of connection
	buf              []byte  // buf[r:w] is read and not consumed
	r, w             int
	unreadFrom       int // start of the data passed to split last
	onPartial        func(int) error
	largeSize        int // last size passed to onPartial, 0 if not large
	totalBytes       uint64
	lastFill         int   // number of bytes in the buffer when the buffer was last emptied
	detachedFill     int   // number of bytes in a detached buffer, until the next read
	lastRead         int   // byte count of the last Read
	readErr          error // error of the last Read
	lastUnterminated bool  // the last message ended the input, without a delimiter
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

// splitFirst splits the beginning of the stream, and skips a byte order mark there.
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

func (s *stream) keepsMessages() bool { return framingOf(s.framer) != framedOtherwise }

func (s *stream) socket() *socket { return s.sock }

func (s *stream) onPart(part func(int) error) { s.onPartial = part }

func (s *stream) nextMessage(wait bool) ([]byte, error) {
	for reads := 0; ; reads++ {
		if s.w > s.r || s.readErr == io.EOF {
			s.markUnread()
			advance, token, err := s.split(s.buf[s.r:s.w], s.readErr == io.EOF)
			if advance < 0 || advance > s.w-s.r {
				return nil, &FrameError{Message: "the framer advanced beyond its data"}
			}
			s.r += advance
			s.lastUnterminated = s.readErr == io.EOF && len(token) == advance
			if advance == 0 && (err != nil || token != nil) {
				// A recoverable error would repeat endlessly.
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
				if err := s.onPartial(s.largeSize); err != nil { // a message is being dropped
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
		if reads > 0 {
			runtime.Gosched() // a message without an end must not keep a processor
		}
		if s.readMore(); s.readErr == errReadInterrupted {
			s.readErr = nil
			return nil, errReadInterrupted
		}
	}
}

// markUnread sets unreadFrom to the beginning of the next message, for unreadInput. If the
// last message had no delimiter, unreadFrom stays at its beginning.
func (s *stream) markUnread() {
	if !s.endedUnterminated() {
		s.unreadFrom = s.r
	}
}

// readMore reads once, into a buffer that grows when full. The buffer grows only by bytes
// that have arrived, never by an announced length; see grownSize.
func (s *stream) readMore() {
	if s.r == s.w {
		s.lastFill = max(s.w, s.detachedFill)
		s.r, s.w, s.unreadFrom, s.detachedFill = 0, 0, 0, 0 // onPartial may ask for the unread input
		if s.largeSize > 0 {
			s.largeSize = 0
			_ = s.onPartial(0) // requests no memory
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
		size := s.grownSize()
		if size > readBuffer {
			s.largeSize = size
			if s.readErr = s.onPartial(size); s.readErr != nil {
				return
			}
		}
		grown := getReadBuffer(size)
		s.w = copy(grown, s.buf[s.r:s.w])
		recycleReadBuffer(s.buf)
		s.buf, s.r = grown, 0
	}
	n, err := s.conn.Read(s.buf[s.w:])
	if n == len(s.buf)-s.w && n > 0 && s.r == 0 && s.w == 0 && len(s.buf) < readBuffer {
		// The buffer was filled at once: read more at a time from now on.
		grown := getReadBuffer(min(4*len(s.buf), readBuffer))
		copy(grown, s.buf)
		recycleReadBuffer(s.buf)
		s.buf = grown
	}
	s.w += n
	s.lastRead = n
	s.totalBytes += uint64(n)
	if s.sock != nil && s.sock.isInterruption(err) {
		err = errReadInterrupted
	}
	s.readErr = err
}

func (s *stream) maxMessage() int { return s.maxSize }

func (s *stream) maxMessageField() string { return maxMessageField(s.framer) }

func (s *stream) frame(dst, msg []byte) (frame []byte, inPlace bool, err error) {
	if err := checkSize(s.framer, s.maxSize, msg); err != nil {
		return dst, false, err
	}
	switch f := s.framer.(type) { // exact types: a type that embeds one may have another AppendFrame
	case NewlineFramer:
		frame, err = f.appendNewline(msg)
		return frame, true, err
	case JSONFramer:
		return append(msg, '\n'), true, nil
	}
	frame, err = s.framer.AppendFrame(dst, msg)
	return frame, false, err
}

func (s *stream) writeFrames(buf []byte, _ []int, progress func()) (written int, err error) {
	for {
		n := 0
		if s.sock != nil {
			n = s.sock.tryWrite(buf[written:]) // as much as fits at once
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
	return raw != nil && sockstate.HasPeerGone(raw)
}

func (s *stream) canWriteNow() bool { return canWriteNow(s.conn) }

func (s *stream) userConn() any { return s.conn }

// messages is a MessageConn.
type messages struct {
	conn       MessageConn
	maxSize    int // see maxMessage
	msgs       [][]byte
	totalBytes uint64
	closing    closeOnce
	onWritten  func() // writer only: the progress callback of writeFrames
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

func (m *messages) keepsMessages() bool { return true } // each message has a read of its own

func (m *messages) socket() *socket { return nil }

func (m *messages) onPart(part func(int) error) {
	if conn, ok := m.conn.(PartReader); ok {
		conn.OnPart(part)
	}
}

func (m *messages) maxMessage() int { return m.maxSize }

func (m *messages) maxMessageField() string { return maxMessageField(m.conn) }

func (m *messages) frame(_, msg []byte) (frame []byte, inPlace bool, err error) {
	return msg, true, checkSize(m.conn, m.maxSize, msg)
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
		written = end // perhaps only a part of the batch, after an error
		if err != nil {
			break
		}
		if end < len(buf) {
			progress()
		}
	}
	return written, err
}

// closeOnce closes a connection once. A later caller waits until the first call has
// returned, which may take time. The wait is on a channel, so that a testing/synctest
// bubble goes on.
type closeOnce struct {
	mu     sync.Mutex
	closed chan struct{} // made by the first call
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
func (m *messages) detachInput(int) []byte         { return nil }
func (m *messages) unreadInput() ([]byte, framing) { return nil, framedOtherwise }

func (m *messages) userConn() any { return m.conn }

// RemoteAddr returns the peer's address, or nil if the connection is no [net.Conn]. For
// [Server.ServeMessage], RemoteAddr returns the result of the method RemoteAddr of the
// connection.
func (s *Session) RemoteAddr() net.Addr {
	if x := s.exchange(); x != nil {
		if conn, ok := x.conn.(interface{ RemoteAddr() net.Addr }); ok {
			return conn.RemoteAddr()
		}
	}
	if conn := s.NetConn(); conn != nil {
		return conn.RemoteAddr()
	}
	return nil
}

// LocalAddr returns this end's address, or nil if the connection is no [net.Conn].
func (s *Session) LocalAddr() net.Addr {
	if conn := s.NetConn(); conn != nil {
		return conn.LocalAddr()
	}
	return nil
}

// canWriteNow reports whether the operating system accepts more output of conn at once.
func canWriteNow(conn any) bool {
	if p, ok := conn.(*program); ok {
		conn = p.WriteCloser
	}
	raw := rawConn(conn)
	return raw != nil && sockstate.HasRoom(raw)
}

// rawConn returns the file descriptor under conn for watching the peer's end, or nil.
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

// carrierOf returns the connection under conn that carries its bytes, at worst conn.
func carrierOf(conn net.Conn) net.Conn {
	for {
		switch c := conn.(type) {
		case *SOCKSConn:
			conn = c.Conn
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return conn
		}
	}
}

// Conn returns the connection that the session was started on, an [io.ReadWriteCloser] or a
// [MessageConn]. Callers may inspect the connection, but must not read, write or close it, or
// set its deadlines.
// A transport finds its own data there, such as the logged-in user.
func (s *Session) Conn() any { return s.conn.userConn() }

// NetConn returns the [net.Conn] under the session, or nil: the result of [Session.Conn],
// or of a method NetConn on the result. Callers may inspect the connection (the state of
// TLS, say), but must not read, write or close it, or set its deadlines.
func (s *Session) NetConn() net.Conn {
	switch conn := s.Conn().(type) {
	case net.Conn:
		return conn
	case interface{ NetConn() net.Conn }:
		return conn.NetConn()
	}
	return nil
}
