package rpcx

import (
	"math/bits"
	"sync"
)

const (
	firstBuffer = 512      // what an idle stream that is no socket holds to read into
	readBuffer  = 8 << 10  // what a socket is read into
	largeBuffer = 64 << 10 // what one holds that is busy; beyond is given back
)

// Buffers to read into that are used again: those of sockets, of which each read
// takes one, and large ones, which would have to be cleared and soon be collected.
var (
	readBuffers  = sync.Pool{New: func() any { return new([readBuffer]byte) }}
	largeBuffers [bits.UintSize]sync.Pool // of *[]byte, by the logarithm of their lengths
)

// takeBuffer returns a buffer of a size that is a power of two.
func takeBuffer(size int) []byte {
	if size == readBuffer {
		return readBuffers.Get().(*[readBuffer]byte)[:]
	}
	if size > largeBuffer {
		if buf, ok := largeBuffers[bits.TrailingZeros(uint(size))].Get().(*[]byte); ok {
			return *buf
		}
	}
	return make([]byte, size)
}

// giveBuffer gives back what takeBuffer returned; nothing else may use it any more.
func giveBuffer(buf []byte) {
	switch size := len(buf); {
	case size == readBuffer:
		readBuffers.Put((*[readBuffer]byte)(buf))
	case size > largeBuffer:
		large := buf // whose address is taken: buf would be on the heap in the other cases, too
		largeBuffers[bits.TrailingZeros(uint(size))].Put(&large)
	}
}
