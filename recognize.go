package rpcx

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"example.com/rpcx/internal/jsonscan"
)

// byteOrderMark is the one of UTF-8, which some programs put before their first message.
var byteOrderMark = []byte("\ufeff")

// maxBlank is how many blank messages in succession a session passes over.
const maxBlank = 100

// framing tells what precedes or ends the messages of a stream.
type framing uint8

const (
	framedOtherwise framing = iota // by another package's framer, or by a MessageConn
	framedByLines
	framedByValues
	framedByHeaders
	framedByLengths
)

// framingOf returns what f puts around messages.
func framingOf(f Framer) framing {
	switch f.(type) {
	case NewlineFramer, *NewlineFramer:
		return framedByLines
	case JSONFramer, *JSONFramer:
		return framedByValues
	case HeaderFramer, *HeaderFramer:
		return framedByHeaders
	case LengthFramer, *LengthFramer, BitcoinFramer, *BitcoinFramer:
		return framedByLengths
	}
	return framedOtherwise
}

// content returns as what a message within its frame is recognized.
func (f framing) content() framing {
	if f == framedByHeaders || f == framedByLengths {
		return framedOtherwise
	}
	return f
}

const (
	// maxRecognized is how much of the input is looked at to recognize what it is.
	maxRecognized = 64 << 10

	likeValues = "JSON without newlines, as JSONFramer reads"
)

// recognize says what input looks like that is no message where messages are framed
// as f says, "" if that cannot be told. ended tells that no more input comes.
func recognize(input []byte, f framing, ended bool) string {
	input = input[:min(len(input), maxRecognized)]
	line, _, _ := bytes.Cut(input, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case isHTTP(line):
		return fmt.Sprintf("HTTP (%.60q)", line)
	case hasPrefix(line, "SSH-"):
		return fmt.Sprintf("SSH (%.60q)", line)
	case isTLSHandshake(input):
		return "a TLS handshake; its sender expects TLS"
	case isTLSAlert(input):
		return "a TLS alert; its sender expects TLS"
	case isUTF16(input, f):
		return "UTF-16; JSON is sent in UTF-8"
	case f != framedByHeaders && (hasPrefix(line, "Content-Length:") || hasPrefix(line, "Content-Type:")):
		return "messages with headers before them, as HeaderFramer reads"
	case f != framedByLengths && f != framedOtherwise && isLength(input):
		return "messages with their lengths before them, as LengthFramer reads"
	case (f == framedByLengths || f == framedByHeaders) && beginsJSON(input):
		return "JSON with nothing before it, as NewlineFramer and JSONFramer read"
	case f == framedByLines && beginsValues(input, ended):
		return likeValues
	}
	return ""
}

// hasPrefix reports whether line begins with prefix, in any case.
func hasPrefix(line []byte, prefix string) bool {
	return len(line) >= len(prefix) && bytes.EqualFold(line[:len(prefix)], []byte(prefix))
}

