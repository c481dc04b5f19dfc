package rpcx_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

func TestCallSendsItsParams(t *testing.T) {
	type point struct {
		X int `json:"x"`
		Y int `json:"y,omitempty"`
	}
	for _, c := range []struct {
		name   string
		params any
		want   string
	}{
		{"nil is left out", nil, ``},
		{"so is an empty list", rpcx.Args{}, ``},
		{"positional arguments are a list", rpcx.Args{1, "two", nil}, `,"params":[1,"two",null]`},
		{"so is any slice", []string{"a", "b"}, `,"params":["a","b"]`},
		{"a map holds named arguments", map[string]any{"x": 1}, `,"params":{"x":1}`},
		{"so does a struct", point{X: 1}, `,"params":{"x":1}`},
		{"and a pointer to one", &point{1, 2}, `,"params":{"x":1,"y":2}`},
		{"an empty map is kept", map[string]any{}, `,"params":{}`},
		{"raw JSON goes as it is", json.RawMessage(`[1.0,"\u00e9"]`), `,"params":[1.0,"\u00e9"]`},
		{"text is not escaped for HTML", rpcx.Args{"<&>"}, `,"params":["<&>"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				s.Go(t.Context(), "m", c.params)
				w.expect(`{"jsonrpc":"2.0","method":"m","id":0` + c.want + `}`)
			})
		})
	}
}

func TestParamsThatCannotBeSentAreNotSent(t *testing.T) {
	for name, params := range map[string]any{
		"a text is no list of arguments":          "text",
		"nor is a number":                         1,
		"a channel cannot be encoded":             rpcx.Args{make(chan int)},
		"nor can a function in a map":             map[string]any{"f": func() {}},
		"raw JSON has to be JSON":                 json.RawMessage(`[1,`),
		"positional and named arguments together": rpcx.Mixed{Args: rpcx.Args{1}, Named: map[string]int{"x": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				ctx := t.Context()
				var b rpcx.Batch
				b.Call("m", params, nil)
				f := s.Go(ctx, "m", params)
				if !isDone(f) {
					t.Error("Go's future is not done")
				}
				for how, err := range map[string]error{
					"Call": s.Call(ctx, "m", params, nil), "Go": f.Err(),
					"Notify": s.Notify(ctx, "m", params), "SendBatch": s.SendBatch(ctx, &b),
				} {
					if err == nil {
						t.Errorf("%s succeeded", how)
					}
				}
				w.expectNothing()
				if stats := s.Stats(); stats.Pending != 0 || stats.MessagesSent != 0 {
					t.Errorf("stats are %+v", stats)
				}
				live(t, s)
			})
		})
	}
}

func TestCallReturnsWhatThePeerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		answer := func(format string, args ...any) *rpcx.Future {
			f := s.Go(t.Context(), "m", nil)
			id := len(w.heard()) // one line: this only waits for it
			if id != 1 {
				t.Fatal("not one line")
			}
			w.say(fmt.Sprintf(format, args...))
			if !isDone(f) {
				t.Fatalf("not answered by "+format, args...)
			}
			return f
		}
		var text string
		if err := answer(`{"jsonrpc":"2.0","result":"hi","id":0}`).Decode(&text); err != nil || text != "hi" {
			t.Errorf("got %q, %v", text, err)
		}
		if err := answer(`{"jsonrpc":"2.0","result":"hi","id":1}`).Decode(nil); err != nil {
			t.Errorf("a result that nobody wants: %v", err)
		}
		var number int
		if err := answer(`{"jsonrpc":"2.0","result":"hi","id":2}`).Decode(&number); err == nil {
			t.Error("a text was decoded into an int")
		}

		err := answer(`{"jsonrpc":"2.0","error":{"code":-32601,"message":"nope","data":[1]},"id":3}`).Err()
		matches(t, err, rpcx.ErrMethodNotFound)
		matchesNot(t, err, rpcx.ErrInternalError)
		want := &rpcx.Error{Code: -32601, Message: "nope", Data: json.RawMessage("[1]")}
		if diff := cmp.Diff(error(want), err); diff != "" {
			t.Errorf("wrong error (-want +got):\n%s", diff)
		}

		err = answer(`{"jsonrpc":"2.0","result":1,"error":null,"id":4}`).Err()
		var perr *rpcx.ProtocolError
		if !errors.As(err, &perr) {
			t.Errorf("an ill-formed reply gives %v, want a *ProtocolError", err)
		}
		live(t, s)
	})
}

func TestGenericCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newPipe(t, nil, handling(methods{"reply": reply}))
		type point struct{ X, Y int }
		if got, err := rpcx.Call[point](t.Context(), s, "reply", rpcx.Args{point{1, 2}}); err != nil || got != (point{1, 2}) {
			t.Errorf("got %v, %v", got, err)
		}
		if got, err := rpcx.Call[[]string](t.Context(), s, "reply", rpcx.Args{[]string{"a"}}); err != nil || !slices.Equal(got, []string{"a"}) {
			t.Errorf("got %v, %v", got, err)
		}
		got, err := rpcx.Call[int](t.Context(), s, "nope", nil)
		if got != 0 {
			t.Errorf("a failed call returned %d", got)
		}
		matches(t, err, rpcx.ErrMethodNotFound)
	})
}

func TestNotificationIsHandledAndNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		record := func(_ context.Context, req *rpcx.Request) (any, error) {
			got = append(got, fmt.Sprintf("%s%s %v", req.Method, req.Params.Positional, req.IsNotification() && req.ID == nil))
			return "unread", errors.New("unread")
		}
		a, b := newPipe(t, nil, handling(methods{"note": record}))
		if err := a.Notify(t.Context(), "note", rpcx.Args{1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if want := []string{"note[1] true"}; !slices.Equal(got, want) {
			t.Errorf("handled %q, want %q", got, want)
		}
		if n := b.Stats().MessagesSent; n != 0 {
			t.Errorf("%d messages were sent back", n)
		}
	})
}

func TestCallBackFromAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Each side answers n by asking the other for n-1.
		count := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			var n [1]int
			if err := req.Bind(&n); err != nil || n[0] == 0 {
				return 0, err
			}
			below, err := rpcx.Call[int](ctx, req.Session(), "count", rpcx.Args{n[0] - 1})
			return below + 1, err
		})
		a, _ := newPipe(t, handling(count), handling(count))
		if got, err := rpcx.Call[int](t.Context(), a, "count", rpcx.Args{30}); err != nil || got != 30 {
			t.Errorf("got %d, %v", got, err)
		}
	})
}

func TestMessagesLeaveInTheOrderOfTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(-1))
		var want []string
		for i, id := 0, 0; i < 100; i++ {
			switch i % 3 {
			case 0:
				s.Go(t.Context(), "m", rpcx.Args{i})
				want = append(want, fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d,"params":[%d]}`, id, i))
				id++
			case 1:
				if err := s.Notify(t.Context(), "m", rpcx.Args{i}); err != nil {
					t.Fatal(err)
				}
				want = append(want, fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","params":[%d]}`, i))
			case 2:
				var b rpcx.Batch
				b.Call("m", rpcx.Args{i}, nil)
				s.GoBatch(t.Context(), &b)
				want = append(want, fmt.Sprintf(`[{"jsonrpc":"2.0","method":"m","id":%d,"params":[%d]}]`, id, i))
				id++
			}
		}
		w.expect(want...)
	})
}

func TestRequestsAreTakenInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got, want []int
		opts := handling(methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
			var n [1]int
			err := req.Bind(&n)
			got = append(got, n[0])
			return nil, err
		}})
		opts.Limits.Concurrency = 1
		a, _ := newPipe(t, nil, opts)
		var last *rpcx.Future
		for i := range 200 {
			want = append(want, i)
			if last = a.Go(t.Context(), "m", rpcx.Args{i}); i%7 == 0 {
				runtime.Gosched()
			}
		}
		if err := last.Wait(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("handled in the order %v", got)
		}
	})
}

func TestWhatAHandlerReturnsIsTheAnswer(t *testing.T) {
	const internal = `"error":{"code":-32603,"message":"internal server error"}`
	for _, c := range []struct {
		name    string
		handler rpcx.HandlerFunc
		want    string
	}{
		{"a value", func(context.Context, *rpcx.Request) (any, error) { return map[string]int{"a": 1}, nil }, `"result":{"a":1}`},
		{"nothing", func(context.Context, *rpcx.Request) (any, error) { return nil, nil }, `"result":null`},
		{"raw JSON", func(context.Context, *rpcx.Request) (any, error) { return json.RawMessage(`1.00`), nil }, `"result":1.00`},
		{"an *Error", func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.Errorf(1, "n%d", 2) },
			`"error":{"code":1,"message":"n2"}`},
		{"an *Error within another error", func(context.Context, *rpcx.Request) (any, error) {
			return nil, fmt.Errorf("secret: %w", rpcx.Errorf(1, "open"))
		}, `"error":{"code":1,"message":"open"}`},
		{"an error beside a value", func(context.Context, *rpcx.Request) (any, error) { return 1, rpcx.Errorf(1, "no") },
			`"error":{"code":1,"message":"no"}`},
		{"an *Error with data that cannot be encoded", func(context.Context, *rpcx.Request) (any, error) {
			return nil, &rpcx.Error{Code: 1, Message: "no", Data: make(chan int)}
		}, `"error":{"code":1,"message":"no"}`},
		{"another error", func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("secret") }, internal},
		{"an error of the context", func(context.Context, *rpcx.Request) (any, error) { return nil, context.Canceled }, internal},
		{"a value that cannot be encoded", func(context.Context, *rpcx.Request) (any, error) { return make(chan int), nil }, internal},
		{"raw JSON that is none", func(context.Context, *rpcx.Request) (any, error) { return json.RawMessage("{\n"), nil }, internal},
		{"a value whose encoding panics", func(context.Context, *rpcx.Request) (any, error) { return explosive{}, nil }, internal},
		{"a panic", func(context.Context, *rpcx.Request) (any, error) { panic("secret") }, internal},
		{"a panic of a run-time error", func(context.Context, *rpcx.Request) (any, error) { return []int{}[len("x")], nil }, internal},
		{"the end of its goroutine", func(context.Context, *rpcx.Request) (any, error) { runtime.Goexit(); return 1, nil }, internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, handling(methods{"m": c.handler, "reply": reply}))
				w.say(`{"jsonrpc":"2.0","method":"m","id":"x"}`)
				w.expect(`{"jsonrpc":"2.0",` + c.want + `,"id":"x"}`)
				w.say(`[{"jsonrpc":"2.0","method":"m","id":"y"},{"jsonrpc":"2.0","method":"m"}]`)
				w.expect(`[{"jsonrpc":"2.0",` + c.want + `,"id":"y"}]`)
				w.say(`{"jsonrpc":"2.0","method":"reply","params":["still there"],"id":1}`)
				w.expect(`{"jsonrpc":"2.0","result":"still there","id":1}`)
				if n := s.Stats().Running; n != 0 {
					t.Errorf("%d handlers are said to run", n)
				}
			})
		})
	}
}

