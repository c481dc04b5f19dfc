package aiomastest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"example.com/rpcx"
)

// runCallCase plays a server for a session that calls.
func (w Wire) runCallCase(t *testing.T, c *vector) {
	opts := &rpcx.Options{}
	root, inner := newClientRoot()
	if c.ClientService != "" {
		opts.Handler = root
	}
	arguments := map[any]any{
		"$service": root, "$sub": inner, "$in-dict": map[string]any{"k": root}, "$set": make(chan int),
	}
	s, far := w.connectSession(t, opts)
	var resets []error
	s.OnClose(func(err error) { resets = append(resets, err) })

	start := func(calls []vectorCall) (futures []*rpcx.Future) {
		for _, call := range calls {
			var args []any
			for _, arg := range call.Args {
				if name, ok := arg.(string); ok && arguments[name] != nil {
					arg = arguments[name]
				}
				args = append(args, nativeForm(arg))
			}
			if len(call.Kwargs) > 0 {
				args = append(args, rpcx.Named(nativeForm(call.Kwargs).(map[string]any)))
			}
			p, method := s.Remote(), ""
			if n := len(call.Path); n > 0 {
				p, method = p.At(call.Path[:n-1]...), call.Path[n-1]
			}
			futures = append(futures, p.Go(t.Context(), method, args...))
		}
		return futures
	}
	futures := start(c.Calls)
	far.compareMessages("calls", far.takeReceived(), c.Sent, c)
	requests := 0
	for _, chunk := range c.PeerSends {
		for _, message := range w.decodeMessages(t, []string{chunk}) {
			if kind, _, _, _ := messageParts(message); kind == exactNumber("0") {
				requests++
			}
		}
		far.writeHex(chunk)
	}
	expect := c.SentAfter
	if c.ClientService == "" && requests > 0 {
		// A side without a service answers here, so that no caller waits forever.
		expect = append(expect, frame{Type: "exception", ID: 0})
	}
	far.compareMessages("afterwards", far.takeReceived(), expect, c)
	switch c.PeerCloses {
	case "reset":
		far.near.reset = true
		fallthrough
	case true:
		far.Close()
	}
	far.takeReceived() // waits until the session has noticed
	for i, f := range futures {
		compareOutcome(t, s, f, c.Outcomes[i])
	}
	for i, f := range start(c.CallsAfter) {
		compareOutcome(t, s, f, c.OutcomesAfter[i])
	}
	if len(c.ResetCallback) != 0 && (!hasEnded(s) || len(resets) != len(c.ResetCallback)) {
		t.Errorf("the callback for the end was called with %v, want %v", resets, c.ResetCallback)
	}
}

// compareOutcome compares the outcome of a call.
func compareOutcome(t *testing.T, s *rpcx.Session, f *rpcx.Future, want map[string]any) {
	t.Helper()
	done := false
	select {
	case <-f.Done():
		done = true
	default:
	}
	err := f.Err()
	var result any
	if done && err == nil {
		err = f.Decode(&result)
	}
	wrong := func() { t.Errorf("done %v with %v, error %v; want %v", done, result, err, want) }
	if path, ok := want["result_proxy_path"]; ok {
		if p, ok := result.(*rpcx.Proxy); !ok || p.Path() != path || p.Session() != s {
			wrong()
		}
		return
	}
	if value, ok := want["result"]; ok {
		if !done || err != nil || !reflect.DeepEqual(normalForm(result), normalForm(value)) {
			wrong()
		}
		return
	}
	if want["pending"] == true || want["raises"] == "KeyError" { // an unexpected reply is harmless here
		if done || hasEnded(s) {
			wrong()
		}
		if want["raises"] == "KeyError" && s.Stats().UnexpectedReplies+s.Stats().LateReplies == 0 {
			t.Error("the reply to nothing was not counted")
		}
		return
	}
	if kind, ok := want["raises_at_call"]; ok {
		if !done || err == nil || kind == "ConnectionResetError" && !errors.Is(err, rpcx.ErrClosed) {
			wrong()
		}
		return
	}
	switch want["raises"] {
	case "RemoteException":
		var e *rpcx.Error
		if !errors.As(err, &e) || e.Code != rpcx.CodeUnavailable || e.Data != want["remote_traceback"] {
			wrong()
		}
	case "ConnectionResetError":
		if !errors.Is(err, rpcx.ErrConnectionLost) {
			wrong()
		}
	default: // an unreadable message
		var bad *rpcx.ProtocolError
		if !errors.Is(err, rpcx.ErrConnectionLost) || !errors.As(err, &bad) || !hasEnded(s) {
			wrong()
		}
		if text := fmt.Sprint(want["message"]); strings.HasPrefix(text, "Invalid message type") && !strings.EqualFold(bad.Message, text) {
			wrong()
		}
	}
}

