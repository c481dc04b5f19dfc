package rpcx

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// A Framer finds messages in a byte stream, and frames outgoing ones. It is
// immutable and may be shared by any number of sessions; what is particular to
// one connection (how far it has been read, whether it is out of step) lives
// in the splitter.
type Framer interface {
	// NewSplitter returns a function that splits the stream of one connection
	// into messages, with the contract of [bufio.SplitFunc] and these additions:
	// it is called with the bytes that were not yet consumed, so it starts with
	// the same bytes again if it asked for more; its work is linear in the bytes,
	// however they arrive; a nil token is no message, an empty one is; and it may
	// return an error together with what to advance by. If that is a recoverable
	// [*FrameError] the session counts it and goes on, any other error ends it.
	// The token may share data's memory: it is used up before the next call.
	NewSplitter() bufio.SplitFunc

	// AppendFrame appends msg with its framing to dst and returns the extended
	// slice. It fails if msg cannot be framed, with dst as it was.
	AppendFrame(dst, msg []byte) ([]byte, error)
}

// A SizeLimiter is a [Framer] or a [MessageConn] that takes messages up to a size.
// The session sends no message that is larger, and Limits.Response is that size by
// default. The framers of this package are all SizeLimiters.
//
// If it has a method MaxMessageField() string, errors name the limit as that returns
// it: "NewlineFramer.MaxSize".
type SizeLimiter interface {
	// MaxMessage returns the size of the largest message, in bytes without framing;
	// [math.MaxInt] if there is no limit. It is called when a session starts.
	MaxMessage() int
}

// maxMessage returns the size of the largest message that v, a Framer or a MessageConn,
// takes, 0 if v does not tell.
func maxMessage(v any) int {
	if l, ok := v.(SizeLimiter); ok {
		return max(0, l.MaxMessage())
	}
	return 0
}

// checkSize returns an error if msg is larger than limit, the maxMessage of v.
func checkSize(v any, limit int, msg []byte) error {
	if limit == 0 || len(msg) <= limit {
		return nil
	}
	if c, ok := v.(interface{ checkSize([]byte) error }); ok {
		return c.checkSize(msg) // in terms of its own
	}
	return &SizeError{Size: len(msg), Limit: limit, Field: maxMessageField(v)}
}

// maxMessageField returns the name of the field that sets the maxMessage of v.
func maxMessageField(v any) string {
	if l, ok := v.(interface{ MaxMessageField() string }); ok {
		return l.MaxMessageField()
	}
	return fmt.Sprintf("%T.MaxMessage", v)
}

// A MessageConn is a connection that keeps messages apart by itself, as a
// WebSocket does. See [NewMessageSession]. If it has a method NetConn, as
// [crypto/tls.Conn] has, that returns the connection under it, for
// [Session.NetConn] and [Session.RemoteAddr].
//
// One that drops messages, or takes memory for one before it has come in whole,
// should be a [PartReader], too; one that writes a message in parts, a [PartWriter]; one
// that can tell its peer why it is closed, a [CloserWithError].
type MessageConn interface {
	// ReadMessage returns the next message. The slice belongs to the
	// connection, and is valid until the next call. A recoverable [*FrameError]
	// reports a message that was dropped; any other error ends the session,
	// io.EOF if the peer closed the connection in order. If a message was dropped
	// that is too large, and it does not show who waits for an answer to it, the
	// session of a [CloserWithError] ends with that FrameError.
	ReadMessage() ([]byte, error)
	// WriteMessages writes the messages in order; it does not keep them.
	WriteMessages(msgs [][]byte) error
	// Close closes the connection, and unblocks the other two methods. It may
	// take leave of the peer before, if nothing is being written.
	Close() error
}

// A CloserWithError is a [MessageConn] that can tell its peer why the session ends, as a
// WebSocket does with a code.
type CloserWithError interface {
	// CloseWithError closes the connection as Close does, in place of which the session
	// calls it, once. err is why the session ends, as [Session.Err] has it, and is for
	// this side: what of it the peer is told is up to the connection.
	//
	//	ErrClosed         Close or Shutdown of the session, or ReplyAndDisconnect
	//	ErrServerClosed   Shutdown or Close of its server (Session.Err is ErrClosed)
	//	*CostError        the session cost too much
	//	ErrIdle           nothing was going on
	//	ErrSlowPeer       the peer does not read
	//	ErrFaultyPeer     the peer sends too much that is wrong
	//	*FrameError       what ReadMessage or a PartReader's part has returned
	//	*ProtocolError    a message that cannot be answered
	//	*Error            CodeServerBusy: the server had no room for the session, which
	//	                  was not started
	//	any other         of the connection itself
	//
	// If the session ends to make room on its server, err matches ErrServerFull as well.
	//
	// It may wait for the peer, but for no more than a moment: [Session.Close] does not
	// wait for it, and Done does.
	CloseWithError(err error) error
}

// A PartReader is a [MessageConn] that tells of messages before they have come in
// whole, for Limits.IdleTimeout and Server.MaxQueuedBytes, and has what it drops
// charged. Received is called on the goroutine that calls ReadMessage.
type PartReader interface {
	MessageConn
	// Received returns how many bytes have come in, with those of messages that were
	// dropped, and with whatever else the peer has sent.
	Received() uint64
	// OnPart is called once, before anything is read. While a message comes in, or is
	// dropped, ReadMessage calls part after each part of it, with the size of the
	// buffer that it is about to hold, 0 if that is not over 8 KiB; and with 0 when it
	// has given a larger one back. What the connection holds as long as it lives is added
	// to each size, and an optional method KeptBytes() int says how much that is. While anything else comes in, part is called at times, with the last
	// size again. If part fails ReadMessage returns its error.
	OnPart(part func(size int) error)
}

// A PartWriter is a [MessageConn] that writes a large message in parts and tells of
// each, so that Limits.SendTimeout is for a part and not for the whole message.
type PartWriter interface {
	MessageConn
	// OnWritten is called once, before anything is written. WriteMessages calls written
	// when it has written a part of a message, on its own goroutine.
	OnWritten(written func())
}

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
		if err := h.readLines(data); err != nil {
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
				Message:     "dropping message of " + thousands(length) + " bytes, " + overLimitText(limit, "bytes", f.MaxMessageField()),
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

// readLines reads the lines that data has beyond those it had before.
func (h *headers) readLines(data []byte) error {
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
			if err := h.readHeader(line); err != nil {
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

// readHeader reads one header.
func (h *headers) readHeader(line []byte) error {
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
				Message:     "dropping message " + overLimitText(int(limit), "bytes", f.MaxMessageField()),
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
