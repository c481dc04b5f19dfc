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
// Header names are read in any case, and a header that is received may end in a
// newline alone. Headers other than Content-Length and Content-Type are passed over.
// A blank line before the headers is an empty message, which a session passes over.
// Headers that are no headers, and a Content-Length that is missing, is given twice
// or is no number, end the session with a [*FrameError], for where the next message
// begins cannot be told. So do headers of more than 4,096 bytes, and a Content-Type
// with a charset other than utf-8 (or utf8), since messages are read as UTF-8 only.
type HeaderFramer struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes
	// without its headers; 0 means [DefaultMaxSize], a negative value no limit. A
	// message received that is larger is dropped, with one recoverable
	// [*FrameError], and what follows it is read as before. Memory is taken for what
	// has arrived, and never for what a header announces.
	MaxSize int
}

// maxHeaders is how many bytes the headers of one message may have together.
const maxHeaders = 4096

// NewSplitter implements [Framer].
func (f HeaderFramer) NewSplitter() bufio.SplitFunc {
	limit := maxSize(f.MaxSize)
	h := headers{length: -1}
	skip := 0 // how much of a message that is dropped is still to come
	return func(data []byte, atEOF bool) (int, []byte, error) {
		if skip > 0 {
			n := min(skip, len(data))
			skip -= n
			return n, nil, nil
		}
		if n := blankLine(data); n > 0 && h.line == 0 {
			h.scanned = 0
			return n, data[:0], nil
		}
		if err := h.read(data); err != nil {
			return 0, nil, err
		}
		body, length := h.body, h.length
		switch {
		case body == 0: // the headers are not complete
			return 0, nil, nil
		case length > limit:
			start := data[body:min(len(data), body+min(length, StartSize))]
			if !atEOF && len(start) < min(length, StartSize) {
				return 0, nil, nil
			}
			h = headers{length: -1}
			skip = length - len(start)
			return body + len(start), nil, &FrameError{
				Message:     "dropping message of " + thousands(length) + " bytes, " + over(limit, "bytes", f.MaxMessageField()),
				Recoverable: true,
				TooLarge:    &SizeError{Size: length, Limit: limit, Field: f.MaxMessageField()},
				Start:       startOf(start),
			}
		case len(data)-body < length:
			return 0, nil, nil
		}
		h = headers{length: -1}
		end := body + length
		return end, data[body:end:end], nil
	}
}

// notInNames has the characters that no name of a header contains, and a line of JSON
// does before its first colon.
const notInNames = "\"(),/;<=>?@[\\]{}"

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
		line := bytes.TrimSuffix(window[h.line:end], []byte("\r")) // some peers leave it out
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

// blankLine returns the size of the blank line that data begins with, 0 if there is none.
func blankLine(data []byte) int {
	switch {
	case bytes.HasPrefix(data, []byte("\n")):
		return 1
	case bytes.HasPrefix(data, []byte("\r\n")):
		return 2
	}
	return 0
}

// field reads one header.
func (h *headers) field(line []byte) error {
	name, value, ok := bytes.Cut(line, []byte(":"))
	switch {
	case !ok, bytes.ContainsAny(name, notInNames):
		return &FrameError{Message: fmt.Sprintf("not a header: %q", excerpt(line))}
	case bytes.EqualFold(name, []byte("Content-Type")):
		return checkCharset(value)
	case !bytes.EqualFold(name, []byte("Content-Length")):
		return nil
	case h.length >= 0:
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
		return &FrameError{Message: fmt.Sprintf("bad Content-Length: %q", excerpt(digits))}
	}
	h.length = n
	return nil
}

// checkCharset returns an error if a Content-Type has a charset that is not UTF-8. The
// Language Server Protocol: "It defaults to utf-8, which is the only encoding supported
// right now." Its first versions called that utf8.
func checkCharset(contentType []byte) error {
	for len(contentType) > 0 {
		var param []byte
		param, contentType = cutParam(contentType)
		name, value, _ := bytes.Cut(param, []byte("="))
		if !bytes.EqualFold(bytes.TrimSpace(name), []byte("charset")) {
			continue
		}
		value = bytes.Trim(value, " \t\"'")
		if len(value) > 0 && !bytes.EqualFold(value, []byte("utf-8")) && !bytes.EqualFold(value, []byte("utf8")) {
			text := fmt.Sprintf("charset %q in a Content-Type: messages have to be in utf-8", excerpt(value))
			return &FrameError{Message: text, Answer: &Error{Code: CodeParseError, Message: text}}
		}
	}
	return nil
}

// cutParam cuts contentType at the first semicolon that is not in quotes.
func cutParam(contentType []byte) (param, rest []byte) {
	quoted := false
	for i := 0; i < len(contentType); i++ {
		switch c := contentType[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++ // what it escapes
		case c == ';' && !quoted:
			return contentType[:i], contentType[i+1:]
		}
	}
	return contentType, nil
}

// MaxMessage implements [SizeLimiter].
func (f HeaderFramer) MaxMessage() int { return maxSize(f.MaxSize) }

// MaxMessageField returns the name of the field that sets the limit.
func (HeaderFramer) MaxMessageField() string { return "HeaderFramer.MaxSize" }

// AppendFrame implements [Framer]. It does not fail.
func (HeaderFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(msg)), 10)
	return append(append(dst, "\r\n\r\n"...), msg...), nil
}
