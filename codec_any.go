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

// numberForm says what a JSON number becomes where any value is expected.
type numberForm uint8

const (
	floatNumbers   numberForm = iota // a float64, as in encoding/json
	textNumbers                      // a json.Number
	integerNumbers                   // what integerOrFloat returns
)

// decodeAny decodes data, one JSON value, into what encoding/json makes of it
// where any value is expected: nil, bool, float64, string, []any, map[string]any.
//
//   - If an object has two equal keys, the last of them counts.
//   - An unpaired surrogate becomes U+FFFD. So does each byte that is not UTF-8.
//   - A number beyond float64 is a [*json.UnmarshalTypeError].
//
// All of encoding/json's versions do so. The error of what is no JSON is theirs.
func decodeAny(data []byte, form numberForm) (any, error) {
	d := anyDecoder{Scanner: jsonscan.Scanner{Data: data}, form: form}
	v, ok := d.decodeValue()
	ok = ok && d.AtEnd()
	if ok && !d.IsUTF8() {
		// Each wrong byte is a rune of its own here. The text can be scanned
		// again, since all of them are within strings.
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

// stdUnmarshalError returns encoding/json's error for data that v cannot take.
func stdUnmarshalError(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return err
	}
	return errors.New("invalid JSON")
}

// anyDecoder is a scanner that makes values of what it scans.
type anyDecoder struct {
	jsonscan.Scanner
	form numberForm
	err  error // the first number that has no place in its Go type
}

// decodeValue scans and returns one value. Like encoding/json it recurses, at most
// maxDepth levels deep.
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
	const exact = 15 // integers of so many digits have a float64 of their own
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

// unmarshalForm decodes data into v. It goes the direct way where data is just
// what v expects. Errors are encoding/json's, and so is what has another type.
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

// unmarshalInto decodes any value. If *v has a pointer, the value goes where that
// points to, as in encoding/json. If there is an error, *v is unchanged.
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

// unmarshalList decodes a list of any values into list, which is dest. The values
// go where the list's elements point to, and into its memory, as in encoding/json.
// If there is an error, the list is unchanged.
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

// unmarshalElements decodes a list of any values one by one.
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

// setList puts values into the memory of list, if that has room.
func setList(list *[]any, values []any) {
	if len(values) == 0 || len(values) > cap(*list) {
		*list = values
	} else {
		*list = append((*list)[:0], values...)
	}
}

// unmarshalMap adds the members of an object to the map, if there is one. If there
// is an error, the map is unchanged.
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

// largeParams is the size in bytes from which params are decoded within a slot.
const largeParams = 64 << 10

// decoding has a slot for each processor but one, and one at least. Who decodes large
// params is in a slot, and takes no other one: if many goroutines needed a processor for
// some milliseconds each, all others would wait for theirs, those of small requests too.
var decoding = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

func takeDecodingSlot()    { decoding <- struct{}{} }
func releaseDecodingSlot() { <-decoding }

// unmarshalInTurn decodes data, within a slot if it is large.
func unmarshalInTurn(c Codec, data []byte, v any) error {
	if len(data) >= largeParams {
		takeDecodingSlot()
		defer releaseDecodingSlot()
	}
	return c.Unmarshal(data, v)
}
