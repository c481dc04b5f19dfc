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
	// MaxSize is the largest message to be received, in bytes without its length;
	// 0 means [DefaultMaxSize], a negative value no limit. A message that is larger
	// is dropped as its bytes arrive, with one recoverable [*FrameError].
	MaxSize int
}

const lengthSize = 4

// NewSplitter implements [Framer].
func (f LengthFramer) NewSplitter() bufio.SplitFunc {
	limit := uint64(maxSize(f.MaxSize))
	dropping := uint64(0) // what is to come yet of a message that is too large
	return func(data []byte, _ bool) (int, []byte, error) {
		if dropping > 0 {
			n := min(dropping, uint64(len(data)))
			dropping -= n
			return int(n), nil, nil
		}
		if len(data) < lengthSize {
			return 0, nil, nil
		}
		size := uint64(binary.BigEndian.Uint32(data))
		if size > limit {
			dropping = size
			return lengthSize, nil, &FrameError{
				Message:     "dropping message over " + thousands(int(limit)) + " bytes (LengthFramer.MaxSize)",
				Recoverable: true,
			}
		}
		end := lengthSize + size
		if uint64(len(data)) < end {
			return 0, nil, nil
		}
		return int(end), data[lengthSize:end:end], nil
	}
}

// AppendFrame implements [Framer]. It fails for a message of 4 GiB or more.
func (LengthFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	if uint64(len(msg)) > math.MaxUint32 {
		return dst, fmt.Errorf("frame a message of %d bytes: its length does not fit into 4 bytes", len(msg))
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(msg))), msg...), nil
}
