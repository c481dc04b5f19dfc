package msgpack

import (
	"encoding/binary"
	"errors"
)

// The library's decoder reads a map's length through the header of an extension: where a
// map is expected, what an extension holds is taken for the beginning of one. Neither
// its length nor where it ends is checked then. So no extension may get there whose
// content begins as a map does, or as a null, whatever the destination is.

var errExtension = errors.New("an extension whose content begins like a map or a null")

// timestamp is the type of the one extension that the specification defines.
const timestamp = 0xff

// withoutMapsInExtensions returns data, which is one whole value, if the decoder reads it
// as it is meant. A timestamp that it would not is written in its longest form, which
// begins with less than a thousand million nanoseconds, and never like a map.
func withoutMapsInExtensions(data []byte) ([]byte, error) {
	var out []byte
	copied := 0 // how much of data is in out
	for at := 0; at < len(data); {
		n, payload, _ := header(data[at:])
		start := at + n
		at = start + payload
		c := data[start-n]
		if !isExtension(c) || !beginsLikeMap(data[start+1:at]) {
			continue
		}
		long, ok := longTimestamp(data[start], data[start+1:at])
		if !ok {
			return nil, errExtension
		}
		out = append(append(out, data[copied:start-n]...), long...)
		copied = at
	}
	if copied == 0 {
		return data, nil
	}
	return append(out, data[copied:]...), nil
}

// isExtension reports whether c begins an extension.
func isExtension(c byte) bool { return c >= 0xc7 && c <= 0xc9 || c >= 0xd4 && c <= 0xd8 }

// beginsLikeMap reports whether the decoder would take content for the beginning of a
// map, or for none.
func beginsLikeMap(content []byte) bool {
	return len(content) > 0 && (kindOf(content[0]) == kindMap || kindOf(content[0]) == kindNull)
}

// longTimestamp returns an extension in the form of a timestamp of 96 bits, if it is a
// shorter one.
func longTimestamp(kind byte, content []byte) ([]byte, bool) {
	if kind != timestamp {
		return nil, false
	}
	var nanoseconds uint32
	var seconds uint64
	switch len(content) {
	case 4:
		seconds = uint64(binary.BigEndian.Uint32(content))
	case 8:
		both := binary.BigEndian.Uint64(content)
		nanoseconds, seconds = uint32(both>>34), both&(1<<34-1)
	default:
		return nil, false
	}
	if nanoseconds >= 1e9 {
		return nil, false
	}
	long := binary.BigEndian.AppendUint32([]byte{0xc7, 12, timestamp}, nanoseconds)
	return binary.BigEndian.AppendUint64(long, seconds), true
}
