package rpcx

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strconv"

	"example.com/rpcx/internal/jsonscan"
)

// numberForm is the Go type of JSON numbers in destinations of any value.
type numberForm uint8

const (
	floatNumbers   numberForm = iota // a float64, as in encoding/json
	textNumbers                      // a json.Number
	integerNumbers                   // int64, float64 or json.Number: the result of integerOrFloat
)

// decodeAny decodes data, a single JSON value, for a destination of any value. The result
// is encoding/json's: nil, bool, float64, string, []any or map[string]any.
//
//   - If an object has two equal keys, the last counts.
//   - An unpaired surrogate becomes U+FFFD, as does each byte that is not UTF-8.
//   - A number outside the range of float64 is a [*json.UnmarshalTypeError].
//
// Every version of encoding/json does so. For invalid JSON, the error is encoding/json's.
func decodeAny(data []byte, form numberForm) (any, error) {
	d := anyDecoder{Scanner: jsonscan.Scanner{Data: data}, form: form}
	v, ok := d.decodeValue()
	ok = ok && d.AtEnd()
	if ok && !d.IsUTF8() {
		// Here each invalid byte becomes a rune. The text stays valid JSON, since invalid
		// bytes occur only within strings.
		return decodeAny([]byte(string([]rune(string(data)))), form)
	}
	switch {
	case !ok:
		return nil, stdUnmarshalError(data, new(any))
	case d.err != nil:
		return nil, d.err
	}
	return v, nil
}

// stdUnmarshalError returns encoding/json's error for data that does not fit v.
func stdUnmarshalError(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	return errors.New("invalid JSON")
}

// anyDecoder is a scanner that builds values.
type anyDecoder struct {
	jsonscan.Scanner
	form numberForm
	err  error // the first number out of the range of its Go type
}

// decodeValue scans and returns a value. Like encoding/json, decodeValue recurses, at
// most jsonscan.MaxDepth levels deep.
func (d *anyDecoder) decodeValue() (v any, ok bool) {
	switch c := d.Peek(); {
	case c == '"':
		return d.decodeString()
	case c == '{':
		return d.decodeObject()
	case c == '[':
		return d.decodeArray()
	case c == '-' || c-'0' <= 9:
		start := d.Pos
		if !d.ScanNumber() {
			return nil, false
		}
		return d.numberValue(d.Data[start:d.Pos]), true
	default:
		if !d.ScanLiteral(c) {
			return nil, false
		}
		if c == 'n' {
			return nil, true
		}
		return c == 't', true
	}
}

// decodeString scans and returns a string.
func (d *anyDecoder) decodeString() (s string, ok bool) {
	start := d.Pos
	d.HasEscape = false
	if !d.ScanString() {
		return "", false
	}
	if d.HasEscape {
		return jsonscan.Unquote(d.Data[start:d.Pos]), true
	}
	return string(d.Data[start+1 : d.Pos-1]), true
}

func (d *anyDecoder) decodeArray() (v any, ok bool) {
	d.Pos++
	if d.Depth++; d.Depth > jsonscan.MaxDepth {
		return nil, false
	}
	if d.Peek() == ']' {
		d.Pos++
		d.Depth--
		return []any{}, true
	}
	var list []any
	for {
		x, ok := d.decodeValue()
		if !ok {
			return nil, false
		}
		list = append(list, x)
		switch d.Peek() {
		case ',':
			d.Pos++
		case ']':
			d.Pos++
			d.Depth--
			return list, true
		default:
			return nil, false
		}
	}
}

func (d *anyDecoder) decodeObject() (v any, ok bool) {
	d.Pos++
	if d.Depth++; d.Depth > jsonscan.MaxDepth {
		return nil, false
	}
	m := make(map[string]any)
	if d.Peek() == '}' {
		d.Pos++
		d.Depth--
		return m, true
	}
	for {
		if d.Peek() != '"' {
			return nil, false
		}
		key, ok := d.decodeString()
		if !ok || d.Peek() != ':' {
			return nil, false
		}
		d.Pos++
		if m[key], ok = d.decodeValue(); !ok {
			return nil, false
		}
		switch d.Peek() {
		case ',':
			d.Pos++
		case '}':
			d.Pos++
			d.Depth--
			return m, true
		default:
			return nil, false
		}
	}
}

// numberValue returns the value of raw, a valid number.
func (d *anyDecoder) numberValue(raw []byte) any {
	switch d.form {
	case textNumbers:
		return json.Number(raw)
	case integerNumbers:
		return integerOrFloat(json.Number(raw))
	}
	f, err := parseFloat(raw)
	if err != nil && d.err == nil {
		d.err = &json.UnmarshalTypeError{Value: "number " + excerpt(raw), Type: reflect.TypeFor[float64](), Offset: int64(d.Pos)}
	}
	return f
}