// typeA and typeB are the types of the vectors' objects.
type (
	typeA struct{ Name string }
	typeB struct{ Name string }
	plain map[string]string
)

// runCodecCase makes a session encode a value as an argument, and decode the value as a
// result.
func (w Wire) runCodecCase(t *testing.T, c *vector) {
	types := map[string]rpcx.Type{
		"A": rpcx.NewType(func(a typeA) (plain, error) { return plain{"n": a.Name}, nil },
			func(p plain) (typeA, error) { return typeA{p["n"]}, nil }),
		"B": rpcx.NewType(func(b typeB) (plain, error) { return plain{"n": b.Name}, nil },
			func(p plain) (typeB, error) { return typeB{p["n"]}, nil }),
	}
	if reason, ok := c.Expect["raises"]; ok {
		switch reason {
		case "SerializationError":
			s, far := w.connectSession(t, &rpcx.Options{})
			if err := s.Remote().Go(t.Context(), "f", make(chan int)).Err(); err == nil || len(far.takeReceived()) > 0 {
				t.Errorf("a channel was sent, error %v", err)
			}
		case "ValueError":
			expectPanic(t, "twice", func() {
				w.connectSession(t, &rpcx.Options{Types: []rpcx.Type{types["A"], types["A"]}})
			})
		default:
			t.Fatalf("an unknown error: %v", reason)
		}
		return
	}
	opts := &rpcx.Options{}
	for _, name := range c.Serializers {
		opts.Types = append(opts.Types, types[name])
	}
	value := nativeForm(c.Value)
	var back any = normalForm(value)
	if len(c.Serializers) > 0 {
		// The vectors describe objects by texts. The last letter is the type.
		var objects, decoded []any
		for _, text := range value.([]any) {
			if strings.HasSuffix(text.(string), "A") {
				objects, decoded = append(objects, typeA{"A"}), append(decoded, normalForm(typeA{"A"}))
			} else {
				objects, decoded = append(objects, typeB{"B"}), append(decoded, normalForm(typeB{"B"}))
			}
		}
		value, back = objects, decoded
	}
	raw, err := hex.DecodeString(c.Expect["hex"].(string))
	if err != nil {
		t.Fatal(err)
	}
	want, err := w.decodeBody(raw)
	if err != nil {
		t.Fatal(err)
	}

	s, far := w.connectSession(t, opts)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := s.Remote().Go(ctx, "f", value)
	got := far.takeReceived()
	if len(got) != 1 {
		t.Fatalf("sent %v, error %v", got, f.Err())
	}
	_, _, content, _ := messageParts(got[0].message)
	if args := content.([]any)[1].([]any); !reflect.DeepEqual(args[0], want) {
		t.Errorf("encoded to %v, want %v", args[0], want)
	}
	frame, err := rpcx.LengthFramer{}.AppendFrame(nil, w.Result(0, raw))
	if err != nil {
		t.Fatal(err)
	}
	far.writeHex(hex.EncodeToString(frame))
	far.takeReceived()
	var result any
	if err := f.Decode(&result); err != nil || !reflect.DeepEqual(normalForm(result), back) {
		t.Errorf("decoded to %v, error %v; want %v", normalForm(result), err, back)
	}
}

// runClientErrorCase calls with an argument that cannot be sent.
func (w Wire) runClientErrorCase(t *testing.T, c *vector) {
	mine, other := newRoot(), newRoot()
	opts := &rpcx.Options{Handler: mine.router}
	var arg any = other // a service of another tree
	switch message := fmt.Sprint(c.Expect["message"]); {
	case strings.Contains(message, "No RPC service running"):
		opts.Handler = nil
	case strings.Contains(message, "No serializer found"):
		arg = make(chan int)
	}
	s, far := w.connectSession(t, opts)
	err := s.Remote().Call(t.Context(), nil, "f", arg)
	if err == nil || len(far.takeReceived()) > 0 {
		t.Errorf("it was sent, error %v", err)
	}
}

// expectPanic fails the test unless f panics with a text that contains part.
func expectPanic(t *testing.T, part string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), part) {
			t.Errorf("panicked with %v, want %q", r, part)
		}
	}()
	f()
}
