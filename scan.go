package rpcx

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deeply arrays and objects may nest; deeper is a parse error.
const maxDepth = 10000

// scanner goes once over a JSON text, validates it and allocates nothing. Its
// methods return false when the text is no JSON; then pos is where that showed.
type scanner struct {
	data    []byte
	pos     int
	depth   int  // of the arrays and objects that envelopes opened around a value
	high    bool // a byte beyond ASCII was seen: the text must be checked to be UTF-8
	space   bool // white space was seen between tokens
	escaped bool // an escape sequence was seen in a string
	stopped bool // the rest was not scanned, on purpose
	nesting
}

// nesting holds the kinds of the arrays and objects that are open within a value.
type nesting struct {
	inObject [4]uint64 // one bit a level for the first levels, then:
	deeper   []uint64
}

// validJSON reports whether data is one JSON value in UTF-8; space tells whether
// there is white space between its tokens.
func validJSON(data []byte) (ok, space bool) { return validWithin(data, 0) }

// validWithin is validJSON for a value that lies in depth arrays and objects.
func validWithin(data []byte, depth int) (ok, space bool) {
	s := scanner{data: data, depth: depth}
	ok = s.value() && s.end() && s.utf8()
	return ok, s.space
}

// utf8 reports whether what was scanned is UTF-8.
func (s *scanner) utf8() bool { return !s.high || utf8.Valid(s.data) }

// ws skips white space and returns the byte behind it, 0 at the end.
func (s *scanner) ws() byte {
	if s.pos < len(s.data) && s.data[s.pos] > ' ' {
		return s.data[s.pos] // as nearly always; this much is inlined
	}
	return s.skip()
}

func (s *scanner) skip() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n':
			s.space = true
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// end reports whether only white space remains.
func (s *scanner) end() bool {
	s.ws()
	return s.pos == len(s.data)
}

func (n *nesting) push(depth int, object bool) {
	word, bit := depth>>6, uint64(1)<<(depth&63)
	w := &n.inObject[word&3]
	if word >= len(n.inObject) {
		if word -= len(n.inObject); word == len(n.deeper) {
			n.deeper = append(n.deeper, 0)
		}
		w = &n.deeper[word]
	}
	if object {
		*w |= bit
	} else {
		*w &^= bit
	}
}

func (n *nesting) object(depth int) bool {
	word, bit := depth>>6, uint64(1)<<(depth&63)
	if word < len(n.inObject) {
		return n.inObject[word]&bit != 0
	}
	return n.deeper[word-len(n.inObject)]&bit != 0
}

// value scans one value of any kind. It does not recurse, so that a hostile
// text cannot grow the stack.
func (s *scanner) value() bool {
	depth := 0
	for {
		// At the start of a value.
		switch c := s.ws(); {
		case c == '"':
			if !s.str() {
				return false
			}
		case c == '{' || c == '[':
			s.pos++
			if s.depth+depth >= maxDepth {
				return false
			}
			s.push(depth, c == '{')
			depth++
			if next := s.ws(); next == c+2 { // the closing bracket: { and }, [ and ] are two apart
				s.pos++
				depth--
				break
			}
			if c == '{' && !s.key() {
				return false
			}
			continue
		case c == '-' || c-'0' <= 9:
			if !s.number() {
				return false
			}
		default:
			if !s.literal(c) {
				return false
			}
		}
		// Behind a value.
	closing:
		for {
			if depth == 0 {
				return true
			}
			object := s.object(depth - 1)
			switch c := s.ws(); {
			case c == ',':
				s.pos++
				if object {
					s.ws()
					if !s.key() {
						return false
					}
				}
				break closing
			case c == '}' && object, c == ']' && !object:
				s.pos++
				depth--
			default:
				return false
			}
		}
	}
}

