package rpcx

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
)

type encodeCase struct {
	Name     string
	Protocol string
	Op       string
	Kind     string // of what is constructed
	Method   any
	Args     any
	ID       any
	Result   any
	Payload  any
	Error    struct{ Code, Message any }
	Items    any
	IDs      []any
	Parts    []string
	Expect   struct {
		OK      bool
		Message *vectorMessage
		Error   *vectorError
	}
}

var encodeSkips = []skipRule[encodeCase]{
	{"in Go a method is a string", func(c encodeCase) bool {
		return c.Op == "construct" && !isText(c.Method)
	}},
	{"a Batch holds calls and notifications, and nothing else", func(c encodeCase) bool {
		items, ok := c.Items.([]any)
		for _, item := range items {
			ok = ok && (item == "request" || item == "notification")
		}
		return c.Op == "construct-batch" && !ok
	}},
	{"no map of Go's has such keys in JSON", func(c encodeCase) bool {
		return anywhere([]any{c.Args, c.Result, c.Payload, c.Items}, func(v map[string]any) bool {
			_, ok := goValue(v).(unkeyed)
			return ok
		})
	}},
	{"an error's code is an int", func(c encodeCase) bool {
		return c.Op == "error" && !intCode(c.Error.Code)
	}},
}

func TestVectorsEncode(t *testing.T) {
	for _, c := range loadVectors[encodeCase](t, "jsonrpc_encode.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, encodeSkips, c)
			c = c.decided()
			p := vectorProtocols[c.Protocol]
			if p == nil {
				t.Fatalf("unknown protocol %q", c.Protocol)
			}
			prefix := []byte("before")
			got, err := c.encode(t, p, prefix)
			if string(got[:len(prefix)]) != "before" {
				t.Fatalf("got %q, which was not appended", got)
			}
			msg := got[len(prefix):]
			switch want := c.Expect; {
			case want.Error != nil:
				if err == nil {
					t.Fatalf("got %s, want error %v", msg, want.Error.Message)
				}
				want.Error.checkError(t, err)
				if len(msg) > 0 {
					t.Errorf("%q was appended in spite of the error", msg)
				}
			case err != nil:
				t.Fatal(err)
			case want.OK:
				if !json.Valid(msg) {
					t.Errorf("got %q, which is no JSON", msg)
				}
			case want.Message.JSON == nil && want.Message.Raw != "null":
				if string(msg) != want.Message.Raw {
					t.Errorf("got %s, want %s", msg, want.Message.Raw)
				}
			default:
				checkJSON(t, "message", msg, want.Message.JSON)
			}
		})
	}
}

// decided returns the case with what is expected of rpcx, where that differs.
func (c encodeCase) decided() encodeCase {
	prefix := "JSON payload encoding error: "
	inexpressible := vectorError{Type: "ProtocolError", Code: json.Number(strconv.Itoa(CodeInternalError)), Prefix: &prefix}
	switch {
	case c.Op == "batch" && c.Expect.Error != nil: // the protocol has no batches
	case anywhere([]any{c.Args, c.Result, c.Payload, c.Items}, isFloat):
		c.Expect.Error = &inexpressible // NaN and Infinity are no JSON
	case c.Op == "construct" && c.Args == nil:
		c.Expect.OK, c.Expect.Error = true, nil // nil is how Go says that there are no arguments
	}
	return c
}