type explosive struct{}

func (explosive) MarshalJSON() ([]byte, error) { panic("secret") }

func TestMiddlewareIsAppliedOutermostFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var trail []string
		named := func(name string) func(rpcx.Handler) rpcx.Handler {
			return func(next rpcx.Handler) rpcx.Handler {
				return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
					trail = append(trail, name)
					return next.ServeRPC(ctx, req)
				})
			}
		}
		opts := &rpcx.Options{Handler: methods{"reply": reply}, Middleware: []func(rpcx.Handler) rpcx.Handler{named("outer"), named("inner")}}
		a, _ := newPipe(t, nil, opts)
		opts.Middleware[0] = nil // what was given is not looked at again
		if err := a.Call(t.Context(), "reply", nil, nil); err != nil {
			t.Fatal(err)
		}
		if want := "outer inner"; strings.Join(trail, " ") != want {
			t.Errorf("passed %q, want %q", trail, want)
		}
		if len(opts.Middleware) != 2 || opts.Protocol != nil || opts.Framer != nil {
			t.Errorf("the user's options were changed: %+v", opts)
		}
	})
}

func TestWithoutAHandlerThereIsNoMethod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newPipe(t, nil, nil)
		matches(t, a.Call(t.Context(), "m", nil, nil), rpcx.ErrMethodNotFound)
	})
}

func TestSessionTellsItsRoleAndAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(t, nil, &rpcx.Options{})
		if a.Role() != rpcx.RoleClient || b.Role() != rpcx.RoleServer {
			t.Errorf("the roles are %v and %v", a.Role(), b.Role())
		}
		c, d := newPipe(t, &rpcx.Options{Role: rpcx.RoleServer}, &rpcx.Options{Role: rpcx.RoleClient})
		if c.Role() != rpcx.RoleServer || d.Role() != rpcx.RoleClient {
			t.Errorf("the roles are %v and %v", c.Role(), d.Role())
		}
		if a.Protocol() != rpcx.JSONRPCv2 {
			t.Errorf("the protocol is %v", a.Protocol())
		}
		if addr := a.RemoteAddr(); addr == nil || addr.Network() != "pipe" {
			t.Errorf("the remote address is %v", addr)
		}
		near, far := net.Pipe()
		hiding := &struct{ anyConn }{near} // that it is a net.Conn
		s := rpcx.NewSession(hiding, nil)
		if s.RemoteAddr() != nil || s.LocalAddr() != nil || s.NetConn() != nil {
			t.Error("a stream without addresses has some")
		}
		if s.Conn() != hiding {
			t.Errorf("the connection is %v", s.Conn())
		}
		s.Close()
		far.Close()
		<-s.Done()

		over := layer{newChanConn(), near}
		s = rpcx.NewMessageSession(over, nil)
		if s.Conn() != over || s.NetConn() != near || s.RemoteAddr() != near.RemoteAddr() {
			t.Errorf("the connection is %v over %v", s.Conn(), s.NetConn())
		}
		s.Close()
		<-s.Done()
	})
}

// layer is a MessageConn that shows what is under it.
type layer struct {
	rpcx.MessageConn
	under net.Conn
}

func (l layer) NetConn() net.Conn { return l.under }

type anyConn interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	Close() error
}

func TestAutoDetectionSettlesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Protocol = rpcx.JSONRPCAutoDetect
		s, w := newWire(t, opts)
		f := s.Go(t.Context(), "early", nil)
		w.expect(`{"jsonrpc":"2.0","method":"early","id":0}`)
		w.say(`{"method":"reply","method":"reply","id":1}`, `rubbish`)
		if len(w.heard()) != 2 || s.Protocol() != rpcx.JSONRPCAutoDetect {
			t.Errorf("what is refused has settled it: %v", s.Protocol())
		}
		w.say(`{"result":"yes","error":null,"id":0}`)
		if !isDone(f) || f.Err() != nil || s.Protocol() != rpcx.JSONRPCv1 {
			t.Errorf("a reply in JSON-RPC 1.0 gave %v and %v", f.Err(), s.Protocol())
		}
		w.say(`{"jsonrpc":"2.0","method":"reply","params":[1],"id":1}`)
		w.expect(`{"result":1,"error":null,"id":1}`)
	})
}

func TestValuesOfASession(t *testing.T) {
	type key struct{ name string }
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(t, nil, &rpcx.Options{Handler: rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			derived, cancel := context.WithCancel(context.WithValue(ctx, key{"derived"}, "derived"))
			defer cancel()
			req.Session().SetValue(key{"set inside"}, "inside")
			return []any{
				derived.Value(key{"derived"}), derived.Value(key{"set before"}), derived.Value(key{"set inside"}),
				derived.Value(key{"removed"}), derived.Value(key{"never set"}), derived.Value("set before"),
				derived.Value([]string{"a key without a hash"}), ctx.Value(any(map[string]int{})),
			}, nil
		})})
		if got := b.Value(key{"set before"}); got != nil {
			t.Errorf("a new session has %v", got)
		}
		b.SetValue(key{"removed"}, nil) // there is none yet
		b.SetValue(key{"set before"}, "soon gone")
		b.SetValue(key{"set before"}, "before")
		b.SetValue(key{"removed"}, "still there")
		b.SetValue(key{"removed"}, nil)
		got, err := rpcx.Call[[]any](t.Context(), a, "m", nil)
		if want := []any{"derived", "before", "inside", nil, nil, nil, nil, nil}; err != nil || !slices.Equal(got, want) {
			t.Errorf("a handler has %v, %v, want %v", got, err, want)
		}
		if got := a.Value(key{"set before"}); got != nil {
			t.Errorf("the other end has %v", got)
		}
		b.OnClose(func(error) {
			if got := b.Value(key{"set inside"}); got != "inside" {
				t.Errorf("at the end there is %v", got)
			}
		})
		b.Close()
		<-b.Done()
	})
}

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

