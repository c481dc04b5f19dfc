package natsrpcx

import (
	"strings"
)

// maxSubject is the maximum length of the subject of a method, without the prefix, in
// bytes.
const maxSubject = 255

// Subjects of this package's own, below the prefix. No method has such a subject: in the
// subject of a method, two hexadecimal digits, or the end of the segment, follow a "%".
const (
	announceSubject = "%announce"   // announcements of workers
	topicPrefix     = "%topic."     // published values
	longTopicPrefix = "%longtopic." // published values, by a hash of the topic
)

// methodSubject returns the subject of a method, without the prefix. "/" and "." separate
// the segments. If the subject is too long, ok is false.
func methodSubject(method string) (subject string, ok bool) {
	return encodeSubject(method, "/.")
}

// encodeSubject encodes the segments of name, which end at the separators. An empty segment
// becomes "%". If the subject is longer than maxSubject, ok is false.
func encodeSubject(name, separators string) (subject string, ok bool) {
	if len(name) > maxSubject { // each byte becomes at least one
		return "", false
	}
	if isPlain(name) {
		return name, true
	}
	b := make([]byte, 0, 3*len(name)+1)
	start := 0 // of the segment, in b
	for i := range len(name) {
		switch c := name[i]; {
		case strings.IndexByte(separators, c) >= 0:
			if len(b) == start {
				b = append(b, '%')
			}
			b = append(b, '.')
			start = len(b)
		case isPlainByte(c):
			b = append(b, c)
		default:
			const digits = "0123456789ABCDEF"
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	if len(b) == start {
		b = append(b, '%')
	}
	return string(b), len(b) <= maxSubject
}

// isPlain reports whether name is a single segment that is its own encoding.
func isPlain(name string) bool {
	for i := range len(name) {
		if !isPlainByte(name[i]) {
			return false
		}
	}
	return name != ""
}

func isPlainByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}
