// Package buffers keeps buffers for messages, for reuse.
package buffers

import (
	"math/bits"
	"sync"

	"example.com/rpcx/internal/race"
)

// MaxSize is the size of the largest buffer that is kept. The garbage collector empties
// the pools, so even large buffers do not stay.
const MaxSize = 4 << 20

var (
	pools   [bits.UintSize]sync.Pool // of *[]byte, by the binary logarithm of the length
	headers sync.Pool                // of *[]byte without a buffer, which spare Put an allocation
)

// Get returns a buffer of the given size, a power of two. The buffer's content is not
// cleared.
func Get(size int) []byte {
	if h, ok := pools[bits.TrailingZeros(uint(size))].Get().(*[]byte); ok {
		buf := *h
		*h = nil
		headers.Put(h)
		return buf
	}
	return make([]byte, size)
}

// SizeFor returns the smallest size for Get that is at least n.
func SizeFor(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

// Overwrite overwrites a buffer that is given back, in builds with the race detector or the
// tag rpcxdebug. So a test sees the use of a buffer that belongs to nobody.
func Overwrite(buf []byte) {
	if race.Enabled {
		for i := range buf {
			buf[i] = '!'
		}
	}
}

// Put gives back a buffer from Get, with its whole length. The caller must not use the
// buffer afterwards.
func Put(buf []byte) {
	Overwrite(buf)
	if len(buf) > MaxSize {
		return
	}
	h, ok := headers.Get().(*[]byte)
	if !ok {
		h = new([]byte)
	}
	*h = buf
	pools[bits.TrailingZeros(uint(len(buf)))].Put(h)
}
