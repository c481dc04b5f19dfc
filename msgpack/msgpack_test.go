package msgpack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/msgpack"
	"github.com/google/go-cmp/cmp"
)

// options returns options for a session that speaks this wire.
func options(h rpcx.Handler) *rpcx.Options {
	return &rpcx.Options{Handler: h, Protocol: msgpack.Aiomas, Framer: rpcx.LengthFramer{}}
}

// pipe joins two sessions, which are closed at the end of the test.
func pipe(t *testing.T, a, b *rpcx.Options) *rpcx.Session {
	t.Helper()
	client, server := rpcx.Pipe(a, b)
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-client.Done()
		<-server.Done()
	})
	return client
}

type order struct {
	ID    int64           `json:"id"`
	Data  []byte          `json:"data,omitempty"`
	Raw   json.RawMessage `json:"raw,omitempty"`
	Whom  *rpcx.Proxy     `json:"whom,omitempty"`
	Any   any             `json:"any"`
	Notes map[string]any  `json:"notes"`
}

// Handlers are bound as over JSON: by place, by name, both, and from structs.
func TestArguments(t *testing.T) {
	called := ""
	mine := rpcx.ExposeMap(map[string]any{"call": func(s string) { called = s }})
	server := rpcx.ExposeMap(map[string]any{
		"divide": rpcx.Func(func(a, b float64) float64 { return a / b }, "a", "b"),
		"opt":    rpcx.Func(func(a any, b, c *int) any { return []any{a, b == nil, c == nil} }, "a", "b?", "c?"),
		"sum":    func(n ...int) (total int) { return len(n) },
		"order": func(ctx context.Context, o order) (order, error) {
			if err := o.Whom.Call(ctx, nil, "call", string(o.Data)); err != nil {
				return o, err
			}
			o.Whom = nil
			return o, nil
		},
		"raw":  func(_ context.Context, raw json.RawMessage) (json.RawMessage, error) { return raw, nil },
		"fail": func() error { return rpcx.InvalidParams("no") },
	})
	client := pipe(t, options(mine), options(server))
	root, ctx := client.Remote(), t.Context()
	for _, test := range []struct {
		method string
		args   []any
		want   any
	}{
		{"divide", []any{1, 4}, 0.25},
		{"divide", []any{1, rpcx.Named{"b": 4}}, 0.25},
		{"divide", []any{rpcx.Named{"b": 4, "a": 1}}, 0.25},
		{"opt", []any{"x", rpcx.Named{"c": 1}}, []any{"x", true, false}},
		{"opt", []any{nil, nil, 5}, []any{nil, true, false}},
		{"sum", []any{1, 2, 3}, int64(3)},
		{"sum", nil, int64(0)},
		{"raw", []any{map[string]any{"x": []any{nil}}}, map[string]any{"x": []any{nil}}},
	} {
		var got any
		if err := root.Call(ctx, &got, test.method, test.args...); err != nil || !cmp.Equal(got, test.want) {
			t.Errorf("%s %v: got %#v, %v; want %#v", test.method, test.args, got, err, test.want)
		}
	}
	sent := order{ID: 1<<62 + 1, Data: []byte{'h', 'i'}, Any: int64(5), Notes: map[string]any{"n": nil}}
	var got order
	with := map[string]any{"id": sent.ID, "data": sent.Data, "any": 5, "notes": sent.Notes, "whom": mine}
	if err := client.Call(ctx, "order", with, &got); err != nil || !cmp.Equal(got, sent) || called != "hi" {
		t.Errorf("got %+v, %v; called with %q", got, err, called)
	}
	for method, want := range map[string]string{
		"divide": `TypeError: 0 arguments passed to method "divide" but it requires 2`,
		"fail":   "TypeError: no",
		"none":   `LookupError: Name "none" not found in ""`,
	} {
		err := root.Call(ctx, nil, method)
		var e *rpcx.Error
		if !errors.As(err, &e) || e.Message != want {
			t.Errorf("%s: error %v, want %q", method, err, want)
		}
	}
	if err := root.Call(ctx, nil, "divide", "x", 1); err == nil || !strings.Contains(err.Error(), `invalid argument "a"`) {
		t.Errorf("error %v", err)
	}
	if err := root.Notify(ctx, "fail"); err == nil {
		t.Error("there are no notifications")
	}
}

