package rpcx_test

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// What is nil is found at the call, and not in another goroutine.
func TestNilPanicsAtTheCall(t *testing.T) {
	var file *os.File
	var conn *net.TCPConn
	var listener *net.TCPListener
	s, other := rpcx.Pipe(nil, nil)
	defer func() { s.Close(); other.Close(); <-s.Done(); <-other.Done() }()
	f := s.Go(t.Context(), "m", nil)
	g := rpcx.NewTaskGroup[int](t.Context(), nil)
	var none context.Context
	free := func(context.Context) error { return nil }
	for name, call := range map[string]func(){
		"NewSession with a nil connection":              func() { rpcx.NewSession(nil, nil) },
		"NewSession with a nil connection: ":            func() { rpcx.NewSession(conn, nil) },
		"NewMessageSession with a nil connection":       func() { rpcx.NewMessageSession(nil, nil) },
		"Server.Serve with a nil listener":              func() { new(rpcx.Server).Serve(nil) },
		"Server.Serve with a nil listener: ":            func() { new(rpcx.Server).Serve(listener) },
		"Server.ServeContext with a nil listener":       func() { new(rpcx.Server).ServeContext(t.Context(), nil) },
		"Server.ServeConn with a nil connection":        func() { new(rpcx.Server).ServeConn(nil) },
		"Server.ServeMessageConn with a nil connection": func() { new(rpcx.Server).ServeMessageConn(nil) },
		"Join with a nil reader":                        func() { rpcx.Join(nil, os.Stdout) },
		"Join with a nil writer":                        func() { rpcx.Join(os.Stdin, file) },
		"Session.OnClose with a nil callback":           func() { s.OnClose(nil) },
		"Future.OnDone with a nil callback":             func() { f.OnDone(nil) },
		"Session.Call with a nil context":               func() { s.Call(none, "m", nil, nil) },
		"Session.Go with a nil context":                 func() { s.Go(none, "m", nil) },
		"Session.Notify with a nil context":             func() { s.Notify(none, "m", nil) },
		"Session.SendBatch with a nil context":          func() { s.SendBatch(none, new(rpcx.Batch)) },
		"Session.GoBatch with a nil context":            func() { s.GoBatch(none, new(rpcx.Batch)) },
		"Session.Shutdown with a nil context":           func() { s.Shutdown(none) },
		"Server.Shutdown with a nil context":            func() { new(rpcx.Server).Shutdown(none) },
		"Server.Wait with a nil context":                func() { new(rpcx.Server).Wait(none) },
		"Server.ListenAndServe with a nil context":      func() { new(rpcx.Server).ListenAndServe(none, "tcp://127.0.0.1:0") },
		"Server.ServeContext with a nil context":        func() { new(rpcx.Server).ServeContext(none, nil) },
		"Command with a nil context":                    func() { rpcx.Command(none, nil, nil) },
		"Dial with a nil context":                       func() { rpcx.Dial(none, "tcp://127.0.0.1:1", nil) },
		"TimeoutAfter with a nil context":               func() { rpcx.TimeoutAfter(none, time.Second, free) },
		"StartTask with a nil context":                  func() { rpcx.StartTask[int](none, nil) },
		"NewTaskGroup with a nil context":               func() { rpcx.NewTaskGroup[int](none, nil) },
		"NewTaskGroup with a WaitPolicy that does not":  func() { rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Wait: 9}) },
		"TaskGroup.Go with a nil function":              func() { g.Go(nil) },
		"TaskGroup.GoDaemon with a nil function":        func() { g.GoDaemon(nil) },
		"StartTask with a nil function":                 func() { rpcx.StartTask[int](t.Context(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if text, _ := recover().(string); !strings.HasPrefix(text, "rpcx: "+name) {
					t.Errorf("it panics with %q", text)
				}
			}()
			call()
		})
	}
}

func TestDialContextThatReturnsNothing(t *testing.T) {
	d := rpcx.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil }}
	for _, addr := range []string{"tcp://127.0.0.1:1", "tls://127.0.0.1:1"} {
		if s, err := d.Dial(t.Context(), addr, nil); s != nil || err == nil || !strings.Contains(err.Error(), "DialContext") {
			t.Errorf("%s: %v, %v", addr, s, err)
		}
	}
}

// A Future that nobody has returned fails, whatever it is asked first.
func TestZeroFutureFails(t *testing.T) {
	for name, first := range map[string]func(f *rpcx.Future) error{
		"Wait":   func(f *rpcx.Future) error { return f.Wait(context.Background(), nil) },
		"Err":    func(f *rpcx.Future) error { return f.Err() },
		"Decode": func(f *rpcx.Future) error { return f.Decode(new(int)) },
		"Done":   func(f *rpcx.Future) error { <-f.Done(); return f.Err() },
		"Cancel": func(f *rpcx.Future) error { f.Cancel(); return f.Err() },
		"OnDone": func(f *rpcx.Future) error {
			errs := make(chan error)
			f.OnDone(func(f *rpcx.Future) { errs <- f.Err() })
			return <-errs
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f rpcx.Future
				takes(t, 0, func() {
					if err := first(&f); err == nil || !strings.Contains(err.Error(), "zero Future") {
						t.Errorf("the error is %v", err)
					}
				})
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // one of a batch that is not sent is not one
		var b rpcx.Batch
		f := b.Call("m", nil, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Wait(ctx, nil); err != context.DeadlineExceeded || f.Err() != nil {
			t.Errorf("Wait returns %v", err)
		}
	})
}

func TestZeroRouter(t *testing.T) {
	var root, empty rpcx.Router
	var sub rpcx.Router
	sub.Handle("reply", rpcx.HandlerFunc(reply))
	if err := root.Mount("sub", &sub); err != nil {
		t.Fatal(err)
	}
	if err := root.Mount("empty", &empty); err != nil {
		t.Fatal(err)
	}
	if empty.Remove("nothing") || root.Remove("nothing") {
		t.Error("something was removed")
	}
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, handling(&root))
		w.say(`{"jsonrpc":"2.0","method":"sub/reply","params":[7],"id":1}`)
		w.expect(answered("7", 1))
		w.say(ask("empty/reply", 2))
		if got := w.heard(); len(got) != 1 || !strings.Contains(got[0], "-32601") {
			t.Errorf("heard %q", got)
		}
	})
}