// idle returns options with an idle timeout of 10 s.
func idle(h rpcx.Handler) *rpcx.Options {
	return &rpcx.Options{Handler: h, Limits: rpcx.Limits{IdleTimeout: 10 * time.Second, ProcessingTimeout: time.Hour}}
}

// untilIdle says that the session ends, being idle, in exactly so long.
func untilIdle(t *testing.T, s *rpcx.Session, want time.Duration) {
	t.Helper()
	start := time.Now()
	select {
	case <-s.Done():
	case <-time.After(time.Hour):
		t.Fatal("it does not end")
	}
	if got := time.Since(start); got != want || s.Err() != rpcx.ErrIdle {
		t.Errorf("it ended after %v, want %v, with %v", got, want, s.Err())
	}
}

func TestIdleTimeout(t *testing.T) {
	sleeper := methods{"sleep": func(ctx context.Context, req *rpcx.Request) (any, error) {
		var d [1]int
		err := req.Bind(&d)
		time.Sleep(time.Duration(d[0]) * time.Second)
		return nil, err
	}, "reply": reply, "exit": func(context.Context, *rpcx.Request) (any, error) {
		time.Sleep(7 * time.Second)
		runtime.Goexit()
		return nil, nil
	}}
	for _, c := range []struct {
		name  string
		after time.Duration // from the start
		busy  func(t *testing.T, s *rpcx.Session, w *wire)
	}{
		{"of a session that does nothing", 10 * time.Second, func(*testing.T, *rpcx.Session, *wire) {}},
		{"starts anew when something is received", 13 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			time.Sleep(3 * time.Second)
			w.say(sayNote("reply", 1))
		}},
		{"and be it rubbish", 13 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			time.Sleep(3 * time.Second)
			w.say("rubbish")
		}},
		{"or when something is sent", 19 * time.Second, func(t *testing.T, s *rpcx.Session, _ *wire) {
			time.Sleep(9 * time.Second)
			s.Notify(t.Context(), "m", nil)
		}},
		{"or when a part of a message is received", 28 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			for range 2 {
				time.Sleep(9 * time.Second)
				w.Write([]byte(`"half of a mess`))
			}
		}},
		{"not while a handler runs", 27 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			time.Sleep(5 * time.Second)
			w.say(sayNote("sleep", 12))
		}},
		{"nor while one runs that ends its goroutine", 17 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			w.say(sayNote("exit", 0))
		}},
		{"nor while a call is pending", 45 * time.Second, func(t *testing.T, s *rpcx.Session, _ *wire) {
			time.Sleep(5 * time.Second)
			s.Go(t.Context(), "m", nil) // times out after 30 s
		}},
		{"which may be given up", 14 * time.Second, func(t *testing.T, s *rpcx.Session, _ *wire) {
			f := s.Go(t.Context(), "m", nil)
			time.Sleep(4 * time.Second)
			f.Cancel()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s, w := newWire(t, idle(sleeper))
				c.busy(t, s, w)
				untilIdle(t, s, c.after-time.Since(start))
			})
		})
	}
	t.Run("starts anew when a part of a message is sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newDeafWire(t, idle(sleeper))
			s.Notify(t.Context(), "m", rpcx.Args{strings.Repeat("x", 40_000)})
			for range 4 { // nearly all of it
				time.Sleep(9 * time.Second)
				io.CopyN(io.Discard, w, 10_000)
			}
			w.listen()
			untilIdle(t, s, 10*time.Second)
		})
	})
	t.Run("is for ever by default", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newWire(t, nil)
			time.Sleep(10000 * time.Hour)
			live(t, s)
		})
	})
}

// probing returns options with a keepalive notification.
func probing(every time.Duration) *rpcx.Options {
	return &rpcx.Options{Limits: rpcx.Limits{KeepAliveMethod: "alive", KeepAlive: every}}
}