type celsius float64

func TestObjects(t *testing.T) {
	types := []rpcx.Type{rpcx.NewType(
		func(c celsius) (float64, error) { return float64(c), nil },
		func(f float64) (celsius, error) { return celsius(f), nil })}
	server := rpcx.ExposeMap(map[string]any{"echo": func(v any) any { return v }})
	if err := server.Mount("sub", rpcx.ExposeMap(map[string]any{"self": func() *rpcx.Router { return server }})); err != nil {
		t.Fatal(err)
	}
	a, b := options(nil), options(server)
	a.Types, b.Types = types, types
	client := pipe(t, a, b)
	for _, v := range []any{
		celsius(1.5), []any{celsius(2), "x", []byte{0, 255}, int64(-7), uint64(1 << 63)},
		map[string]any{"x": celsius(3)}, map[any]any{int64(1): celsius(4), "y": nil},
	} {
		var got any
		if err := client.Remote().Call(t.Context(), &got, "echo", v); err != nil || !cmp.Equal(got, v) {
			t.Errorf("got %#v, %v; want %#v", got, err, v)
		}
	}
	var p *rpcx.Proxy
	if err := client.Remote().At("sub").Call(t.Context(), &p, "self"); err != nil || !p.Equal(client.Remote()) {
		t.Errorf("got %v, %v", p, err)
	}
	err := client.Remote().Call(t.Context(), nil, "echo", rpcx.NewRouter())
	if err == nil || !strings.Contains(err.Error(), "cannot be sent") {
		t.Errorf("error %v", err)
	}
}

func TestHostileMessages(t *testing.T) {
	for sentence, body := range map[string]string{
		"a byte that begins nothing":    "\xc1",
		"no message":                    "",
		"an array without its elements": "\xdd\xff\xff\xff\xff",
		"a map without its members":     "\x93\x00\x00\xdf\xff\xff\xff\xff",
		"a text that is too short":      "\x93\x00\x00\xdb\xff\xff\xff\xffabc",
		"nested too deeply":             "\x93\x00\x00" + strings.Repeat("\x91", 20_000) + "\xc0",
		"something behind the message":  "\x93\x00\x00\xc0\xc0",
		"an unknown type":               "\x93\x07\x00\xc0",
		"a type that is no number":      "\x93\xa1a\x00\xc0",
		"a negative type":               "\x93\xff\x00\xc0",
		"a type that is not whole":      "\x93\xca\x3f\x00\x00\x00\x00\xc0",
		"a length that is cut off":      "\x93\x00\x00\xdc\x00",
		"an extension that is cut off":  "\x93\x00\x00\xc7\x05\x01",
		"a fixed extension, cut off":    "\x93\x00\x00\xd8\x01",
		"a number that is cut off":      "\x93\x00\x00\xcf\x01",
		"an array of two":               "\x92\x00\x00",
		"a map that is no message":      "\x83\x00\x00\x00\x00\x00\x00",
	} {
		var m rpcx.Message
		msgpack.Aiomas.Decode(&m, []byte(body), 0)
		if m.Len() != 1 || m.Items[0].Kind != rpcx.KindFatal || m.Items[0].Err == nil {
			t.Errorf("%s: got %+v", sentence, m.Items)
		}
	}
	for sentence, body := range map[string]string{
		"no content":             "\x93\x00\x05\xc0",
		"a path that is bytes":   "\x93\x00\x05\x93\xc4\x01m\x90\x80",
		"args that are a map":    "\x93\x00\x05\x93\xa1m\x80\x80",
		"kwargs that are a list": "\x93\x00\x05\x93\xa1m\x90\x90",
	} {
		var m rpcx.Message
		msgpack.Aiomas.Decode(&m, []byte(body), 0)
		if item := &m.Items[0]; item.Kind != rpcx.KindInvalid || string(item.ID) != "\x05" || item.Err == nil {
			t.Errorf("%s: got %+v", sentence, item)
		}
	}
}

