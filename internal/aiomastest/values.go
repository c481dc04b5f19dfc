package aiomastest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
)

// frame is a message as the vectors describe messages.
type frame struct {
	Hex       string
	Type      string
	ID        any
	Content   any
	Traceback *struct {
		First string `json:"first_line"`
		Last  string `json:"last_line"`
	}
}

// numbers holds the message types on the wire.
var numbers = map[string]int64{"request": 0, "result": 1, "exception": 2}

// decodedValue returns the decoded message of the frame.
func (f *frame) decodedValue(w Wire) (any, error) {
	if f.Hex != "" {
		raw, err := hex.DecodeString(f.Hex)
		if err != nil {
			return nil, err
		}
		return w.decodeBody(raw[4:])
	}
	return normalForm([]any{numbers[f.Type], f.ID, f.Content}), nil
}

// decodeBody decodes the body of a message to its normal form.
func (w Wire) decodeBody(body []byte) (any, error) {
	v, err := w.Decode(body)
	return normalForm(v), err
}

// exactNumber is the exact value of a number, as a fraction.
type exactNumber string

// normalForm converts a decoded value to a form that does not depend on the codec. Equal
// values have equal forms.
func normalForm(v any) any {
	switch v := v.(type) {
	case json.Number:
		if r, ok := new(big.Rat).SetString(string(v)); ok {
			return exactNumber(r.RatString())
		}
	case []byte:
		return fmt.Sprintf("bytes %x", v)
	case []any:
		list := make([]any, len(v))
		for i, x := range v {
			list[i] = normalForm(x)
		}
		return list
	case map[string]any:
		m := make(map[string]any)
		for key, x := range v {
			m[key] = normalForm(x)
		}
		return m
	case map[any]any:
		m := make(map[string]any)
		for key, x := range v {
			text, ok := key.(string)
			if !ok {
				text = fmt.Sprintf("key %v", normalForm(key)) // differs from every text
			}
			m[text] = normalForm(x)
		}
		return m
	case nil, bool, string, exactNumber:
		return v
	}
	switch rv := reflect.ValueOf(v); {
	case rv.CanInt():
		return normalForm(json.Number(fmt.Sprint(rv.Int())))
	case rv.CanUint():
		return normalForm(json.Number(fmt.Sprint(rv.Uint())))
	case rv.CanFloat():
		return exactNumber(new(big.Rat).SetFloat64(rv.Float()).RatString())
	}
	return fmt.Sprintf("%T %v", v, v)
}

// nativeForm converts a value of the vectors to the types of a Go program.
func nativeForm(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		list := make([]any, len(v))
		for i, x := range v {
			list[i] = nativeForm(x)
		}
		return list
	case map[string]any:
		m := make(map[string]any)
		for key, x := range v {
			m[key] = nativeForm(x)
		}
		return m
	}
	return v
}

// messageParts returns the elements of a message [type, id, content].
func messageParts(message any) (kind, id, content any, ok bool) {
	list, ok := message.([]any)
	if !ok || len(list) != 3 {
		return nil, nil, nil, false
	}
	return list[0], list[1], list[2], true
}

// isIllFormed reports whether the content of a request differs from [path, args, kwargs].
func isIllFormed(content any) bool {
	list, ok := content.([]any)
	if !ok || len(list) != 3 {
		return true
	}
	_, pathOK := list[0].(string)
	_, argsOK := list[1].([]any)
	_, kwargsOK := list[2].(map[string]any)
	return !pathOK || !argsOK || !kwargsOK
}

// hasBadObject reports whether v contains an object that refers to no service.
func hasBadObject(v any) bool {
	switch v := v.(type) {
	case []any:
		if slices.ContainsFunc(v, hasBadObject) {
			return true
		}
	case map[string]any:
		if object, ok := v["__type__"]; ok {
			pair, ok := object.([]any)
			return !ok || len(pair) != 2 || pair[0] != exactNumber("0")
		}
		for _, x := range v {
			if hasBadObject(x) {
				return true
			}
		}
	}
	return false
}

// sameTraceback returns an error if got differs from the traceback of want. aiomas names
// Python types in a traceback; here Go types take their place.
func sameTraceback(got string, want *frame, path string) error {
	last := strings.Replace(want.Traceback.Last, `"svc.`, `"aiomastest.`, 1)
	if name, ok := strings.CutPrefix(last, `LookupError: "aiomas.rpc.ServiceDict.`); ok {
		// A map contains only exposed names.
		name, _, _ = strings.Cut(name, `"`)
		service, _, _ := strings.Cut(path, "/"+name)
		last = fmt.Sprintf(`LookupError: Name %q not found in %q`, name, service)
	}
	lines := strings.Split(got, "\n")
	n := len(lines)
	if n < 3 || lines[0] != want.Traceback.First || lines[n-2] != last || lines[n-1] != "" {
		return fmt.Errorf("traceback %q, want one from %q to %q", got, want.Traceback.First, last)
	}
	return nil
}

// decodeExactly decodes JSON without rounding its numbers.
func decodeExactly(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec.Decode(v)
}
