// Package jsonscan scans JSON texts without building values. It validates texts and finds
// members and elements, independently of the structure of messages.
package jsonscan

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// MaxDepth is the maximum nesting of arrays and objects; deeper nesting is a parse error.
const MaxDepth = 10000

// Scanner goes once over a JSON text, validates the text and does not allocate. A method
// returns false for invalid JSON; then Pos is the place of the error.
type Scanner struct {
	Data      []byte
	Pos       int
	Depth     int  // number of arrays and objects that the caller opened around a value
	NonASCII  bool // a non-ASCII byte was seen: the text must be checked for UTF-8
	HasSpace  bool // white space was seen between tokens
	HasEscape bool // an escape sequence was seen in a string
	Stopped   bool // the scan stopped early on purpose
	Nesting
}

// Nesting holds the kinds of the open arrays and objects within a value.
type Nesting struct {
	inObject [4]uint64 // one bit per level for the first 256 levels
	deeper   []uint64
}

// Valid reports whether data is a single JSON value in UTF-8. space reports white space
// between tokens.
func Valid(data []byte) (ok, space bool) { return ValidWithin(data, 0) }

// ValidWithin is Valid for a value within depth arrays and objects.
func ValidWithin(data []byte, depth int) (ok, space bool) {
	s := Scanner{Data: data, Depth: depth}
	ok = s.ScanValue() && s.AtEnd() && s.IsUTF8()
	return ok, s.HasSpace
}

// IsUTF8 reports whether the scanned text is UTF-8.
func (s *Scanner) IsUTF8() bool { return !s.NonASCII || utf8.Valid(s.Data) }

// Peek skips white space and returns the next byte, 0 at the end.
func (s *Scanner) Peek() byte {
	if s.Pos < len(s.Data) && s.Data[s.Pos] > ' ' {
		return s.Data[s.Pos] // the usual case, which is inlined
	}
	return s.skipSpace()
}

func (s *Scanner) skipSpace() byte {
	for s.Pos < len(s.Data) {
		switch c := s.Data[s.Pos]; c {
		case ' ', '\t', '\r', '\n':
			s.HasSpace = true
			s.Pos++
		default:
			return c
		}
	}
	return 0
}

// AtEnd reports whether only white space remains.
func (s *Scanner) AtEnd() bool {
	s.Peek()
	return s.Pos == len(s.Data)
}

