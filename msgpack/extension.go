package msgpack

import (
	"encoding/binary"
	"errors"
)

// If the destination is a map, the library's decoder skips the header of an extension and
// reads the extension's content as a map. The decoder then checks neither the extension's
// length nor its end. So extensions whose content begins like a map or a null must not
// reach the decoder, whatever the destination.

var errExtension = errors.New("an extension whose content begins like a map or a null")

// timestamp is the type of the only extension in the specification.
const timestamp = 0xff

// withoutMapsInExtensions checks the extensions in data, a single complete value. A
// timestamp whose content begins like a map or a null is rewritten in the longest form. The
// longest form begins with less than a thousand million nanoseconds, and so never like a
// map. Any other such extension is an error.
func withoutMapsInExtensions(data []byte) ([]byte, error) {
	var out []byte
	copied := 0 // number of bytes of data already in out
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

// beginsLikeMap reports whether the decoder would take content for the beginning of a map,
// or for a null.
func beginsLikeMap(content []byte) bool {
	return len(content) > 0 && (kindOf(content[0]) == kindMap || kindOf(content[0]) == kindNull)
}

// longTimestamp converts a timestamp of 32 or 64 bits to the form of 96 bits.
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
