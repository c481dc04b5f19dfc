package rpcx

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"example.com/rpcx/internal/jsonscan"
)

// JSONFramer finds where each JSON value ends, for peers that put nothing between
// their messages, or white space: Open vSwitch's database server, the plugins of
// Core Lightning, the raw channels of other Go libraries. White space before a
// value is passed over.
//
// An object or array ends with its closing bracket, a string with its quote. A number
// or literal ends where white space, a bracket or a string follows, and at the end of
// input. The splitter follows strings, brackets, and the commas and colons between
// values; all else about a value is the protocol's to check.
//
// Text that breaks this structure is one message together with the rest of its line,
// and the session answers that it is no JSON: a word that is no literal, a bracket
// that closes nothing, a newline within a string, two values with nothing between
// them within an array, nesting beyond 10,000 levels. The stream is in step again
// after the newline. If the break is a { or [ at the beginning of a line, the message
// ends before that line and the next one begins there. So a value that was not
// finished takes one line more with it at most.
//
// If a value came directly after another one, the peer puts no newlines between them.
// Text that breaks the structure then ends the session with a [*FrameError], for
// where the next message begins cannot be told.
type JSONFramer struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes
	// without the white space around it; 0 means [DefaultMaxSize], a negative value no
	// limit. A message received that is larger is dropped as its bytes arrive, with one
	// recoverable [*FrameError]. Its end is found as that of any other, except that a
	// number takes the rest of its line with it.
	MaxSize int
}

// MaxMessage implements [SizeLimiter].
func (f JSONFramer) MaxMessage() int { return maxSize(f.MaxSize) }

// MaxMessageField returns the name of the field that sets the limit.
func (JSONFramer) MaxMessageField() string { return "JSONFramer.MaxSize" }

// NewSplitter implements [Framer].
func (f JSONFramer) NewSplitter() bufio.SplitFunc {
	s := jsonSplitter{limit: f.MaxMessage()}
	return s.splitValues
}

// AppendFrame implements [Framer]: it appends a newline to the message, for peers that
// read lines. It does not fail; msg has to be one JSON value.
func (JSONFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	return append(append(dst, msg...), '\n'), nil
}

// jsonState says what the byte at jsonSplitter.pos stands in.
type jsonState uint8

const (
	jsonBetween jsonState = iota // messages
	jsonStart                    // of a value: one may begin here
	jsonBehind                   // a value, within an array or object
	jsonInWord                   // a number, or what may be a literal
	jsonInString
	jsonInEscape // within a string, behind a backslash
	jsonInLine   // text that is no JSON, as far as the next newline
)

// jsonSplitter holds how far a stream of JSON values has been read. The value that is
// being read begins where the data does, unless it is dropped.
type jsonSplitter struct {
	limit          int
	pos            int // the data before it has been scanned
	depth          int
	open           jsonscan.Nesting // the kinds of the arrays and objects that are open
	state          jsonState
	newline        bool // within jsonBehind: the last byte was a newline
	dropping       bool // the value is over the limit
	valueJustEnded bool // the last byte that was consumed ended a value
	adjacentValues bool // a value came directly behind another one
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
		return end, nil, &FrameError{
			Message:     "dropping message " + overLimitText(s.limit, "bytes", JSONFramer{}.MaxMessageField()),
			Recoverable: true,
			TooLarge:    &SizeError{Limit: s.limit, Field: JSONFramer{}.MaxMessageField()},
			Start:       startOf(data),
		}
	case !dropped:
		return end, data[:end:end], nil
	case ended && end == 0: // it ended with the data before
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

// scanValue goes on scanning the value. It returns where in data the value ends, -1 if that
// has not come yet. It stops before the end of data only where the value ends, or for
// good.
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
				continue // which the string may not have in it
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

// scanToken scans c, which stands where a value may begin, or behind one. It returns where
// in the data the value ends, -1 if not with c.
func (s *jsonSplitter) scanToken(c byte) int {
	behind, newline := s.state == jsonBehind, s.newline
	opens := c == '{' || c == '['
	s.newline = c == '\n'
	switch {
	case jsonscan.IsSpace(c):
	case behind && opens && newline:
		return s.pos // the value was not finished, and c begins another one
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

// scanString scans a string as far as its closing quote, and reports whether that was there.
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

// endValue ends a value before pos.
func (s *jsonSplitter) endValue() int {
	s.valueJustEnded = true
	return s.pos
}

func isJSON(data []byte) bool {
	ok, _ := jsonscan.Valid(data)
	return ok
}

// spaces returns how many bytes of white space data begins with.
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