// encode appends the case's message to dst.
func (c encodeCase) encode(t *testing.T, p Protocol, dst []byte) ([]byte, error) {
	t.Helper()
	id, op := goID(t, c.ID), c.Op
	if op == "construct" {
		op, id = c.Kind, ID("0")
	}
	switch op {
	case "request":
		return p.AppendRequest(dst, id, goText(c.Method), goValue(c.Args), nil)
	case "notification":
		return p.AppendNotification(dst, goText(c.Method), goValue(c.Args), nil)
	case "response":
		return p.AppendResult(dst, id, goValue(c.Result), nil)
	case "error":
		code, err := strconv.Atoi(string(c.Error.Code.(json.Number)))
		if err != nil {
			t.Fatal(err)
		}
		return p.AppendError(dst, id, &Error{Code: code, Message: goText(c.Error.Message)}, nil)
	case "batch", "construct-batch":
		return c.batch(t).Append(dst, p, nil, func() ID {
			if len(c.IDs) == 0 {
				return ID("0")
			}
			id := goID(t, c.IDs[0])
			c.IDs = c.IDs[1:]
			return id
		})
	case "batch_from_parts":
		var parts [][]byte
		for _, part := range c.Parts {
			parts = append(parts, []byte(part))
		}
		return p.AppendBatch(dst, parts)
	case "encode_payload":
		return appendCodec(dst, p.Codec(), goValue(c.Payload))
	}
	t.Fatalf("unknown op %q", c.Op)
	return nil, nil
}

// batch builds the batch that the case describes.
func (c encodeCase) batch(t *testing.T) *Batch {
	t.Helper()
	var b Batch
	for _, item := range c.Items.([]any) {
		entry, ok := item.(map[string]any)
		if !ok {
			entry = map[string]any{"kind": item, "method": "m"}
		}
		if method, params := goText(entry["method"]), goValue(entry["args"]); entry["kind"] == "request" {
			b.Call(method, params, nil)
		} else {
			b.Notify(method, params)
		}
	}
	return &b
}

// isText reports whether a value of the vectors is a string.
func isText(v any) bool {
	form, _ := v.(map[string]any)
	_, plain := v.(string)
	return plain || form["$lone_surrogates"] != nil
}

// goID returns the id that a value of the vectors stands for.
func goID(t *testing.T, v any) ID {
	t.Helper()
	if v == nil {
		return nil
	}
	id, err := JSON.Append(nil, goValue(v))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func goText(v any) string {
	if form, ok := v.(map[string]any); ok {
		return loneSurrogates(form["$lone_surrogates"].(string))
	}
	return v.(string)
}

// unkeyed is a map whose keys no map of Go's can have.
type unkeyed struct{}

// goValue returns the Go value that is to be encoded for a value of the vectors.
func goValue(v any) any {
	switch v := v.(type) {
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = goValue(v[i])
		}
		return list
	case map[string]any:
		if text, ok := v["$float"].(string); ok {
			f, err := strconv.ParseFloat(text, 64)
			if err != nil {
				panic(err)
			}
			return f
		}
		if text, ok := v["$lone_surrogates"].(string); ok {
			return json.RawMessage(`"` + text + `"`)
		}
		if digits, ok := v["$bigint"].(string); ok {
			return json.Number(digits)
		}
		if pairs, ok := v["$python_dict"].([]any); ok {
			return pythonDict(pairs)
		}
		if _, ok := v["$unencodable"]; ok {
			return make(chan int)
		}
		object := make(map[string]any, len(v))
		for key, value := range v {
			object[key] = goValue(value)
		}
		return object
	}
	return v
}

// pythonDict returns the map that has integers as its keys, if all are.
func pythonDict(pairs []any) any {
	dict := make(map[int]any)
	for _, pair := range pairs {
		pair := pair.([]any)
		key, err := strconv.Atoi(fmt.Sprint(pair[0]))
		if err != nil {
			return unkeyed{}
		}
		dict[key] = goValue(pair[1])
	}
	return dict
}

// isFloat reports whether a value of the vectors is NaN or Infinity.
func isFloat(v map[string]any) bool { return v["$float"] != nil }

// anywhere reports whether found holds for any object in a value of the vectors.
func anywhere(v any, found func(map[string]any) bool) bool {
	within := func(v any) bool { return anywhere(v, found) }
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, within)
	case map[string]any:
		return found(v) || slices.ContainsFunc(slices.Collect(maps.Values(v)), within)
	}
	return false
}
