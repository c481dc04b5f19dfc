// Package buffers keeps buffers for messages, for reuse.
package buffers

import (
	"math/bits"
	"sync"
)

// pools holds *[]byte, by the binary logarithm of the length.
var pools [bits.UintSize]sync.Pool

// Get returns a buffer of the given size, a power of two. The buffer's content is not
// cleared.
func Get(size int) []byte {
	if buf, ok := pools[bits.TrailingZeros(uint(size))].Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, size)
}

// Put gives back a buffer from Get. The caller must not use the buffer afterwards.
func Put(buf []byte) {
	pools[bits.TrailingZeros(uint(len(buf)))].Put(&buf)
}
