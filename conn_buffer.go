package rpcx

import (
	"sync"

	"example.com/rpcx/internal/buffers"
)

const (
	firstBuffer = 512      // read buffer of an idle stream that is no socket
	readBuffer  = 8 << 10  // read buffer of a socket; larger buffers are counted, and given back
	largeBuffer = 64 << 10 // in a message above this size, the next part must arrive in time
)

// readBuffers pools the buffers of sockets; each read takes a buffer.
var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// getReadBuffer returns a buffer of the given size, a power of two. Buffers above
// readBuffer are pooled too, which saves clearing and collecting them.
func getReadBuffer(size int) []byte {
	switch {
	case size == readBuffer:
		return readBuffers.Get().(*[readBuffer]byte)[:]
	case size > readBuffer:
		return buffers.Get(size)
	}
	return make([]byte, size)
}

// recycleReadBuffer returns a buffer of getReadBuffer to its pool. Callers must not use buf
// afterwards.
func recycleReadBuffer(buf []byte) {
	switch size := len(buf); {
	case size == readBuffer:
		buffers.Overwrite(buf)
		readBuffers.Put((*[readBuffer]byte)(buf))
	case size > readBuffer:
		buffers.Put(buf)
	}
}

// readBufferSize returns the size of the smallest pooled buffer for n bytes.
func readBufferSize(n int) int { return max(readBuffer, buffers.SizeFor(n)) }

// maxGrowth bounds how much of a buffer is for bytes that have not arrived: a buffer grows
// at most to maxGrowth times its size.
const maxGrowth = 8

// grownSize returns the size of the buffer that replaces a full buffer: twice the size, or
// more if the buffer was filled further the last time. Messages on a connection are often
// alike, so a large message is copied less often while it arrives.
func (s *stream) grownSize() int {
	return max(2*len(s.buf), min(readBufferSize(s.lastFill), maxGrowth*len(s.buf)))
}

// detachInput leaves largeSize unchanged: until the next read into an empty buffer, the
// reported size is an upper bound.
func (s *stream) detachInput(size int) []byte {
	if len(s.buf) <= readBuffer || size <= len(s.buf)/2 || s.readErr != nil || !s.keepsMessages() {
		return nil // after readErr, unreadInput may still need the message
	}
	full, rest := s.buf, s.buf[s.r:s.w]
	s.detachedFill = s.r
	s.buf, s.r, s.w, s.unreadFrom = nil, 0, 0, 0
	if len(rest) > 0 {
		s.buf = getReadBuffer(readBufferSize(len(rest)))
		s.w = copy(s.buf, rest)
	}
	return full
}

func (s *stream) releaseInput() {
	if s.buf != nil {
		recycleReadBuffer(s.buf)
	}
	s.buf, s.r, s.w, s.unreadFrom = nil, 0, 0, 0
}