// parseFloat returns the value of a valid number.
func parseFloat(raw []byte) (float64, error) {
	const exact = 15 // every integer of up to 15 digits has an exact float64
	if len(raw) > exact || raw[0] == '-' {
		return strconv.ParseFloat(string(raw), 64)
	}
	n := int64(0)
	for _, c := range raw {
		if c -= '0'; c > 9 {
			return strconv.ParseFloat(string(raw), 64)
		}
		n = n*10 + int64(c)
	}
	return float64(n), nil
}

// unmarshalForm decodes data into v. If v is a common type or a destination of any value,
// unmarshalForm decodes data itself. encoding/json decodes the remaining types. The
// errors are encoding/json's.
func unmarshalForm(data []byte, v any, form numberForm) error {
	if unmarshalDirect(data, v) {
		return nil
	}
	switch v := v.(type) {
	case *any:
		if v != nil {
			return unmarshalInto(data, v, form)
		}
	case *[]any:
		if v != nil {
			return unmarshalList(data, v, v, form)
		}
	case *Args:
		if v != nil {
			return unmarshalList(data, v, (*[]any)(v), form)
		}
	case *map[string]any:
		if v != nil {
			return unmarshalMap(data, v, form)
		}
	}
	return json.Unmarshal(data, v)
}

// unmarshalInto decodes any value. If *v is a pointer, the value goes to its target, as
// in encoding/json. On an error, *v is unchanged.
func unmarshalInto(data []byte, v *any, form numberForm) error {
	if to := reflect.ValueOf(*v); to.Kind() == reflect.Pointer && !to.IsNil() && *v != any(v) {
		if to.Elem().Kind() == reflect.Pointer || !jsonscan.IsNull(bytes.Trim(data, " \t\r\n")) {
			return unmarshalForm(data, *v, form)
		}
	}
	x, err := decodeAny(data, form)
	if err == nil {
		*v = x
	}
	return err
}

// unmarshalList decodes a list of any values into list, which is dest. Values go to the
// targets of the list's pointers, and into the list's memory, as in encoding/json. On an
// error, the list is unchanged.
func unmarshalList(data []byte, dest any, list *[]any, form numberForm) error {
	if slices.ContainsFunc(*list, isPointer) {
		return unmarshalElements(data, dest, list, form)
	}
	x, err := decodeAny(data, form)
	if err != nil {
		return err
	}
	switch x := x.(type) {
	case nil:
		*list = nil
	case []any:
		setList(list, x)
	default:
		return stdUnmarshalError(data, dest)
	}
	return nil
}

func isPointer(v any) bool { return reflect.ValueOf(v).Kind() == reflect.Pointer }

// unmarshalElements decodes the elements of a list separately.
func unmarshalElements(data []byte, dest any, list *[]any, form numberForm) error {
	s := jsonscan.Scanner{Data: data}
	start := s.Peek()
	if !s.ScanValue() || !s.AtEnd() || start != '[' && start != 'n' {
		return stdUnmarshalError(data, dest)
	}
	if start == 'n' {
		*list = nil
		return nil
	}
	s = jsonscan.Scanner{Data: data}
	values := []any{}
	for raw, ok := s.NextElement(); ok; raw, ok = s.NextElement() {
		var x any
		if i := len(values); i < len(*list) && isPointer((*list)[i]) {
			x = (*list)[i]
		}
		if err := unmarshalInto(raw, &x, form); err != nil {
			return err
		}
		values = append(values, x)
	}
	setList(list, values)
	return nil
}

// setList stores values in list, and reuses the list's memory if the capacity suffices.
func setList(list *[]any, values []any) {
	if len(values) == 0 || len(values) > cap(*list) {
		*list = values
	} else {
		*list = append((*list)[:0], values...)
	}
}

// unmarshalMap adds the members of an object to *m, or sets *m if *m is nil. On an error,
// the map is unchanged.
func unmarshalMap(data []byte, m *map[string]any, form numberForm) error {
	x, err := decodeAny(data, form)
	if err != nil {
		return err
	}
	switch x := x.(type) {
	case nil:
		*m = nil
	case map[string]any:
		if *m == nil {
			*m = x
		} else {
			maps.Copy(*m, x)
		}
	default:
		return stdUnmarshalError(data, m)
	}
	return nil
}

// largeParams is the size in bytes from which decoding params takes a slot.
const largeParams = 64 << 10

// decoding has a slot for each processor except the last, and at least one slot. A
// goroutine holds a single slot while decoding large params. Without the limit, many
// large decodings of some milliseconds each could occupy every processor, and small
// requests would wait.
var decoding = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

func takeDecodingSlot()    { decoding <- struct{}{} }
func releaseDecodingSlot() { <-decoding }

// unmarshalInTurn decodes data; a nil c is the built-in codec. If data is large,
// unmarshalInTurn holds a decoding slot meanwhile.
func unmarshalInTurn(c Codec, data []byte, v any) error {
	if len(data) >= largeParams {
		takeDecodingSlot()
		defer releaseDecodingSlot()
	}
	return codecOr(c).Unmarshal(data, v)
}
