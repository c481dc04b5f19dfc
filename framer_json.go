package rpcx

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"example.com/rpcx/internal/jsonscan"
)

// JSONFramer finds the end of each JSON value, for peers with no separator or only white
// space between messages. Examples are Open vSwitch's database server, the plugins of
// Core Lightning, and the raw channels of other Go libraries. White space before a value
// is skipped.
//
// An object or array ends with its closing bracket, a string with its quote. A number or
// literal ends before white space, a bracket or a string, and at the end of input. The
// splitter follows strings, brackets, and the commas and colons between values. The
// protocol makes every further check.
//
// The following breaks this structure:
//
//   - a word that is no literal
//   - an unmatched closing bracket
//   - a newline within a string
//   - two adjacent values within an array
//   - nesting beyond 10,000 levels
//
// A break and the rest of its line belong to a single message, and the session answers
// that the JSON is invalid. The stream is in step again after the newline. If the break is
// a { or [ at the beginning of a line, the message ends before that line. The next message
// begins there. So an unfinished value spoils at most the next line.
//
// If a value ever came directly after another value, the peer puts no newlines between
// messages. Text that breaks the structure then ends the session with a [*FrameError],
// because the start of the next message is unknown.
type JSONFramer struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes without
	// surrounding white space. 0 means [DefaultMaxSize], a negative value no limit. A
	// larger received message is dropped as its bytes arrive, with a single recoverable
	// [*FrameError]. A dropped message ends like any message, except that a number ends
	// only at the end of its line.
	MaxSize int
}

// MaxMessage implements [SizeLimiter].
func (f JSONFramer) MaxMessage() int { return maxSize(f.MaxSize) }

// MaxMessageField returns "JSONFramer.MaxSize", the field that sets the limit.
func (JSONFramer) MaxMessageField() string { return "JSONFramer.MaxSize" }

// NewSplitter implements [Framer].
func (f JSONFramer) NewSplitter() bufio.SplitFunc {
	s := jsonSplitter{limit: f.MaxMessage()}
	return s.splitValues
}

// AppendFrame implements [Framer]. AppendFrame appends a newline to msg, for peers that
// read lines, and never fails. msg must be a single JSON value.
func (JSONFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	return append(append(dst, msg...), '\n'), nil
}

// jsonState is the context of the byte at jsonSplitter.pos.
type jsonState uint8

const (
	jsonBetween jsonState = iota // between messages
	jsonStart                    // where a value may begin
	jsonBehind                   // behind a value, within an array or object
	jsonInWord                   // in a number or a possible literal
	jsonInString
	jsonInEscape // within a string, behind a backslash
	jsonInLine   // in invalid JSON, up to the next newline
)

// jsonSplitter is the state of reading a stream of JSON values. Unless dropping is set,
// the current value begins at the start of the data.
type jsonSplitter struct {
	limit          int
	pos            int // data[:pos] has been scanned
	depth          int
	open           jsonscan.Nesting // the kinds of the open arrays and objects
	state          jsonState
	newline        bool // in jsonBehind: the last byte was a newline
	dropping       bool // the current value is over the limit
	valueJustEnded bool // the last consumed byte ended a value
	adjacentValues bool // a value came directly behind another value
}

// splitValues implements [bufio.SplitFunc].
func (s *jsonSplitter) splitValues(data []byte, atEOF bool) (int, []byte, error) {
	if s.state == jsonBetween {
		if n := spaces(data); n > 0 {
			s.valueJustEnded = false
			return n, nil, nil
		}
		if len(data) == 0 {
			return 0, nil, nil
		}
		s.beginValue(data[0])
	}
	end := s.scanValue(data, atEOF)
	ended := end >= 0
	if !ended {
		end = s.pos
	}
	tooLarge := end > s.limit && !s.dropping && (ended || atEOF || end >= StartSize)
	dropped := tooLarge || s.dropping
	switch {
	case ended:
		s.state, s.depth, s.pos, s.dropping = jsonBetween, 0, 0, false
	case s.state == jsonInLine && s.adjacentValues && !tooLarge:
		return 0, nil, &FrameError{Message: fmt.Sprintf("no JSON, and no newline behind which the next message would begin: %q", excerpt(data))}
	case dropped:
		s.pos, s.dropping = 0, true
	default:
		return 0, nil, nil
	}
	switch {
	case tooLarge:
		field := JSONFramer{}.MaxMessageField()
		return end, nil, dropError("message "+overLimitText(s.limit, "bytes", field), &SizeError{Limit: s.limit, Field: field}, data)
	case !dropped:
		return end, data[:end:end], nil
	case ended && end == 0: // the value ended with the previous data
		return s.splitValues(data, atEOF)
	}
	return end, nil, nil
}

