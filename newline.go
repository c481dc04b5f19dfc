package rpcx

import (
	"bufio"
	"bytes"
	"errors"

	"example.com/rpcx/internal/bounded"
)

// DefaultMaxSize is the default size of the largest message of this package's framers:
// 1,000,000 bytes, as in aiorpcX.
const DefaultMaxSize = 1_000_000

// StartSize is the number of bytes kept from the beginning of a dropped message. The
// start may show the message's sender or call.
const StartSize = 1 << 10

// NewlineFramer ends each message with a newline; the last message of the input needs no
// newline. The JSON written by this package never contains a newline. NewlineFramer is
// the default.
type NewlineFramer struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes without
	// the newline. 0 means [DefaultMaxSize], a negative value no limit. A larger received
	// message is dropped, with a single recoverable [*FrameError]. The stream is in step
	// again after the next newline.
	MaxSize int
}

// NewSplitter implements [Framer].
func (f NewlineFramer) NewSplitter() bufio.SplitFunc {
	limit := maxSize(f.MaxSize)
	scanned := 0      // data[:scanned] has no newline
	dropping := false // until the next newline
	return func(data []byte, atEOF bool) (int, []byte, error) {
		i := bytes.IndexByte(data[scanned:], '\n')
		if i >= 0 {
			i += scanned
			scanned = 0
		}
		switch {
		case dropping && i >= 0:
			dropping = false
			return i + 1, nil, nil
		case dropping:
			return len(data), nil, nil
		case i > limit:
			return i + 1, nil, f.dropError(limit, data[:i])
		case i >= 0:
			return i + 1, data[:i:i], nil
		case len(data) > limit:
			scanned, dropping = 0, true
			return len(data), nil, f.dropError(limit, data)
		case atEOF && len(bytes.TrimSpace(data)) > 0: // the last line needs no newline
			scanned = 0
			return len(data), data, nil
		case atEOF:
			return len(data), nil, nil
		}
		scanned = len(data)
		return 0, nil, nil
	}
}

// MaxMessage implements [SizeLimiter].
func (f NewlineFramer) MaxMessage() int { return maxSize(f.MaxSize) }

// MaxMessageField returns "NewlineFramer.MaxSize", the field that sets the limit.
func (NewlineFramer) MaxMessageField() string { return "NewlineFramer.MaxSize" }

func (f NewlineFramer) dropError(limit int, msg []byte) error {
	return dropError("message over "+thousands(limit)+" bytes and re-synchronizing", &SizeError{Limit: limit, Field: f.MaxMessageField()}, msg)
}

// AppendFrame implements [Framer]. For a message with a newline, AppendFrame fails.
func (NewlineFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	if err := checkNewlines(msg); err != nil {
		return dst, err
	}
	return append(append(dst, msg...), '\n'), nil
}

// appendNewline is AppendFrame without a copy: the result is msg, extended in place.
func (NewlineFramer) appendNewline(msg []byte) ([]byte, error) {
	if err := checkNewlines(msg); err != nil {
		return msg, err
	}
	return append(msg, '\n'), nil
}

// checkNewlines returns an error for a message with a newline.
func checkNewlines(msg []byte) error {
	if bytes.IndexByte(msg, '\n') >= 0 {
		return errors.New("rpcx: a message with a newline in it cannot be framed by newlines")
	}
	return nil
}

// maxSize resolves a framer's MaxSize to a number of bytes.
func maxSize(n int) int { return bounded.LimitOr(n, DefaultMaxSize) }
