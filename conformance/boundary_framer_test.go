package conformance

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"

	"example.com/rpcx"
)

// Framers and a message connection as a user might write them. Nothing in
// these files is more than what rpcx exports.

// lengthFramer puts the length of each message before it, as 4 bytes.
type lengthFramer struct{ max uint32 }

func (f lengthFramer) NewSplitter() bufio.SplitFunc {
	return func(data []byte, _ bool) (int, []byte, error) {
		if len(data) < 4 {
			return 0, nil, nil
		}
		size := binary.BigEndian.Uint32(data)
		if size > f.max {
			return 0, nil, &rpcx.FrameError{Message: fmt.Sprintf("a message of %d bytes, over %d", size, f.max)}
		}
		if uint64(len(data)) < 4+uint64(size) {
			return 0, nil, nil
		}
		return 4 + int(size), data[4 : 4+size], nil
	}
}

func (lengthFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(msg))), msg...), nil
}

// socket is one end of a connection that keeps messages apart, like a WebSocket.
// What it has returned is overwritten as soon as it may be.
type socket struct {
	in  <-chan []byte
	out chan<- []byte
	buf []byte

	bad           chan struct{} // a message was lost
	closed, other chan struct{}
	once          *sync.Once
}

// newSockets returns the two ends.
func newSockets() (a, b *socket) {
	up, down := make(chan []byte), make(chan []byte)
	aClosed, bClosed := make(chan struct{}), make(chan struct{})
	bad := make(chan struct{})
	return &socket{down, up, nil, bad, aClosed, bClosed, new(sync.Once)}, &socket{up, down, nil, bad, bClosed, aClosed, new(sync.Once)}
}

func (s *socket) ReadMessage() ([]byte, error) {
	for i := range s.buf {
		s.buf[i] = '!'
	}
	select {
	case msg := <-s.in:
		s.buf = append(s.buf[:0], msg...)
		return s.buf, nil
	case <-s.bad:
		return nil, &rpcx.FrameError{Message: "a binary message", Recoverable: true}
	case <-s.other:
		return nil, io.EOF
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *socket) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		select {
		case s.out <- bytes.Clone(msg):
		case <-s.other:
			return io.ErrClosedPipe
		case <-s.closed:
			return net.ErrClosed
		}
	}
	return nil
}

func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// dribble is a connection that gives what is read byte by byte.
type dribble struct{ net.Conn }

func (d dribble) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return d.Conn.Read(p[:1])
}
