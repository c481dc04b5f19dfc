package rpcx

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// Framer finds messages in a byte stream, and frames outgoing messages. A Framer is
// immutable, and any number of sessions may share a Framer. The splitter holds the state
// of a single connection: the position, and whether the stream is out of step.
//
// Both ends of a connection need the same framer:
//
//	NewlineFramer   a message ends with a newline; the default
//	HeaderFramer    headers with the length come first, as with language servers
//	LengthFramer    4 bytes with the length come first, as with aiomas
//	JSONFramer      a message ends with its JSON value, as with Open vSwitch
//	BitcoinFramer   a message is a command with a payload, as with Bitcoin
//
// A message over MaxSize (default 1,000,000 bytes; a BitcoinFramer has limits of its own) is
// not sent: the call fails with a [*SizeError], and a reply is replaced by an error. A
// received message over MaxSize is dropped, and the peer is answered [CodeInvalidRequest].
//
// A session ignores blank messages. If the first input looks like HTTP, TLS or the framing
// of another framer, the session ends with a [*FrameError].
type Framer interface {
	// NewSplitter returns a function that splits the stream of a single connection into
	// messages. The function follows the contract of [bufio.SplitFunc], with these
	// additions:
	//
	//   - Its data is the unconsumed bytes. So after a request for more, data starts with
	//     the same bytes again.
	//   - Its work is linear in the number of bytes, in chunks of any size.
	//   - A nil token is no message; an empty token is a message.
	//   - An error may come with an advance. The session counts a recoverable
	//     [*FrameError] and continues. Any different error ends the session.
	//   - The token may share the memory of data: the session uses the token before the
	//     next call.
	NewSplitter() bufio.SplitFunc

	// AppendFrame appends msg with its framing to dst and returns the extended slice. If
	// msg cannot be framed, AppendFrame fails and returns dst unchanged.
	AppendFrame(dst, msg []byte) ([]byte, error)
}

// SizeLimiter is a [Framer] or a [MessageConn] with a limit to the size of messages. The
// session sends no larger message, and the limit is the default of Limits.Response. All
// framers of this package are SizeLimiters.
//
// A SizeLimiter may have a method MaxMessageField() string. Errors name the limit by its
// result, such as "NewlineFramer.MaxSize".
type SizeLimiter interface {
	// MaxMessage returns the size of the largest message, in bytes without framing, or
	// [math.MaxInt] for no limit. The session calls MaxMessage when the session starts.
	MaxMessage() int
}

// maxMessage returns the MaxMessage of v, a Framer or a MessageConn. Without a
// SizeLimiter, the result is 0.
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
		return c.checkSize(msg) // names the limit more exactly
	}
	return &SizeError{Size: len(msg), Limit: limit, Field: maxMessageField(v)}
}

// maxMessageField returns the name of the field that sets the size limit of v.
func maxMessageField(v any) string {
	if l, ok := v.(interface{ MaxMessageField() string }); ok {
		return l.MaxMessageField()
	}
	return fmt.Sprintf("%T.MaxMessage", v)
}

// dropError returns the error of a splitter that drops a message, described by what. start
// is the beginning of the message, or more.
func dropError(what string, tooLarge *SizeError, start []byte) error {
	return &FrameError{
		Message:     "dropping " + what,
		Recoverable: true,
		TooLarge:    tooLarge,
		Start:       bytes.Clone(start[:min(len(start), StartSize)]),
	}
}

// dropRest drops data of a message with *rest bytes to come, and returns the number of
// dropped bytes.
func dropRest(rest *uint64, data []byte) int {
	n := min(*rest, uint64(len(data)))
	*rest -= n
	return int(n)
}

// MessageConn is a connection that separates messages itself, as a WebSocket does. See
// [NewMessageSession]. A MessageConn may have a method NetConn, as [crypto/tls.Conn] has.
// NetConn returns the underlying connection, for [Session.NetConn] and
// [Session.RemoteAddr]. The session sometimes calls NetConn while locked: NetConn must not
// wait, and must not call a method of the session.
//
// A MessageConn should also implement:
//
//   - [PartReader], if it drops messages, or takes memory for incomplete messages.
//   - [PartWriter], if it writes a message in parts.
//   - [CloserWithError], if it can tell its peer the reason for the close.
type MessageConn interface {
	// ReadMessage returns the next message. The slice belongs to the connection, and is
	// valid until the next call. A recoverable [*FrameError] reports a dropped message.
	// Any different error ends the session; io.EOF means that the peer closed the
	// connection in order.
	//
	// A dropped message may be too large and not show who waits for its answer. Then the
	// session of a [CloserWithError] ends with that FrameError.
	ReadMessage() ([]byte, error)
	// WriteMessages writes msgs in order. WriteMessages must not retain msgs.
	WriteMessages(msgs [][]byte) error
	// Close closes the connection, and unblocks ReadMessage and WriteMessages. If no
	// write is running, Close may first notify the peer.
	Close() error
}

