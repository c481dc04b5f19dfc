package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

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