func TestKeepAliveMethod(t *testing.T) {
	const probe = `{"jsonrpc":"2.0","method":"alive"}`
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, probing(0))
		for range 3 { // every minute
			time.Sleep(time.Minute - 1)
			w.expectNothing()
			time.Sleep(time.Nanosecond)
			w.expect(probe)
		}
		time.Sleep(30 * time.Second)
		w.say(sayNote("m", 1)) // any traffic counts
		time.Sleep(time.Minute - 1)
		w.expectNothing()
		time.Sleep(time.Nanosecond)
		w.expect(probe)

		s.Go(t.Context(), "m", nil) // and it goes on while a call is pending
		w.heard()
		time.Sleep(time.Minute)
		w.expect(probe)
	})
	t.Run("is no life for its own side", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := probing(3 * time.Second)
			opts.Limits.IdleTimeout = 10 * time.Second
			s, w := newWire(t, opts)
			untilIdle(t, s, 10*time.Second)
			w.expect(probe, probe, probe)
		})
	})
	t.Run("is life for the other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, s := newPipe(t, probing(3*time.Second), idle(methods{"alive": reply}))
			time.Sleep(time.Hour)
			live(t, s)
		})
	})
	t.Run("can be switched off", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, w := newWire(t, probing(-1))
			time.Sleep(time.Hour)
			w.expectNothing()
		})
	})
	t.Run("does not wait for a peer that does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := probing(time.Second)
			opts.Limits.SendTimeout = -1
			opts.Limits.Outbox = 100
			s, _ := newDeafWire(t, opts)
			time.Sleep(time.Hour)
			live(t, s)
			if n := s.Stats().OutboxBytes; n > 100 {
				t.Errorf("%d bytes of probes wait", n)
			}
		})
	})
}

// keeping is a connection that notes how it is kept alive.
type keeping struct {
	net.Conn
	config []net.KeepAliveConfig
}

func (k *keeping) SetKeepAliveConfig(c net.KeepAliveConfig) error {
	k.config = append(k.config, c)
	return nil
}

func TestKeepAliveByTCP(t *testing.T) {
	for _, c := range []struct {
		name string
		d    time.Duration
		want []net.KeepAliveConfig
	}{
		{"is left alone by default", 0, nil},
		{"is set", time.Minute, []net.KeepAliveConfig{{Enable: true, Idle: time.Minute, Interval: time.Minute, Count: 2}}},
		{"is switched off", -1, []net.KeepAliveConfig{{Idle: -1, Interval: -1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				conn := &keeping{Conn: near}
				s := rpcx.NewSession(conn, &rpcx.Options{Limits: rpcx.Limits{KeepAlive: c.d}})
				far.Close()
				<-s.Done()
				if len(conn.config) != len(c.want) || len(c.want) > 0 && conn.config[0] != c.want[0] {
					t.Errorf("it was set to %+v, want %+v", conn.config, c.want)
				}
			})
		})
	}
}

// Buffers that are read into are used again by other sessions. Nothing that a
// handler or a caller has kept changes by that.
func TestBuffersOfOthersAreLeftAlone(t *testing.T) {
	noLeak(t)
	var mu sync.Mutex
	kept := map[string]json.RawMessage{} // what handlers were given
	srv := &rpcx.Server{Options: rpcx.Options{
		Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			kept[req.Method] = req.Params.Positional
			return req.Params.Positional, nil
		}),
		Limits: rpcx.Limits{CostOff: true},
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	var callers sync.WaitGroup
	for caller := range 6 {
		callers.Go(func() {
			s, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			rnd := rand.New(rand.NewPCG(uint64(caller), 0))
			sent, results := map[string]string{}, map[string]json.RawMessage{}
			for i := range 20 {
				method := fmt.Sprint(caller, ".", i)
				text := strings.Repeat(method, 1+rnd.IntN(1<<rnd.IntN(17)))
				got, err := rpcx.Call[json.RawMessage](t.Context(), s, method, rpcx.Args{text})
				if err != nil {
					t.Errorf("%s with %d bytes: %v", method, len(text), err)
					return
				}
				sent[method], results[method] = `["`+text+`"]`, got
			}
			mu.Lock()
			defer mu.Unlock()
			for method, want := range sent {
				if string(kept[method]) != want || string(results[method]) != want {
					t.Errorf("the argument or the result of %s has changed", method)
				}
			}
		})
	}
	callers.Wait()
	srv.Close()
	<-served
}

