// Package buffers keeps buffers of the sizes that messages need, to be used again.
package buffers

import (
	"math/bits"
	"sync"
)

// The pools hold *[]byte, by the logarithm of their lengths.
var pools [bits.UintSize]sync.Pool

// Get returns a buffer of the given size, which is a power of two. What is in it is
// not cleared.
func Get(size int) []byte {
	if buf, ok := pools[bits.TrailingZeros(uint(size))].Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, size)
}

// Put gives back what Get returned; nothing else may use it any more.
func Put(buf []byte) {
	pools[bits.TrailingZeros(uint(len(buf)))].Put(&buf)
}
