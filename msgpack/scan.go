package msgpack

import (
	"encoding/binary"
	"math"
)

// The functions below find the ends of values, and check that values are complete, before
// decoding. They follow the table of formats in the MessagePack specification; see
// https://github.com/msgpack/msgpack/blob/master/spec.md.

// kind is the kind of a value, as shown by the first byte.
type kind uint8

const (
	kindBad kind = iota
	kindNull
	kindScalar // bool, integer, float
	kindString
	kindBytes // bin, ext
	kindArray
	kindMap
)

// maxDepth is the maximum nesting of arrays and maps, the same as for JSON.
const maxDepth = 10000

func kindOf(c byte) kind {
	k, _, _ := format(c)
	return k
}

// format describes a value by its first byte c. If counted is false, size bytes follow. If
// counted is true, a number of size bytes follows, the count of further bytes or elements.
// [header] reads counts inside c.
func format(c byte) (k kind, size int, counted bool) {
	switch {
	case c <= 0x7f || c >= 0xe0:
		return kindScalar, 0, false
	case c <= 0x8f:
		return kindMap, 0, false
	case c <= 0x9f:
		return kindArray, 0, false
	case c <= 0xbf:
		return kindString, int(c & 0x1f), false
	}
	switch c {
	case 0xc0:
		return kindNull, 0, false
	case 0xc2, 0xc3:
		return kindScalar, 0, false
	case 0xc4, 0xc5, 0xc6: // bin
		return kindBytes, 1 << (c - 0xc4), true
	case 0xc7, 0xc8, 0xc9: // ext: the type is an additional byte
		return kindBytes, 1 << (c - 0xc7), true
	case 0xca:
		return kindScalar, 4, false
	case 0xcb:
		return kindScalar, 8, false
	case 0xcc, 0xcd, 0xce, 0xcf: // unsigned
		return kindScalar, 1 << (c - 0xcc), false
	case 0xd0, 0xd1, 0xd2, 0xd3: // signed
		return kindScalar, 1 << (c - 0xd0), false
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // fixext
		return kindBytes, 1 + 1<<(c-0xd4), false
	case 0xd9, 0xda, 0xdb:
		return kindString, 1 << (c - 0xd9), true
	case 0xdc, 0xdd:
		return kindArray, 2 << (c - 0xdc), true
	case 0xde, 0xdf:
		return kindMap, 2 << (c - 0xde), true
	}
	return kindBad, 0, false // 0xc1
}

// header reads the header of a value: n bytes, followed by payload bytes and then by
// further values, elements in number. If the value is incomplete, n is negative.
func header(data []byte) (n, payload, elements int) {
	if len(data) == 0 {
		return -1, 0, 0
	}
	c := data[0]
	k, size, counted := format(c)
	n = 1
	count := size
	if counted {
		if n += size; len(data) < n {
			return -1, 0, 0
		}
		switch size {
		case 1:
			count = int(data[1])
		case 2:
			count = int(binary.BigEndian.Uint16(data[1:]))
		case 4:
			long := binary.BigEndian.Uint32(data[1:])
			if uint64(long) > uint64(len(data)) { // each byte or element takes at least a byte
				return -1, 0, 0
			}
			count = int(long)
		}
		if c >= 0xc7 && c <= 0xc9 {
			count++
		}
	} else if k == kindArray || k == kindMap {
		count = int(c & 0x0f)
	}
	switch k {
	case kindBad:
		return -1, 0, 0
	case kindArray:
		return n, 0, count
	case kindMap:
		return n, 0, 2 * count
	}
	if len(data)-n < count {
		return -1, 0, 0
	}
	return n, count, 0
}

// skip returns the length of the first value in data. If the value is incomplete or nested
// too deeply, the result is -1.
func skip(data []byte, depth int) int {
	n, payload, elements := header(data)
	if n < 0 || elements > 0 && depth == maxDepth {
		return -1
	}
	n += payload
	for range elements {
		size := skip(data[n:], depth+1)
		if size < 0 {
			return -1
		}
		n += size
	}
	return n
}

// split splits an array of exactly len(parts) elements into parts, and returns the bytes
// after the array.
func split(data []byte, parts [][]byte) (rest []byte, ok bool) {
	n, _, elements := header(data)
	if n < 0 || kindOf(data[0]) != kindArray || elements != len(parts) {
		return nil, false
	}
	rest = data[n:]
	for i := range parts {
		size := skip(rest, 1)
		if size < 0 {
			return nil, false
		}
		parts[i], rest = rest[:size:size], rest[size:]
	}
	return rest, true
}

// text returns the string in raw, a complete value.
func text(raw []byte) (string, bool) {
	if kindOf(raw[0]) != kindString {
		return "", false
	}
	n, payload, _ := header(raw)
	return string(raw[n : n+payload]), true
}

// integer returns the number in raw, a complete value, in any encoding. A number with a
// fraction or a negative sign is refused.
func integer(raw []byte) (uint64, bool) {
	c, data := raw[0], raw[1:]
	var signed int64
	switch {
	case c <= 0x7f:
		return uint64(c), true
	case c == 0xca:
		return whole(float64(math.Float32frombits(binary.BigEndian.Uint32(data))))
	case c == 0xcb:
		return whole(math.Float64frombits(binary.BigEndian.Uint64(data)))
	case c >= 0xcc && c <= 0xcf:
		var n uint64
		for _, b := range data {
			n = n<<8 | uint64(b)
		}
		return n, true
	case c == 0xd0:
		signed = int64(int8(data[0]))
	case c == 0xd1:
		signed = int64(int16(binary.BigEndian.Uint16(data)))
	case c == 0xd2:
		signed = int64(int32(binary.BigEndian.Uint32(data)))
	case c == 0xd3:
		signed = int64(binary.BigEndian.Uint64(data))
	default:
		return 0, false
	}
	return uint64(signed), signed >= 0
}

func whole(f float64) (uint64, bool) {
	if f < 0 || f >= 1<<53 || f != math.Trunc(f) { // also false for NaN
		return 0, false
	}
	return uint64(f), true
}

// appendUint appends n in the shortest form.
func appendUint(dst []byte, n uint64) []byte {
	switch {
	case n <= 0x7f:
		return append(dst, byte(n))
	case n <= math.MaxUint8:
		return append(dst, 0xcc, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 0xcd), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xcf), n)
}
