package rpcx

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"example.com/rpcx/internal/jsonscan"
)

// findPath returns the value at path in a JSON object, or nil. If a member is given twice,
// the first counts. The result shares memory with object.
func findPath(object []byte, path []string) []byte {
	for _, name := range path {
		if len(object) == 0 || object[0] != '{' {
			return nil
		}
		var found []byte
		s := jsonscan.Scanner{Data: object}
		for key, value, ok := s.NextMember(); ok && found == nil; key, value, ok = s.NextMember() {
			if jsonscan.EqualString(key, name) {
				found = value
			}
		}
		object = found
	}
	return object
}

// setPath returns a copy of object, a JSON object, with value at path. Objects on the way
// are made if missing. If a member on the way is no object, setPath returns an error.
func setPath(object []byte, path []string, value []byte) ([]byte, error) {
	out := append(make([]byte, 0, len(object)+len(value)+64), '{')
	add := func(key, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), value...)
	}
	set := func(old []byte) error {
		if len(path) > 1 {
			if old == nil || jsonscan.IsNull(old) {
				old = []byte("{}")
			}
			if old[0] != '{' {
				return fmt.Errorf("member %q is no object", path[0])
			}
			var err error
			if old, err = setPath(old, path[1:], value); err != nil {
				return err
			}
			add(jsonscan.AppendString(nil, path[0]), old)
			return nil
		}
		add(jsonscan.AppendString(nil, path[0]), value)
		return nil
	}
	found := false
	s := jsonscan.Scanner{Data: object}
	for key, old, ok := s.NextMember(); ok; key, old, ok = s.NextMember() {
		switch {
		case !jsonscan.EqualString(key, path[0]):
			add(key, old)
		case !found:
			found = true
			if err := set(old); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		if err := set(nil); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// isStreamID reports whether the JSON value raw can be the id of a subscription: a string
// or a number.
func isStreamID(raw []byte) bool {
	return len(raw) > 0 && (raw[0] == '"' || raw[0] == '-' || raw[0]-'0' <= 9)
}

// appendParamsKey appends the key of the positional params of a subscribing call. If
// oneMore is set, params are those of a notification, and the last param is left out.
// Without a param to leave out, the result is false.
func appendParamsKey(dst, params []byte, oneMore bool) ([]byte, bool) {
	s := jsonscan.Scanner{Data: params}
	dst = append(dst, '[')
	var last []byte
	for value, ok := s.NextElement(); ok; value, ok = s.NextElement() {
		if last != nil {
			dst = append(appendCanonicalWithin(dst, last, 1), ',')
		}
		last = value
	}
	if !oneMore && last != nil {
		dst = append(appendCanonicalWithin(dst, last, 1), ',')
	}
	return dst, !oneMore || last != nil
}

// lastElement returns the last element of an array, or nil.
func lastElement(array []byte) (last []byte) {
	s := jsonscan.Scanner{Data: array}
	for value, ok := s.NextElement(); ok; value, ok = s.NextElement() {
		last = value
	}
	return last
}

// maxKeyDepth is the number of levels of arrays and objects that are compared as values. The
// reader compares what the peer sends, and each level costs another scan.
const maxKeyDepth = 8

// appendCanonical appends a text that is the same for equal JSON values: numbers of one
// value, strings with and without escape sequences, objects in any order of members. Below
// maxKeyDepth levels, values are equal if their texts are.
func appendCanonical(dst, raw []byte) []byte { return appendCanonicalWithin(dst, raw, 0) }

// appendCanonicalWithin is appendCanonical for a value within depth arrays and objects.
func appendCanonicalWithin(dst, raw []byte, depth int) []byte {
	switch c := raw[0]; {
	case c == '"':
		if bytes.IndexByte(raw, '\\') < 0 && bytes.IndexByte(raw, 0xe2) < 0 { // 0xe2: AppendString escapes U+2028
			return append(dst, raw...)
		}
		return jsonscan.AppendString(dst, jsonscan.Unquote(raw))
	case c == '-' || c-'0' <= 9:
		return appendCanonicalNumber(dst, raw)
	case depth >= maxKeyDepth:
	case c == '[':
		dst = append(dst, '[')
		s := jsonscan.Scanner{Data: raw}
		for value, ok := s.NextElement(); ok; value, ok = s.NextElement() {
			dst = append(appendCanonicalWithin(dst, value, depth+1), ',')
		}
		return append(dst, ']')
	case c == '{':
		var members [][]byte
		s := jsonscan.Scanner{Data: raw}
		for key, value, ok := s.NextMember(); ok; key, value, ok = s.NextMember() {
			members = append(members, appendCanonicalWithin(append(appendCanonical(nil, key), ':'), value, depth+1))
		}
		slices.SortFunc(members, bytes.Compare)
		dst = append(dst, '{')
		for _, member := range members {
			dst = append(append(dst, member...), ',')
		}
		return append(dst, '}')
	}
	return append(dst, raw...)
}

// maxExponent bounds the exponents of numbers that are compared as values.
const maxExponent = 1 << 30

// appendCanonicalNumber appends the digits of a number without outer zeros, and an exponent.
// A number with an exponent over maxExponent is appended unchanged.
func appendCanonicalNumber(dst, raw []byte) []byte {
	start, number, exponent := len(dst), raw, 0
	if raw[0] == '-' {
		dst, number = append(dst, '-'), raw[1:]
	}
	if i := bytes.IndexAny(number, "eE"); i >= 0 {
		n, err := strconv.Atoi(string(number[i+1:]))
		if err != nil || n > maxExponent || n < -maxExponent {
			return append(dst[:start], raw...)
		}
		number, exponent = number[:i], n
	}
	whole, fraction, _ := bytes.Cut(number, []byte{'.'})
	exponent -= len(fraction)
	if whole = bytes.TrimLeft(whole, "0"); len(whole) == 0 {
		fraction = bytes.TrimLeft(fraction, "0")
	}
	digits := len(dst)
	dst = append(append(dst, whole...), fraction...)
	for len(dst) > digits && dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
		exponent++
	}
	switch {
	case len(dst) == digits:
		return append(dst[:start], '0')
	case exponent == 0:
		return dst
	}
	return strconv.AppendInt(append(dst, 'e'), int64(exponent), 10)
}