// beginValue begins a value whose first byte is c.
func (s *jsonSplitter) beginValue(c byte) {
	s.state = jsonStart
	if s.valueJustEnded && (c == '{' || c == '[' || c == '"') {
		s.adjacentValues = true
	}
	s.valueJustEnded = false
}

// scanValue continues scanning the value. scanValue returns the end of the value in data,
// or -1 if the end has not arrived. Only at the end of a value, or in jsonInLine with
// adjacentValues, scanValue stops before the end of data.
func (s *jsonSplitter) scanValue(data []byte, atEOF bool) int {
	for s.pos < len(data) {
		c := data[s.pos]
		switch s.state {
		case jsonStart, jsonBehind:
			if end := s.scanToken(c); end >= 0 {
				return end
			}
			continue
		case jsonInWord:
			if !endsWord(c) && (s.depth > 0 || s.pos < s.limit) {
				break
			}
			if s.depth > 0 {
				s.state, s.newline = jsonBehind, false
				continue
			}
			if endsWord(c) && c != ']' && c != '}' && c != ',' && c != ':' && isJSON(data[:s.pos]) {
				return s.endValue()
			}
			s.state = jsonInLine
			continue
		case jsonInString:
			if s.scanString(data) && s.depth == 0 {
				return s.endValue()
			}
			continue
		case jsonInEscape:
			s.state = jsonInString
			if c == '\n' {
				continue // a string must not contain the newline
			}
		case jsonInLine:
			if s.adjacentValues {
				return -1
			}
			n := bytes.IndexByte(data[s.pos:], '\n')
			if n < 0 {
				s.pos = len(data)
				return -1
			}
			return s.pos + n
		}
		s.pos++
	}
	if atEOF && s.state == jsonInWord && s.depth == 0 && isJSON(data) {
		return s.endValue()
	}
	return -1
}

// scanToken scans c, a byte before or behind a value. scanToken returns the end of the
// value in the data, or -1 if the value does not end with c.
func (s *jsonSplitter) scanToken(c byte) int {
	behind, newline := s.state == jsonBehind, s.newline
	opens := c == '{' || c == '['
	s.newline = c == '\n'
	switch {
	case jsonscan.IsSpace(c):
	case behind && opens && newline:
		return s.pos // the value was unfinished, and c begins a new value
	case behind && c != ',' && c != ':' && c != '}' && c != ']':
		s.state = jsonInLine
		return -1
	case opens && s.depth < jsonscan.MaxDepth:
		s.open.Push(s.depth, c == '{')
		s.depth++
		s.state = jsonStart
	case (c == '}' || c == ']') && s.depth > 0 && s.open.IsObject(s.depth-1) == (c == '}'):
		if s.depth--; s.depth == 0 {
			s.pos++
			return s.endValue()
		}
		s.state = jsonBehind
	case (c == ',' || c == ':') && s.depth > 0:
		s.state = jsonStart
	case c == '"':
		s.state = jsonInString
	case endsWord(c) || s.depth == 0 && !beginsLiteral(c):
		s.state = jsonInLine
		return -1
	default:
		s.state = jsonInWord
	}
	s.pos++
	return -1
}

// scanString scans a string up to its closing quote, and reports whether the scan reached
// the quote.
func (s *jsonSplitter) scanString(data []byte) bool {
	for i := s.pos; i < len(data); {
		if i <= len(data)-8 {
			mark := jsonscan.MarkSpecial(binary.LittleEndian.Uint64(data[i:]))
			if mark == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(mark) / 8
		}
		switch c := data[i]; c {
		case '"':
			s.pos, s.state, s.newline = i+1, jsonBehind, false
			return true
		case '\\':
			s.pos, s.state = i+1, jsonInEscape
			return false
		case '\n':
			s.pos, s.state = i, jsonInLine
			return false
		}
		i++
	}
	s.pos = len(data)
	return false
}

// endValue records that a value ends before pos, and returns pos.
func (s *jsonSplitter) endValue() int {
	s.valueJustEnded = true
	return s.pos
}

func isJSON(data []byte) bool {
	ok, _ := jsonscan.Valid(data)
	return ok
}

// spaces returns the number of bytes of white space at the beginning of data.
func spaces(data []byte) int {
	n := 0
	for n < len(data) && jsonscan.IsSpace(data[n]) {
		n++
	}
	return n
}

// beginsLiteral reports whether a number or literal may begin with c.
func beginsLiteral(c byte) bool {
	return c == '-' || c-'0' <= 9 || c == 't' || c == 'f' || c == 'n'
}

// endsWord reports whether a number or literal ends before c.
func endsWord(c byte) bool {
	switch c {
	case ' ', '\t', '\r', '\n', '{', '}', '[', ']', ',', ':', '"':
		return true
	}
	return false
}