// isHTTP reports whether line is the first of a request or response of HTTP, or the
// beginning of one.
func isHTTP(line []byte) bool {
	const version = "HTTP/"
	if bytes.HasPrefix(line, []byte(version)) {
		return len(line) > len(version) && line[len(version)]-'0' <= 9
	}
	method, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(method) < 3 || len(method) > 16 {
		return false
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	_, last, ok := bytes.Cut(rest, []byte(" "))
	return ok && bytes.HasPrefix(last, []byte(version)) && bytes.IndexByte(last, ' ') < 0
}

// isTLSHandshake reports whether input begins with the record of a handshake, of TLS
// 1.3 at most, and a hello of the client or server in it.
func isTLSHandshake(input []byte) bool {
	return isTLSRecord(input, 0x16) && input[3] <= 0x40 && (input[5] == 1 || input[5] == 2)
}

// isTLSAlert reports whether input begins with the record of a warning or fatal alert.
func isTLSAlert(input []byte) bool {
	return isTLSRecord(input, 0x15) && input[3] == 0 && input[4] == 2 && (input[5] == 1 || input[5] == 2)
}

func isTLSRecord(input []byte, kind byte) bool {
	return len(input) >= 6 && input[0] == kind && input[1] == 3 && input[2] <= 4
}

// isUTF16 reports whether input begins with a byte order mark of UTF-16, or with JSON in
// UTF-16 where that cannot be a length.
func isUTF16(input []byte, f framing) bool {
	if bytes.HasPrefix(input, []byte("\xff\xfe")) || bytes.HasPrefix(input, []byte("\xfe\xff")) {
		return true
	}
	if len(input) < 4 || f == framedByLengths {
		return false
	}
	a, b, c, d := input[0], input[1], input[2], input[3]
	return (a == '{' || a == '[') && b == 0 && c != 0 && d == 0 ||
		a == 0 && (b == '{' || b == '[') && c == 0 && d != 0
}

// isLength reports whether input begins with a length of less than 16 MiB and JSON.
func isLength(input []byte) bool {
	return len(input) > lengthSize && input[0] == 0 && (input[lengthSize] == '{' || input[lengthSize] == '[')
}

// beginsJSON reports whether input begins as JSON messages do: with an object, or with
// an array of objects or of what Aiomas sends.
func beginsJSON(input []byte) bool {
	input = input[spaces(input):]
	if len(input) < 2 || input[0] != '{' && input[0] != '[' {
		return false
	}
	next := input[1+spaces(input[1:]):]
	switch {
	case len(next) == 0:
		return false
	case input[0] == '{':
		return next[0] == '"' || next[0] == '}'
	}
	return next[0] == '{' || next[0] == ']' || next[0]-'0' <= 9
}

// beginsValues reports whether input begins with a whole object or array, and another
// one stands behind that on the same line; or nothing does, if the input has ended.
func beginsValues(input []byte, ended bool) bool {
	s := jsonscan.Scanner{Data: input}
	if c := s.Peek(); c != '{' && c != '[' || !s.ScanValue() {
		return false
	}
	end := s.Pos
	switch next := s.Peek(); {
	case bytes.IndexByte(input[end:s.Pos], '\n') >= 0:
		return false
	case s.Pos == len(input):
		return ended
	default:
		return next == '{' || next == '['
	}
}

// explain returns err, with which reading has failed, together with what the input looks
// like, if that is recognized. It ends a session that has received nothing else. A
// message that the end of input cut off is logged.
func (s *Session) explain(err error) error {
	input, f := s.conn.unread()
	frame, bad := errors.AsType[*FrameError](err)
	like := recognize(input, f, !bad)
	switch {
	case bad && like == "", errors.Is(err, ErrServerFull):
		return err
	case bad:
		first := s.stats.MessagesReceived == 0
		return &FrameError{
			Message:     frame.text() + "; the input looks like " + like,
			Recoverable: frame.Recoverable && !first,
			Cost:        frame.Cost,
		}
	case like != "":
		err = fmt.Errorf("%w; the input looks like %s", err, like)
	}
	if len(input) == 0 || s.log.Handler() == slog.DiscardHandler {
		return err
	}
	const msg = "the input ended within a message"
	attrs := []slog.Attr{slog.Int("bytes", len(input)), slog.String("begin", excerpt(input)), errorAttr(err)}
	size := recordSize(msg, attrs)
	s.lock()
	defer s.unlock()
	if like != "" || s.state < stateClosing {
		s.noteOfSizeLocked(size, slog.LevelWarn, msg, attrs)
	}
	return err
}

// standing is a copy of how the input begins, while that is no message yet. The peer may
// never send what this side takes for the end of a message.
type standing struct {
	begin   []byte // at most maxStanding bytes
	size    int    // of what has come
	framing framing
	lookAt  time.Duration // when it is looked at, unless more comes; never if it was
	noted   bool          // in the log
}

const (
	// maxStanding is how much of the beginning of the input is looked at before there is
	// a message.
	maxStanding = 4 << 10
	// standingTime is after how long without more input that is looked at.
	standingTime = 5 * time.Second

	standingText = "what has come is not taken for a message"
)

// keepStandingLocked notes what has come of the first message. Only the reader calls it.
// Callers must hold s.mu.
func (s *Session) keepStandingLocked() {
	s.owner.check()
	input, f := s.conn.unread()
	if f == framedOtherwise || s.stats.Errors > 0 { // what is dropped is no beginning
		s.standing = nil
		return
	}
	if s.standing == nil {
		s.standing = &standing{framing: f}
	}
	st := s.standing
	if len(st.begin) < maxStanding {
		st.begin = append(st.begin[:0], input[:min(len(input), maxStanding)]...)
	}
	st.size, st.lookAt = len(input), after(s.now(), standingTime)
	s.arm(st.lookAt)
}

// standingLocked returns what the input looks like while it is no message, "" if that
// cannot be told. Callers must hold s.mu.
func (s *Session) standingLocked() string {
	s.owner.check()
	st := s.standing
	if st == nil || s.stats.MessagesReceived > 0 || s.stats.Errors > 0 {
		return ""
	}
	return recognize(st.begin, st.framing, len(st.begin) == st.size)
}

// checkStandingLocked is called by the session's timer. It logs, once, what the input
// looks like if it has been no message for long. Callers must hold s.mu.
func (s *Session) checkStandingLocked(now time.Duration) {
	s.owner.check()
	st := s.standing
	switch {
	case st == nil:
	case s.stats.MessagesReceived > 0:
		s.standing = nil
	case st.lookAt > now:
		s.arm(st.lookAt)
	case !st.noted:
		st.lookAt = never
		if like := s.standingLocked(); like != "" {
			st.noted = true
			s.note(slog.LevelWarn, standingText, slog.Int("bytes", st.size),
				slog.String("begin", excerpt(st.begin)), slog.String("looks like", like))
		}
	}
}

// isNoJSON reports whether the item stands for a message that is no JSON.
func (item *Item) isNoJSON() bool {
	e, ok := item.Err.(*ProtocolError)
	return item.Kind == KindInvalid && ok && e.Code == CodeParseError
}

// passOver reports whether msg is blank and is to be passed over. Of more than maxBlank
// in succession one is a bad message.
func (s *Session) passOver(msg []byte) bool {
	if spaces(msg) < len(msg) || s.blank == maxBlank {
		return false
	}
	s.blank++
	return true
}