// countingConn counts what is read.
type countingConn struct {
	*net.TCPConn
	read atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// A session that ends reads on for a while, so that its peer hears the last reply and
// is not reset, but not for as long as the peer likes.
func TestEndingSessionIgnoresABoundedInput(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func() (any, error)
		reply string
		more  int // bytes that the peer sends yet; without end if negative
	}{
		{"its cost, and the peer stops", func() (any, error) { return nil, rpcx.ErrExcessiveCost }, excessive + "0}", 200 << 10},
		{"its cost, and the peer does not stop", func() (any, error) { return nil, rpcx.ErrExcessiveCost }, excessive + "0}", -1},
		{"ReplyAndDisconnect, and the peer stops", func() (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }, answered(`"bye"`, 0), 200 << 10},
		{"ReplyAndDisconnect, and the peer does not stop", func() (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }, answered(`"bye"`, 0), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			conn := &countingConn{TCPConn: near.(*net.TCPConn)}
			trigger := make(chan struct{})
			s := rpcx.NewSession(conn, handling(methods{"hang": hang, "end": func(context.Context, *rpcx.Request) (any, error) {
				<-trigger
				return c.end()
			}}))
			io.WriteString(far, ask("end", 0)+"\n")
			line := sayNote("hang", 1) + "\n"
			heard := make(chan []string, 1)
			var broken error
			go func() {
				var lines []string
				in := bufio.NewReader(far)
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						broken = err
						break
					}
					lines = append(lines, strings.TrimSuffix(line, "\n"))
				}
				heard <- lines
			}()
			io.WriteString(far, strings.Repeat(line, 200))
			for s.Stats().Pauses == 0 {
				time.Sleep(time.Millisecond)
			}
			before := conn.read.Load()
			written := make(chan struct{})
			go func() {
				defer close(written)
				for n := 0; c.more < 0 || n < c.more; n += len(line) {
					if _, err := io.WriteString(far, line); err != nil {
						return
					}
				}
			}()
			if c.more >= 0 {
				<-written
			}
			close(trigger)
			start := time.Now()
			<-s.Done()
			took := time.Since(start)
			read := conn.read.Load() - before
			<-written
			lines := <-heard
			if len(lines) == 0 || lines[len(lines)-1] != c.reply {
				t.Errorf("the peer heard %q, then %v", lines, broken)
			}
			if c.more >= 0 && broken != io.EOF {
				t.Errorf("the peer's connection ended with %v", broken)
			}
			const buffer = 64 << 10
			if read > 256<<10+buffer {
				t.Errorf("%d bytes were read after the end", read)
			}
			if took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// The end may come in the middle of a long message, and of one that is dropped.
func TestEndingSessionIgnoresALongMessage(t *testing.T) {
	for name, framer := range map[string]rpcx.Framer{
		"that is read":    &rpcx.NewlineFramer{MaxSize: 64 << 20},
		"that is dropped": &rpcx.NewlineFramer{MaxSize: 4 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			conn := &countingConn{TCPConn: near.(*net.TCPConn)}
			begun, trigger := make(chan struct{}), make(chan struct{})
			opts := handling(methods{"end": func(context.Context, *rpcx.Request) (any, error) {
				close(begun)
				<-trigger
				return rpcx.ReplyAndDisconnect("bye"), nil
			}})
			opts.Framer = framer
			s := rpcx.NewSession(conn, opts)
			io.WriteString(far, ask("end", 0)+"\n")
			<-begun
			chunk := strings.Repeat("x", 64<<10)
			io.WriteString(far, chunk)
			for conn.read.Load() < int64(len(chunk)) {
				time.Sleep(time.Millisecond)
			}
			close(trigger)
			replies := bufio.NewReader(far)
			for line := ""; !strings.Contains(line, "bye"); {
				var err error
				if line, err = replies.ReadString('\n'); err != nil {
					t.Fatalf("the peer heard %q, %v", line, err)
				}
			}
			before := conn.read.Load()
			for n := 0; n < 32<<20; n += len(chunk) {
				if _, err := io.WriteString(far, chunk); err != nil {
					break
				}
			}
			<-s.Done()
			const buffers = 512 << 10 // the read that was under way, and the last: a long message's are long
			if read := conn.read.Load() - before; read > 256<<10+buffers {
				t.Errorf("%d bytes were read after the end", read)
			}
		})
	}
}

