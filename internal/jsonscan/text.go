package jsonscan

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Unquote returns the value of a JSON string. raw must be valid and include the quotes.
// Unpaired surrogates become U+FFFD, as in encoding/json.
func Unquote(raw []byte) string {
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
			r := decodeHex(rest)
			rest = rest[4:]
			if utf16.IsSurrogate(r) {
				var low rune
				if len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
					low = decodeHex(rest[2:])
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

// UnquoteBytes returns the value of a JSON string as bytes. Without an escape sequence,
// the result is a part of raw.
func UnquoteBytes(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	return []byte(Unquote(raw))
}

// decodeHex returns the value of the first four hexadecimal digits.
func decodeHex(digits []byte) (r rune) {
	for _, c := range digits[:4] {
		if c > '9' {
			c += 9 // now the low four bits are the value, for both cases
		}
		r = r<<4 | rune(c&0xf)
	}
	return r
}

// MaxEscape is the maximum number of bytes of a JSON string per byte of its value.
const MaxEscape = 6

// EqualString reports whether the JSON value raw is the string s.
func EqualString(raw []byte, s string) bool {
	if len(raw) == len(s)+2 && raw[0] == '"' {
		return string(raw[1:len(raw)-1]) == s && bytes.IndexByte(raw, '\\') < 0
	}
	return len(raw) > 2 && len(raw)-2 <= MaxEscape*len(s) && raw[0] == '"' && bytes.IndexByte(raw, '\\') >= 0 && Unquote(raw) == s
}

// IsNull reports whether the JSON value raw is null.
func IsNull(raw []byte) bool { return len(raw) == 4 && raw[0] == 'n' }

const hexDigits = "0123456789abcdef"

// replacement is U+FFFD in UTF-8.
const replacement = string(utf8.RuneError)

// AppendString appends s in quotes. AppendString escapes U+2028 and U+2029 too, for
// JavaScript. Each byte that is not UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(slices.Grow(dst, len(s)+2), '"')
	src := []byte(s) // not copied, since src is only read
	start, i := 0, 0 // src[start:i] can be copied unchanged
	for i < len(src) {
		switch c := src[i]; {
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(src[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, src[start:i]...), replacement...)
				start = i + size
			} else if r == '\u2028' || r == '\u2029' {
				dst = append(append(dst, src[start:i]...), '\\', 'u', '2', '0', '2', hexDigits[r&0xf])
				start = i + size
			}
			i += size
		case c < 0x20 || c == '"' || c == '\\':
			dst = appendEscape(append(dst, src[start:i]...), c)
			i++
			start = i
		default:
			i++
			run := i + longString
			// Skips ordinary bytes, eight at a time.
			for i <= len(src)-8 {
				w := binary.LittleEndian.Uint64(src[i : i+8])
				if mark := MarkSpecial(w) | w&highBits; mark != 0 {
					i += bits.TrailingZeros64(mark) / 8
					break
				}
				if i += 8; i == run {
					i = skipPlain(src, i)
				}
			}
		}
	}
	return append(append(dst, src[start:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}

// Compact removes the white space from valid JSON, in place, and returns the remaining
// length.
func Compact(data []byte) int {
	n := 0
	s := Scanner{Data: data}
	for s.Peek() != 0 {
		start := s.Pos
		if data[start] == '"' {
			s.ScanString()
		} else {
			for s.Pos < len(data) && data[s.Pos] > ' ' && data[s.Pos] != '"' {
				s.Pos++
			}
		}
		n += copy(data[n:], data[start:s.Pos])
	}
	return n
}

// IsSpace reports whether c is white space in JSON.
func IsSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