// CloserWithError is a [MessageConn] that can tell its peer why the session ends, as a
// WebSocket does with a code.
type CloserWithError interface {
	// CloseWithError closes the connection, and unblocks ReadMessage and WriteMessages. The
	// session calls CloseWithError once, instead of Close, on any goroutine and without a
	// lock. If no write is running, CloseWithError may first notify the peer.
	//
	// err is the reason for the end of the session, as in [Session.Err]. err is meant for
	// this side; the connection decides what to tell the peer.
	//
	//	ErrClosed         Close or Shutdown of the session, or ReplyAndDisconnect
	//	ErrServerClosed   Shutdown or Close of its server (Session.Err is ErrClosed)
	//	*CostError        the session exceeded its cost limit
	//	ErrIdle           the session was idle
	//	ErrNotAdmitted    the session was not admitted; see Options.Gate
	//	ErrSlowPeer       the peer does not read
	//	ErrFaultyPeer     the peer sends too many faulty messages
	//	*FrameError       returned by ReadMessage or a PartReader's part
	//	*ProtocolError    a message that cannot be answered
	//	*Error            CodeServerBusy: no room on the server; the session was not
	//	                  started
	//	any other         an error of the connection
	//
	// If the session ends to make room on its server, err matches ErrServerFull too.
	//
	// CloseWithError may wait for the peer, but only for a moment. [Session.Close] does
	// not wait for CloseWithError; Session.Done does.
	CloseWithError(err error) error
}

// PartReader is a [MessageConn] that reports messages before they are complete. The
// reports serve Limits.IdleTimeout and Server.MaxQueuedBytes, and charge the session for
// dropped bytes. The session calls Received on the goroutine that calls ReadMessage,
// sometimes with the session locked: Received must not wait, and must not call a method of
// the session.
type PartReader interface {
	MessageConn
	// Received returns the number of received bytes, with dropped messages and everything
	// sent between messages.
	Received() uint64
	// OnPart sets the function part. The session calls OnPart once, before the first
	// read. While a message arrives or is dropped, ReadMessage calls part after each part
	// of the message. size is the size of the buffer about to be held, or 0 for at most 8
	// KiB. After releasing a larger buffer, ReadMessage calls part with 0.
	//
	// Each size also includes the memory that the connection holds for its whole life. An
	// optional method KeptBytes() int returns the amount of this memory. While only
	// different data arrives, such as control frames, ReadMessage sometimes calls part
	// with the last size. If part fails, ReadMessage returns its error.
	OnPart(part func(size int) error)
}

// PartWriter is a [MessageConn] that writes a large message in parts and reports each
// part. So Limits.SendTimeout applies to a part and not to the whole message.
type PartWriter interface {
	MessageConn
	// OnWritten sets the function written. The session calls OnWritten once, before the
	// first write. WriteMessages calls written on its own goroutine after each written
	// part of a message.
	OnWritten(written func())
}

// HeaderFramer puts headers before each message, as the Language Server Protocol (its
// "base protocol") and the Debug Adapter Protocol do:
//
//	Content-Length: 38\r\n
//	\r\n
//	{"jsonrpc":"2.0","result":null,"id":1}
//
// Header names are case-insensitive, and a received header may end with a newline alone.
// Headers other than Content-Length and Content-Type are ignored. A blank line before the
// headers is an empty message, which a session ignores.
//
// Some errors end the session with a [*FrameError], because the start of the next message
// is unknown: a malformed header, or a missing, repeated or non-numeric Content-Length.
// Headers of more than 4,096 bytes do so too. So does a Content-Type with a charset other
// than utf-8 (or utf8), since messages are read only as UTF-8.
type HeaderFramer struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes without
	// its headers. 0 means [DefaultMaxSize], a negative value no limit. A larger received
	// message is dropped, with a single recoverable [*FrameError]; the session then reads
	// the next message. Memory is taken for received bytes, and never for an announced
	// length.
	MaxSize int
}

// maxHeaders is the maximum size of the headers of a message together, in bytes.
const maxHeaders = 4096