// key scans a string and the colon behind it.
func (s *scanner) key() bool {
	if s.pos >= len(s.data) || s.data[s.pos] != '"' || !s.str() || s.ws() != ':' {
		return false
	}
	s.pos++
	return true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special sets the high bit of those bytes of w that are control characters,
// quotes or backslashes. Only the lowest bit set is sure: the bytes above may
// be marked in error.
func special(w uint64) uint64 {
	// A byte from which something larger is subtracted gets its high bit set.
	// Flipping bit 1 puts the quote (0x22) next to the control characters, and
	// the space behind it.
	return ((w ^ ones*0x02 - ones*0x21) | (w ^ ones*'\\' - ones)) &^ w & highs
}

// str scans a string from its opening quote to its closing one.
func (s *scanner) str() bool {
	data, i := s.data, s.pos+1
	seen := uint64(0) // all bytes, or-ed together
	for i < len(data) {
		switch c := data[i]; {
		case c == '"':
			s.pos = i + 1
			s.high = s.high || seen&highs != 0
			return true
		case c == '\\':
			if i = s.escape(i); i < 0 {
				return false
			}
		case c < 0x20:
			s.pos = i
			return false
		default:
			seen |= uint64(c)
			i++
			// On to what is special, eight bytes at a time.
			for i <= len(data)-8 {
				w := binary.LittleEndian.Uint64(data[i : i+8])
				seen |= w
				if mark := special(w); mark != 0 {
					i += bits.TrailingZeros64(mark) / 8
					break
				}
				i += 8
			}
		}
	}
	s.pos = i
	return false
}

// escape returns the place behind the escape sequence at i, or -1.
func (s *scanner) escape(i int) int {
	s.pos, s.escaped = i, true
	if i+1 < len(s.data) {
		switch s.data[i+1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			return i + 2
		case 'u':
			if i+6 <= len(s.data) && isHex(s.data[i+2]) && isHex(s.data[i+3]) && isHex(s.data[i+4]) && isHex(s.data[i+5]) {
				return i + 6
			}
		}
	}
	return -1
}

func isHex(c byte) bool { return c-'0' <= 9 || c|0x20-'a' <= 5 }

func (s *scanner) digits() bool {
	i := s.pos
	for i < len(s.data) && s.data[i]-'0' <= 9 {
		i++
	}
	some := i > s.pos
	s.pos = i
	return some
}

func (s *scanner) number() bool {
	if s.data[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.data) && s.data[s.pos] == '0' {
		s.pos++
	} else if !s.digits() {
		return false
	}
	if s.pos < len(s.data) && s.data[s.pos] == '.' {
		if s.pos++; !s.digits() {
			return false
		}
	}
	if s.pos < len(s.data) && s.data[s.pos]|0x20 == 'e' {
		s.pos++
		if s.pos < len(s.data) && (s.data[s.pos] == '+' || s.data[s.pos] == '-') {
			s.pos++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) literal(c byte) bool {
	word := ""
	switch c {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	case 'n':
		word = "null"
	}
	if word == "" || s.pos+len(word) > len(s.data) || string(s.data[s.pos:s.pos+len(word)]) != word {
		return false
	}
	s.pos += len(word)
	return true
}

// unquote returns what a JSON string, given with its quotes and known to be
// valid, stands for. Unpaired surrogates become U+FFFD, as in encoding/json.
func unquote(raw []byte) string {
	rest := raw[1 : len(raw)-1]
	i := bytes.IndexByte(rest, '\\')
	if i < 0 {
		return string(rest)
	}
	var b strings.Builder
	b.Grow(len(rest))
	for ; i >= 0; i = bytes.IndexByte(rest, '\\') {
		b.Write(rest[:i])
		c := rest[i+1]
		rest = rest[i+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(rest)
			rest = rest[4:]
			if utf16.IsSurrogate(r) {
				var low rune
				if len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
					low = hex4(rest[2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					rest = rest[6:]
				}
			}
			b.WriteRune(r)
			continue
		}
		b.WriteByte(c)
	}
	b.Write(rest)
	return b.String()
}

// unquoted returns what unquote does, as a part of raw if there is no escape sequence.
func unquoted(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	return []byte(unquote(raw))
}

// hex4 returns the number that four hexadecimal digits make.
func hex4(digits []byte) (r rune) {
	for _, c := range digits[:4] {
		if c > '9' {
			c += 9 // of both cases the low four bits are now the value
		}
		r = r<<4 | rune(c&0xf)
	}
	return r
}

// maxEscape is how many bytes of a JSON string stand for one of its value at most.
const maxEscape = 6

// equalString reports whether the JSON value raw is the string s.
func equalString(raw []byte, s string) bool {
	if len(raw) == len(s)+2 && raw[0] == '"' {
		return string(raw[1:len(raw)-1]) == s && bytes.IndexByte(raw, '\\') < 0
	}
	return len(raw) > 2 && len(raw)-2 <= maxEscape*len(s) && raw[0] == '"' && bytes.IndexByte(raw, '\\') >= 0 && unquote(raw) == s
}

func isNull(raw []byte) bool { return len(raw) == 4 && raw[0] == 'n' }

// members scans an object at pos. It stores the values of the members that are
// named in keys, in exact case, in vals; bit i of dup is set if keys[i] came twice.
func (s *scanner) members(keys []string, vals [][]byte) (dup uint, ok bool) {
	s.pos++
	if s.ws() == '}' {
		s.pos++
		return 0, true
	}
	return s.moreMembers(keys, vals)
}

// moreMembers does what members does from where a member must come.
func (s *scanner) moreMembers(keys []string, vals [][]byte) (dup uint, ok bool) {
	s.depth++
	for {
		s.ws()
		start := s.pos
		s.escaped = false
		if s.pos >= len(s.data) || s.data[s.pos] != '"' || !s.str() {
			return dup, false
		}
		key := s.data[start+1 : s.pos-1]
		if s.escaped {
			key = []byte(unquote(s.data[start:s.pos]))
		}
		if s.ws() != ':' {
			return dup, false
		}
		s.pos++
		s.ws()
		start = s.pos
		if !s.value() {
			return dup, false
		}
		for i, name := range keys {
			if len(key) == len(name) && key[0] == name[0] && string(key) == name {
				if vals[i] != nil {
					dup |= 1 << i
				}
				vals[i] = s.data[start:s.pos:s.pos]
				break
			}
		}
		switch s.ws() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			s.depth--
			return dup, true
		default:
			return dup, false
		}
	}
}
