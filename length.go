package rpcx

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
)

// LengthFramer has the length of each message before it, in 4 bytes, the highest
// first, as aiomas.
type LengthFramer struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes
	// without its length; 0 means [DefaultMaxSize], a negative value no limit. A
	// message received that is larger is dropped as its bytes arrive, with one
	// recoverable [*FrameError].
	MaxSize int
}

const lengthSize = 4

// NewSplitter implements [Framer].
func (f LengthFramer) NewSplitter() bufio.SplitFunc {
	limit := uint64(maxSize(f.MaxSize))
	dropping := uint64(0) // what is to come yet of a message that is too large
	return func(data []byte, atEOF bool) (int, []byte, error) {
		if dropping > 0 {
			n := min(dropping, uint64(len(data)))
			dropping -= n
			return int(n), nil, nil
		}
		if len(data) < lengthSize {
			return 0, nil, nil
		}
		size := uint64(binary.BigEndian.Uint32(data))
		end := lengthSize + size
		if size > limit {
			start := data[lengthSize:min(uint64(len(data)), end, lengthSize+StartSize)]
			if !atEOF && len(start) < StartSize && uint64(len(start)) < size && mayBegin(start) {
				return 0, nil, nil
			}
			dropping = size - uint64(len(start))
			return lengthSize + len(start), nil, &FrameError{
				Message:     "dropping message " + over(int(limit), "bytes", f.MaxMessageField()),
				Recoverable: true,
				TooLarge:    &SizeError{Size: int(min(size, math.MaxInt)), Limit: int(limit), Field: f.MaxMessageField()},
				Start:       startOf(start),
			}
		}
		if uint64(len(data)) < end {
			return 0, nil, nil
		}
		return int(end), data[lengthSize:end:end], nil
	}
}

// mayBegin reports whether a message of JSON or MessagePack may begin with start. What
// may not is no message that could show its id, and perhaps no length came before it.
func mayBegin(start []byte) bool {
	rest := start[spaces(start):]
	if len(rest) == 0 {
		return true
	}
	switch c := rest[0]; c {
	case '{', '[':
		return true
	case 0xdc, 0xdd, 0xde, 0xdf:
		return len(rest) == len(start)
	default:
		return c >= 0x80 && c <= 0x9f && len(rest) == len(start)
	}
}

// MaxMessage implements [SizeLimiter].
func (f LengthFramer) MaxMessage() int { return maxSize(f.MaxSize) }

// MaxMessageField returns the name of the field that sets the limit.
func (LengthFramer) MaxMessageField() string { return "LengthFramer.MaxSize" }

// AppendFrame implements [Framer]. It fails for a message of 4 GiB or more.
func (LengthFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	if uint64(len(msg)) > math.MaxUint32 {
		return dst, fmt.Errorf("frame a message of %s bytes: its length does not fit into 4 bytes", thousands(len(msg)))
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(msg))), msg...), nil
}