// Variables of the program notifier.
const (
	addrVariable = "RPCX_TEST_ADDR"
	sizeVariable = "RPCX_TEST_SIZE"
)

func init() {
	// The commonest program: it says what it has to say and ends.
	programs["notifier"] = func() {
		size := 0
		fmt.Sscan(os.Getenv(sizeVariable), &size)
		var s *rpcx.Session
		if addr := os.Getenv(addrVariable); addr == "stdio" {
			s = rpcx.NewSession(rpcx.Stdio(), nil)
		} else {
			var err error
			d := rpcx.Dialer{TLS: &tls.Config{InsecureSkipVerify: true}}
			if s, err = d.Dial(context.Background(), addr, nil); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		defer s.Close()
		for i := range 3 {
			s.Notify(context.Background(), "note", rpcx.Args{i, strings.Repeat("x", size)})
		}
	}
}

// A program that notifies and closes has sent all of it when it ends.
func TestCloseWritesWhatFits(t *testing.T) {
	serverTLS, _ := certificate(t)
	for name, listen := range map[string]func(t *testing.T) (net.Listener, string){
		"TCP": func(t *testing.T) (net.Listener, string) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return l, "tcp://" + l.Addr().String()
		},
		"unix": func(t *testing.T) (net.Listener, string) {
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			return l, "unix://" + path
		},
		"TLS": func(t *testing.T) (net.Listener, string) {
			l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
			if err != nil {
				t.Fatal(err)
			}
			return l, "tls://" + l.Addr().String()
		},
		"standard output": func(*testing.T) (net.Listener, string) { return nil, "stdio" },
	} {
		for _, size := range []int{0, 5000} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				l, addr := listen(t)
				if l != nil {
					defer l.Close()
				}
				for range childRuns() {
					cmd := program(t, "notifier")
					cmd.Env = append(cmd.Env, addrVariable+"="+addr, fmt.Sprint(sizeVariable, "=", size))
					heard := make(chan int, 1)
					count := func(lines *bufio.Scanner) {
						n := 0
						for lines.Scan() {
							n++
						}
						heard <- n
					}
					if l == nil {
						stdin, err := cmd.StdinPipe()
						if err != nil {
							t.Fatal(err)
						}
						defer stdin.Close()
						out, err := cmd.Output()
						if err != nil {
							t.Fatal(err)
						}
						heard <- strings.Count(string(out), "\n")
					} else {
						go func() {
							conn, err := l.Accept()
							if err != nil {
								heard <- 0
								return
							}
							defer conn.Close()
							count(bufio.NewScanner(conn))
						}()
						if out, err := cmd.CombinedOutput(); err != nil {
							t.Fatalf("%v: %s", err, out)
						}
					}
					if n := <-heard; n != 3 {
						t.Fatalf("%d of 3 notifications arrived", n)
					}
				}
			})
		}
	}
}

// Close does not wait for a peer that does not read, whatever is queued.
func TestCloseDoesNotWaitForThePeer(t *testing.T) {
	for name, pair := range map[string]func(t *testing.T) (near, far net.Conn){
		"TCP": func(t *testing.T) (near, far net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") },
		"TLS": func(t *testing.T) (net.Conn, net.Conn) {
			near, far := tlsPair(t)
			go far.Handshake()
			if err := near.Handshake(); err != nil {
				t.Fatal(err)
			}
			return near, far
		},
		"pipe": func(*testing.T) (near, far net.Conn) { return net.Pipe() },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t)
			defer far.Close()
			s := rpcx.NewSession(near, &rpcx.Options{Limits: rpcx.Limits{Outbox: 64 << 20}})
			for range 40 { // beyond what the buffers of the system hold
				if err := s.Notify(t.Context(), "note", rpcx.Args{strings.Repeat("x", 500_000)}); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			select {
			case <-s.Done(): // the writer has given up
				t.Error("Close has waited for the writer")
			default:
			}
			<-s.Done()
		})
	}
}
