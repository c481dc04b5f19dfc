package rpcx

import (
	"sync"

	"example.com/rpcx/internal/buffers"
)

const (
	firstBuffer = 512      // what an idle stream that is no socket holds to read into
	readBuffer  = 8 << 10  // what a socket is read into; beyond is counted, and given back
	largeBuffer = 64 << 10 // of messages that are larger, the next part has to come in time
)

// readBuffers are those of sockets, of which each read takes one.
var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// takeBuffer returns a buffer of a size that is a power of two. Larger ones are used
// again, too: they would have to be cleared and soon be collected.
func takeBuffer(size int) []byte {
	switch {
	case size == readBuffer:
		return readBuffers.Get().(*[readBuffer]byte)[:]
	case size > readBuffer:
		return buffers.Get(size)
	}
	return make([]byte, size)
}

// giveBuffer gives back what takeBuffer returned; nothing else may use it any more.
func giveBuffer(buf []byte) {
	switch size := len(buf); {
	case size == readBuffer:
		readBuffers.Put((*[readBuffer]byte)(buf))
	case size > readBuffer:
		buffers.Put(buf)
	}
}