// Whatever comes, nothing panics; and what was decoded is encoded to the same again.
func FuzzCodec(f *testing.F) {
	for _, seed := range []string{
		"\xc0", "\x93\x01\xa1x\xc4\x01y", "\x82\xa1a\x01\x02\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", "\x81\x91\x00\x00",
		"\x92\xc0\xc0", "\xd7\x10\xdf/000=00", "\x92\xd7\x10\x81\x01\x02\xdf\xff\xff\xff\xff\xc0", "\xd7\xff\xdf\xff\xff\xff\xff\x00\x00\x00",
		"\xd6\xff\x00\x00\x00\x00", "\xc7\x01\xff\x00", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "\x81\xa2id\x05",
	} {
		f.Add([]byte(seed))
	}
	limitMemory(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var m rpcx.Message
		msgpack.Aiomas.Decode(&m, data, 0)
		for _, dest := range destinations() {
			if took := allocated(func() { _ = msgpack.Codec.Unmarshal(data, dest) }); took > memoryFor(data) {
				t.Fatalf("%x into a %T takes %d bytes", data, dest, took)
			}
		}
		var v any
		if msgpack.Codec.Unmarshal(data, &v) != nil {
			return
		}
		again, err := msgpack.Codec.Append(nil, v)
		if err != nil {
			t.Fatalf("%x: %v", data, err)
		}
		var w any
		if err := msgpack.Codec.Unmarshal(again, &w); err != nil || fmt.Sprint(v) != fmt.Sprint(w) {
			t.Errorf("%x became %v, and that %x, which is %v, %v", data, v, again, w, err)
		}
	})
}

func ExampleAiomas() {
	opts := func(h rpcx.Handler) *rpcx.Options {
		return &rpcx.Options{Protocol: msgpack.Aiomas, Framer: rpcx.LengthFramer{}, Handler: h}
	}
	client, server := rpcx.Pipe(opts(nil), opts(rpcx.ExposeMap(map[string]any{
		"reverse": func(data []byte) []byte { return []byte{data[1], data[0]} },
	})))
	defer server.Close()
	defer client.Close()
	fmt.Println(rpcx.Call[[]byte](context.Background(), client, "reverse", rpcx.Args{[]byte{0, 255}}))
	// Output: [255 0] <nil>
}

// The beginning of a message shows what it is.
func TestDecodeStart(t *testing.T) {
	request, _ := msgpack.Aiomas.AppendRequest(nil, rpcx.ID("300"), "path", rpcx.Args{"x"}, nil)
	result, _ := msgpack.Aiomas.AppendResult(nil, rpcx.ID("\x07"), "text", nil)
	exception, _ := msgpack.Aiomas.AppendError(nil, rpcx.ID("\xcd\x01\x2c"), rpcx.InternalError(), nil)
	for _, c := range []struct {
		name, start string
		kind        rpcx.Kind
		id          string
	}{
		{"a request", string(request[:6]), rpcx.KindRequest, "\xcd\x01\x2c"},
		{"a request with a long array header", "\xdc\x00\x03\x00\x07\x93", rpcx.KindRequest, "\x07"},
		{"a result", string(result[:4]), rpcx.KindResponse, "7"},
		{"an exception", string(exception[:6]), rpcx.KindResponse, "300"},
		{"an id that is cut off", string(request[:4]), rpcx.KindFatal, ""},
		{"another type", "\x93\x03\x07\xa1", rpcx.KindFatal, ""},
		{"too many elements", "\x94\x00\x07\xa1", rpcx.KindFatal, ""},
		{"an array that says it is huge", "\xdd\xff\xff\xff\xff\x00\x07", rpcx.KindFatal, ""},
		{"no array", "{\"id\":7}", rpcx.KindFatal, ""},
		{"nothing", "", rpcx.KindFatal, ""},
	} {
		var m rpcx.Message
		msgpack.Aiomas.(rpcx.StartDecoder).DecodeStart(&m, []byte(c.start))
		if item := m.Items[0]; m.Len() != 1 || item.Kind != c.kind || string(item.ID) != c.id {
			t.Errorf("%s: %v %q, want %v %q", c.name, item.Kind, item.ID, c.kind, c.id)
		}
	}
}