// NewSplitter implements [Framer].
func (f HeaderFramer) NewSplitter() bufio.SplitFunc {
	limit := maxSize(f.MaxSize)
	h := headers{length: -1}
	rest := uint64(0) // bytes of a dropped message still to come
	return func(data []byte, atEOF bool) (int, []byte, error) {
		if rest > 0 {
			return dropRest(&rest, data), nil, nil
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
		case body == 0: // the headers are incomplete
			return 0, nil, nil
		case length > limit:
			start := data[body:min(len(data), body+min(length, StartSize))]
			if !atEOF && len(start) < min(length, StartSize) {
				return 0, nil, nil
			}
			h = headers{length: -1}
			rest = uint64(length - len(start))
			return body + len(start), nil, dropError("message of "+thousands(length)+" bytes, "+overLimitText(limit, "bytes", f.MaxMessageField()),
				&SizeError{Size: length, Limit: limit, Field: f.MaxMessageField()}, start)
		case len(data)-body < length:
			return 0, nil, nil
		}
		h = headers{length: -1}
		end := body + length
		return end, data[body:end:end], nil
	}
}

// notInNames has characters that no header name contains. A line of JSON has such a
// character before its first colon.
const notInNames = "\"(),/;<=>?@[\\]{}"

// headers is the state of reading the headers at the beginning of the data.
type headers struct {
	line    int // start of the first unread line
	scanned int // data[line:scanned] has no newline
	length  int // Content-Length, -1 if missing
	body    int // start of the message, 0 if unknown
}

// readLines reads the new lines of data.
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
		line := bytes.TrimSuffix(window[h.line:end], []byte("\r")) // some peers omit the \r
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

// blankLine returns the size of a blank line at the beginning of data, otherwise 0.
func blankLine(data []byte) int {
	switch {
	case bytes.HasPrefix(data, []byte("\n")):
		return 1
	case bytes.HasPrefix(data, []byte("\r\n")):
		return 2
	}
	return 0
}

// readHeader reads a header line.
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
		// Programs differ in which of the two they believe.
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

// checkCharset returns an error for a Content-Type with a charset other than UTF-8. The
// Language Server Protocol: "It defaults to utf-8, which is the only encoding supported
// right now." Its first versions used the name utf8.
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

// cutParam cuts contentType at the first semicolon outside quotes.
func cutParam(contentType []byte) (param, rest []byte) {
	quoted := false
	for i := 0; i < len(contentType); i++ {
		switch c := contentType[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++ // the escaped character
		case c == ';' && !quoted:
			return contentType[:i], contentType[i+1:]
		}
	}
	return contentType, nil
}

// MaxMessage implements [SizeLimiter].
func (f HeaderFramer) MaxMessage() int { return maxSize(f.MaxSize) }

// MaxMessageField returns "HeaderFramer.MaxSize", the field that sets the limit.
func (HeaderFramer) MaxMessageField() string { return "HeaderFramer.MaxSize" }

// AppendFrame implements [Framer]. AppendFrame never fails.
func (HeaderFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(msg)), 10)
	return append(append(dst, "\r\n\r\n"...), msg...), nil
}

// LengthFramer puts the length of each message before the message: 4 bytes, big-endian,
// as in aiomas.
type LengthFramer struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes without
	// its length. 0 means [DefaultMaxSize], a negative value no limit. A larger received
	// message is dropped as its bytes arrive, with a single recoverable [*FrameError].
	MaxSize int
}

const lengthSize = 4

// NewSplitter implements [Framer].
func (f LengthFramer) NewSplitter() bufio.SplitFunc {
	limit := uint64(maxSize(f.MaxSize))
	rest := uint64(0) // bytes of a dropped message still to come
	return func(data []byte, atEOF bool) (int, []byte, error) {
		if rest > 0 {
			return dropRest(&rest, data), nil, nil
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
			rest = size - uint64(len(start))
			return lengthSize + len(start), nil, dropError("message "+overLimitText(int(limit), "bytes", f.MaxMessageField()),
				&SizeError{Size: int(min(size, math.MaxInt)), Limit: int(limit), Field: f.MaxMessageField()}, start)
		}
		if uint64(len(data)) < end {
			return 0, nil, nil
		}
		return int(end), data[lengthSize:end:end], nil
	}
}

// mayBegin reports whether start may be the beginning of a message in JSON or
// MessagePack. A different message shows no id; perhaps the stream has no lengths before
// its messages.
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

// MaxMessageField returns "LengthFramer.MaxSize", the field that sets the limit.
func (LengthFramer) MaxMessageField() string { return "LengthFramer.MaxSize" }

// AppendFrame implements [Framer]. For a message of 4 GiB or more, AppendFrame fails.
func (LengthFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	if uint64(len(msg)) > math.MaxUint32 {
		return dst, fmt.Errorf("frame a message of %s bytes: its length does not fit into 4 bytes", thousands(len(msg)))
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(msg))), msg...), nil
}