// Push opens an array or object at the given depth, which must be at most the number of
// levels so far.
func (n *Nesting) Push(depth int, object bool) {
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

// IsObject reports whether an object is open at the given depth. If not, an array is.
func (n *Nesting) IsObject(depth int) bool {
	word, bit := depth>>6, uint64(1)<<(depth&63)
	if word < len(n.inObject) {
		return n.inObject[word]&bit != 0
	}
	return n.deeper[word-len(n.inObject)]&bit != 0
}

// ScanValue scans a value of any kind. ScanValue does not recurse, so that a hostile text
// cannot grow the stack.
func (s *Scanner) ScanValue() bool {
	depth := 0
	for {
		// At the start of a value.
		switch c := s.Peek(); {
		case c == '"':
			if !s.ScanString() {
				return false
			}
		case c == '{' || c == '[':
			s.Pos++
			if s.Depth+depth >= MaxDepth {
				return false
			}
			s.Push(depth, c == '{')
			depth++
			if next := s.Peek(); next == c+2 { // the closing bracket is two above the opening bracket
				s.Pos++
				depth--
				break
			}
			if c == '{' && !s.ScanKey() {
				return false
			}
			continue
		case c == '-' || c-'0' <= 9:
			if !s.ScanNumber() {
				return false
			}
		default:
			if !s.ScanLiteral(c) {
				return false
			}
		}
		// Behind a value.
	closing:
		for {
			if depth == 0 {
				return true
			}
			object := s.IsObject(depth - 1)
			switch c := s.Peek(); {
			case c == ',':
				s.Pos++
				if object {
					s.Peek()
					if !s.ScanKey() {
						return false
					}
				}
				break closing
			case c == '}' && object, c == ']' && !object:
				s.Pos++
				depth--
			default:
				return false
			}
		}
	}
}

// ScanKey scans a string and the colon after the string.
func (s *Scanner) ScanKey() bool {
	if s.Pos >= len(s.Data) || s.Data[s.Pos] != '"' || !s.ScanString() || s.Peek() != ':' {
		return false
	}
	s.Pos++
	return true
}

const (
	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

// MarkSpecial sets the high bit of each byte of w that is a control character, a quote or
// a backslash. Only the lowest set bit is reliable; higher bytes may be marked in error.
func MarkSpecial(w uint64) uint64 {
	// Subtracting a larger number sets the high bit of a byte. Flipping bit 1 puts the
	// quote (0x22) next to the control characters, and the space behind the quote.
	return ((w ^ lowBits*0x02 - lowBits*0x21) | (w ^ lowBits*'\\' - lowBits)) &^ w & highBits
}

// ScanString scans a string from its opening quote to its closing quote.
func (s *Scanner) ScanString() bool {
	data, i := s.Data, s.Pos+1
	seen := uint64(0) // all bytes, combined with or
	for i < len(data) {
		switch c := data[i]; {
		case c == '"':
			s.Pos = i + 1
			s.NonASCII = s.NonASCII || seen&highBits != 0
			return true
		case c == '\\':
			if i = s.scanEscape(i); i < 0 {
				return false
			}
		case c < 0x20:
			s.Pos = i
			return false
		default:
			seen |= uint64(c)
			i++
			run := i + longString
			// Skips ordinary bytes, eight at a time.
			for i <= len(data)-8 {
				w := binary.LittleEndian.Uint64(data[i : i+8])
				seen |= w
				if mark := MarkSpecial(w); mark != 0 {
					i += bits.TrailingZeros64(mark) / 8
					break
				}
				if i += 8; i == run {
					i = skipPlain(data, i)
				}
			}
		}
	}
	s.Pos = i
	return false
}

// longString is the number of bytes in a row without a special byte after which skipPlain
// is worth its call.
const longString = 64

// skipPlain skips ordinary ASCII bytes, 32 at a time, and returns the place of the first 32
// bytes that may have another byte.
func skipPlain(data []byte, i int) int {
	for i <= len(data)-32 {
		block := data[i : i+32]
		w0, w1 := binary.LittleEndian.Uint64(block), binary.LittleEndian.Uint64(block[8:])
		w2, w3 := binary.LittleEndian.Uint64(block[16:]), binary.LittleEndian.Uint64(block[24:])
		// As in MarkSpecial, with one mask for all words. A byte that is not ASCII sets a
		// high bit, too.
		mark := w0 | (w0 ^ lowBits*0x02 - lowBits*0x21) | (w0 ^ lowBits*'\\' - lowBits)
		mark |= w1 | (w1 ^ lowBits*0x02 - lowBits*0x21) | (w1 ^ lowBits*'\\' - lowBits)
		mark |= w2 | (w2 ^ lowBits*0x02 - lowBits*0x21) | (w2 ^ lowBits*'\\' - lowBits)
		mark |= w3 | (w3 ^ lowBits*0x02 - lowBits*0x21) | (w3 ^ lowBits*'\\' - lowBits)
		if mark&highBits != 0 {
			break
		}
		i += 32
	}
	return i
}

// scanEscape returns the place behind the escape sequence at i, or -1 if the sequence is
// invalid.
func (s *Scanner) scanEscape(i int) int {
	s.Pos, s.HasEscape = i, true
	if i+1 < len(s.Data) {
		switch s.Data[i+1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			return i + 2
		case 'u':
			if i+6 <= len(s.Data) && isHexDigit(s.Data[i+2]) && isHexDigit(s.Data[i+3]) && isHexDigit(s.Data[i+4]) && isHexDigit(s.Data[i+5]) {
				return i + 6
			}
		}
	}
	return -1
}

func isHexDigit(c byte) bool { return c-'0' <= 9 || c|0x20-'a' <= 5 }

func (s *Scanner) scanDigits() bool {
	i := s.Pos
	for i < len(s.Data) && s.Data[i]-'0' <= 9 {
		i++
	}
	some := i > s.Pos
	s.Pos = i
	return some
}

// ScanNumber scans a number.
func (s *Scanner) ScanNumber() bool {
	if s.Data[s.Pos] == '-' {
		s.Pos++
	}
	if s.Pos < len(s.Data) && s.Data[s.Pos] == '0' {
		s.Pos++
	} else if !s.scanDigits() {
		return false
	}
	if s.Pos < len(s.Data) && s.Data[s.Pos] == '.' {
		if s.Pos++; !s.scanDigits() {
			return false
		}
	}
	if s.Pos < len(s.Data) && s.Data[s.Pos]|0x20 == 'e' {
		s.Pos++
		if s.Pos < len(s.Data) && (s.Data[s.Pos] == '+' || s.Data[s.Pos] == '-') {
			s.Pos++
		}
		return s.scanDigits()
	}
	return true
}

// ScanLiteral scans true, false or null, which begins with c.
func (s *Scanner) ScanLiteral(c byte) bool {
	word := ""
	switch c {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	case 'n':
		word = "null"
	}
	if word == "" || s.Pos+len(word) > len(s.Data) || string(s.Data[s.Pos:s.Pos+len(word)]) != word {
		return false
	}
	s.Pos += len(word)
	return true
}

// ScanMembers scans the object at Pos, and stores in vals the values of the members named
// in keys. Case must match. Bit i of dup is set if keys[i] occurs twice.
func (s *Scanner) ScanMembers(keys []string, vals [][]byte) (dup uint, ok bool) {
	s.Pos++
	if s.Peek() == '}' {
		s.Pos++
		return 0, true
	}
	return s.ScanMoreMembers(keys, vals)
}

// ScanMoreMembers is ScanMembers for the rest of an object; a member must follow.
func (s *Scanner) ScanMoreMembers(keys []string, vals [][]byte) (dup uint, ok bool) {
	s.Depth++
	for {
		s.Peek()
		start := s.Pos
		s.HasEscape = false
		if s.Pos >= len(s.Data) || s.Data[s.Pos] != '"' || !s.ScanString() {
			return dup, false
		}
		key := s.Data[start+1 : s.Pos-1]
		if s.HasEscape {
			key = []byte(Unquote(s.Data[start:s.Pos]))
		}
		if s.Peek() != ':' {
			return dup, false
		}
		s.Pos++
		s.Peek()
		start = s.Pos
		if !s.ScanValue() {
			return dup, false
		}
		for i, name := range keys {
			if len(key) == len(name) && key[0] == name[0] && string(key) == name {
				if vals[i] != nil {
					dup |= 1 << i
				}
				vals[i] = s.Data[start:s.Pos:s.Pos]
				break
			}
		}
		switch s.Peek() {
		case ',':
			s.Pos++
		case '}':
			s.Pos++
			s.Depth--
			return dup, true
		default:
			return dup, false
		}
	}
}

// NextElement returns the next element of the array that s is in, or at the start of.
// After the last element, ok is false. NextElement and NextMember are for text that was
// validated, or whose values will be: a value that is a string is not validated again.
func (s *Scanner) NextElement() (value []byte, ok bool) {
	if c := s.Peek(); c != '[' && c != ',' {
		return nil, false
	}
	s.Pos++
	return s.nextValue()
}

// NextMember returns the next member of the object that s is in, or at the start of. key
// includes the quotes. After the last member, ok is false.
func (s *Scanner) NextMember() (key, value []byte, ok bool) {
	if c := s.Peek(); c != '{' && c != ',' {
		return nil, nil, false
	}
	s.Pos++
	s.Peek()
	start := s.Pos
	if !s.ScanKey() {
		return nil, nil, false // the object is empty
	}
	key = bytes.TrimRight(s.Data[start:s.Pos-1], " \t\r\n") // without the colon
	value, ok = s.nextValue()
	return key, value, ok
}

// nextValue returns the next value. At a closing bracket, the result is false.
func (s *Scanner) nextValue() ([]byte, bool) {
	s.Peek()
	start := s.Pos
	if !s.skipString() && !s.ScanValue() {
		return nil, false
	}
	return s.Data[start:s.Pos:s.Pos], true
}

// skipString skips a string at Pos without validating it, and reports success. A string
// whose end is not clear, because of a backslash before the quote, is left to ScanValue.
func (s *Scanner) skipString() bool {
	if s.Pos >= len(s.Data) || s.Data[s.Pos] != '"' {
		return false
	}
	n := bytes.IndexByte(s.Data[s.Pos+1:], '"')
	if n < 0 || s.Data[s.Pos+n] == '\\' {
		return false
	}
	s.Pos += n + 2
	return true
}
