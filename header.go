package rpcx

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"strconv"
)

// HeaderFramer puts headers before each message, as the Language Server Protocol
// (its "base protocol") and the Debug Adapter Protocol do:
//
//	Content-Length: 38\r\n
//	\r\n
//	{"jsonrpc":"2.0","result":null,"id":1}
//
// Header names are read in any case, and headers other than Content-Length, such
// as Content-Type, are passed over. Headers that are no headers, and a
// Content-Length that is missing, is given twice or is no number, end the session
// with a [*FrameError], for where the next message begins cannot be told. So do
// headers of more than 4,096 bytes.
type HeaderFramer struct {
	// MaxSize is the largest message to be received, in bytes without its
	// headers; 0 means [DefaultMaxSize], a negative value no limit. A message that
	// is larger is dropped, with one recoverable [*FrameError], and what follows it
	// is read as before. Memory is taken for what has arrived, and never for what
	// a header announces.
	MaxSize int
}

// maxHeaders is how many bytes the headers of one message may have together.
const maxHeaders = 4096

// NewSplitter implements [Framer].
func (f HeaderFramer) NewSplitter() bufio.SplitFunc {
	limit := maxSize(f.MaxSize)
	h := headers{length: -1}
	skip := 0 // how much of a message that is dropped is still to come
	return func(data []byte, _ bool) (int, []byte, error) {
		if skip > 0 {
			n := min(skip, len(data))
			skip -= n
			return n, nil, nil
		}
		if err := h.read(data); err != nil {
			return 0, nil, err
		}
		body, length := h.body, h.length
		switch {
		case body == 0: // the headers are not complete
			return 0, nil, nil
		case length > limit:
			h = headers{length: -1}
			skip = length
			return body, nil, &FrameError{
				Message:     "dropping message of " + thousands(length) + " bytes, over " + thousands(limit) + " (HeaderFramer.MaxSize)",
				Recoverable: true,
			}
		case len(data)-body < length:
			return 0, nil, nil
		}
		h = headers{length: -1}
		end := body + length
		return end, data[body:end:end], nil
	}
}

// headers are what is known of the headers at the beginning of the data.
type headers struct {
	line    int // where the first line begins that was not read
	scanned int // from there to here is no end of it
	length  int // Content-Length, -1 if there was none
	body    int // where the message begins, 0 before that is known
}

// read reads the lines that data has beyond those it had before.
func (h *headers) read(data []byte) error {
	for h.body == 0 {
		window := data[:min(len(data), maxHeaders)]
		i := bytes.IndexByte(window[h.scanned:], '\n')
		if i < 0 {
			if len(window) == maxHeaders {
				return &FrameError{Message: "headers of more than " + thousands(maxHeaders) + " bytes"}
			}
			h.scanned = len(window)
			return nil
		}
		end := h.scanned + i
		line, ok := bytes.CutSuffix(window[h.line:end], []byte("\r"))
		if !ok {
			return &FrameError{Message: fmt.Sprintf("a header must end in a carriage return and a newline: %.60q", line)}
		}
		h.line, h.scanned = end+1, end+1
		switch {
		case len(line) > 0:
			if err := h.field(line); err != nil {
				return err
			}
		case h.length < 0:
			return &FrameError{Message: "a message without a Content-Length"}
		default:
			h.body = h.line
		}
	}
	return nil
}

// field reads one header.
func (h *headers) field(line []byte) error {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return &FrameError{Message: fmt.Sprintf("not a header: %.60q", line)}
	}
	if !bytes.EqualFold(name, []byte("Content-Length")) {
		return nil
	}
	if h.length >= 0 {
		// Which of them to believe is what two programs may differ in.
		return &FrameError{Message: "a message with two Content-Lengths"}
	}
	n, digits := 0, bytes.Trim(value, " \t")
	for _, c := range digits {
		if c < '0' || c > '9' || n > (math.MaxInt-9)/10 {
			n = -1
			break
		}
		n = 10*n + int(c-'0')
	}
	if n < 0 || len(digits) == 0 {
		return &FrameError{Message: fmt.Sprintf("bad Content-Length: %.60q", digits)}
	}
	h.length = n
	return nil
}

// AppendFrame implements [Framer]. It does not fail.
func (HeaderFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(msg)), 10)
	return append(append(dst, "\r\n\r\n"...), msg...), nil
}
