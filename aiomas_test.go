package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

// onBothWires runs a test over JSON-RPC 2.0 and over aiomas's own protocol.
func onBothWires(t *testing.T, test func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options)) {
	t.Run("JSON-RPC", func(t *testing.T) { test(t, withObjects) })
	t.Run("aiomas", func(t *testing.T) { test(t, aiomasOptions) })
}

// The tests from here on do what the examples in aiomas's documentation do.

// maths is its first server.
type maths interface {
	Add(a, b float64) float64
}

type mathServer struct{}

func (mathServer) Add(a, b float64) float64 { return a + b }

func TestAiomasMathServer(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		client, _ := newPipe(t, opts(nil), opts(rpcx.Expose[maths](mathServer{})))
		var sum float64
		if err := client.Remote().Call(t.Context(), &sum, "add", 3, 4); err != nil || sum != 7 {
			t.Errorf("got %v, %v", sum, err)
		}
	})
}

func TestAiomasDictServices(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		server := rpcx.ExposeMap(map[string]any{
			"get":  func() string { return "spam" },
			"deep": map[string]any{"add": func(a, b int) int { return a + b }},
		})
		client, _ := newPipe(t, opts(nil), opts(server))
		var text string
		var sum int
		err := errors.Join(client.Remote().Call(t.Context(), &text, "get"),
			client.Remote().At("deep").Call(t.Context(), &sum, "add", 3, 4))
		if err != nil || text != "spam" || sum != 7 {
			t.Errorf("got %q and %d, %v", text, sum, err)
		}
	})
}

// A tree can be built from its root, from its leaves, or by each service for itself.
func TestAiomasHierarchies(t *testing.T) {
	leaf := func() *rpcx.Router { return rpcx.ExposeMap(map[string]any{"get": func() string { return "spam" }}) }
	fromTheRoot := func(t *testing.T) *rpcx.Router {
		root := rpcx.NewRouter()
		sub := rpcx.NewRouter()
		mount(t, root, "sub", sub)
		mount(t, sub, "leaf", leaf())
		return root
	}
	fromTheLeaves := func(t *testing.T) *rpcx.Router {
		below := leaf()
		sub := rpcx.NewRouter()
		mount(t, sub, "leaf", below)
		root := rpcx.NewRouter()
		mount(t, root, "sub", sub)
		return root
	}
	byThemselves := func(*testing.T) *rpcx.Router {
		return rpcx.ExposeMap(map[string]any{"sub": map[string]any{"leaf": leaf()}})
	}
	for name, build := range map[string]func(*testing.T) *rpcx.Router{
		"from the root": fromTheRoot, "from the leaves": fromTheLeaves, "by themselves": byThemselves,
	} {
		t.Run(name, func(t *testing.T) {
			onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
				client, _ := newPipe(t, opts(nil), opts(build(t)))
				var text string
				if err := client.Remote().At("sub", "leaf").Call(t.Context(), &text, "get"); err != nil || text != "spam" {
					t.Errorf("got %q, %v", text, err)
				}
			})
		})
	}
}

// registering is a server that keeps its clients, and calls them.
type registering interface {
	Register(ctx context.Context, client *rpcx.Proxy, name string) (string, error)
}

type registrar struct{}

func (registrar) Register(ctx context.Context, client *rpcx.Proxy, name string) (string, error) {
	var reply string
	err := client.Call(ctx, &reply, "get_name")
	return fmt.Sprintf("%s is %s at %q", name, reply, client.Path()), err
}

func TestAiomasCallbacks(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		below := rpcx.ExposeMap(map[string]any{"get_name": func() string { return "Graham" }})
		mine := rpcx.ExposeMap(map[string]any{"get_name": func() string { return "Monty" }, "sub": below})
		client, _ := newPipe(t, opts(mine), opts(rpcx.Expose[registering](registrar{})))
		for want, service := range map[string]any{`root is Monty at ""`: mine, `sub is Graham at "sub"`: below} {
			var got string
			name, _, _ := strings.Cut(want, " ")
			if err := client.Remote().Call(t.Context(), &got, "register", service, name); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		}
	})
}

func TestAiomasRemoteExceptions(t *testing.T) {
	server := rpcx.ExposeMap(map[string]any{
		"plain":   func() error { return errors.New("spam is not a number") },
		"wrapped": func() error { return fmt.Errorf("reading: %w", io.ErrUnexpectedEOF) },
		"error":   func() error { return &rpcx.Error{Code: 5, Message: "over\ntwo lines"} },
		"panic":   func() { panic("the password is 1234") },
	})
	client, _ := newPipe(t, aiomasOptions(nil), aiomasOptions(server))
	for method, want := range map[string]string{
		"plain":   "spam is not a number",
		"wrapped": "reading: unexpected EOF",
		"error":   "over\ntwo lines",
		"panic":   "internal server error",
		"nothing": `LookupError: Name "nothing" not found in ""`,
	} {
		err := client.Remote().Call(t.Context(), nil, method)
		matches(t, err, rpcx.ErrUnavailable)
		var e *rpcx.Error
		if !errors.As(err, &e) || e.Message != want || e.Data != "Traceback (most recent call last):\n"+want+"\n" {
			t.Errorf("%s: got %#v, want %q", method, err, want)
		}
	}
}

func TestAiomasLostConnections(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		connected, reset := make(chan *rpcx.Session, 1), make(chan error, 1)
		started := make(chan struct{})
		srv := &rpcx.Server{
			Options: *opts(rpcx.ExposeMap(map[string]any{
				"hang": func(ctx context.Context) { close(started); <-ctx.Done() },
			})),
			OnSession: func(s *rpcx.Session) {
				s.OnClose(func(err error) { reset <- err })
				connected <- s
			},
		}
		go srv.Serve(l) // until Close
		defer srv.Wait(context.Background())
		defer srv.Close()
		client, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), opts(nil))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		pending := client.Remote().Go(t.Context(), "hang")
		<-started
		(<-connected).Close()
		if err := <-reset; !errors.Is(err, rpcx.ErrClosed) {
			t.Errorf("the server's callback is given %v", err)
		}
		<-client.Done()
		matches(t, pending.Wait(t.Context(), nil), rpcx.ErrConnectionLost, io.EOF)
		matches(t, client.Remote().Call(t.Context(), nil, "hang"), rpcx.ErrClosed)
	})
}

// And from here on they are about the protocol itself.

func TestAiomasMessages(t *testing.T) {
	p := rpcx.Aiomas
	for want, build := range map[string]func() ([]byte, error){
		`[0,7,["a/b",[],{}]]`:    func() ([]byte, error) { return p.AppendRequest(nil, rpcx.ID("7"), "a/b", nil, nil) },
		`[0,7,["m",[1,"x"],{}]]`: func() ([]byte, error) { return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Args{1, "x"}, nil) },
		`[0,7,["m",[],{"a":1}]]`: func() ([]byte, error) { return p.AppendRequest(nil, rpcx.ID("7"), "m", map[string]int{"a": 1}, nil) },
		`[0,7,["m",[1],{"a":2}]]`: func() ([]byte, error) {
			return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Mixed{Args: rpcx.Args{1}, Named: rpcx.Named{"a": 2}}, nil)
		},
		`[0,7,["m",[],{"b":2}]]`: func() ([]byte, error) {
			return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Mixed{Named: rpcx.Named{"b": 2}}, nil)
		},
		`[0,7,["m",[5],{}]]`: func() ([]byte, error) {
			return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Params{Positional: []byte("[5]")}, nil)
		},
		`[1,"x",null]`: func() ([]byte, error) { return p.AppendResult(nil, rpcx.ID(`"x"`), nil, nil) },
		`[2,null,"Traceback (most recent call last):\nTypeError: no\n"]`: func() ([]byte, error) { return p.AppendError(nil, nil, rpcx.InvalidParams("no"), nil) },
	} {
		if got, err := build(); string(got) != want || err != nil {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
	for what, build := range map[string]func() ([]byte, error){
		"a request without an ID": func() ([]byte, error) { return p.AppendRequest([]byte("x"), nil, "m", nil, nil) },
		"params that are no list": func() ([]byte, error) { return p.AppendRequest([]byte("x"), rpcx.ID("1"), "m", 5, nil) },
		"two lists": func() ([]byte, error) {
			return p.AppendRequest([]byte("x"), rpcx.ID("1"), "m", rpcx.Mixed{Named: rpcx.Args{1}}, nil)
		},
		"what cannot be encoded":  func() ([]byte, error) { return p.AppendRequest([]byte("x"), rpcx.ID("1"), "m", rpcx.Args{hang}, nil) },
		"a result that cannot be": func() ([]byte, error) { return p.AppendResult([]byte("x"), rpcx.ID("1"), hang, nil) },
		"a notification":          func() ([]byte, error) { return p.AppendNotification([]byte("x"), "m", nil, nil) },
		"a batch":                 func() ([]byte, error) { return p.AppendBatch([]byte("x"), [][]byte{[]byte("[]")}) },
	} {
		var bad *rpcx.ProtocolError
		if got, err := build(); string(got) != "x" || !errors.As(err, &bad) {
			t.Errorf("%s: got %s, %v", what, got, err)
		}
	}
}

// A message that is not of the form ends the session: there is no telling what is
// meant, and nobody to answer. What is pending is told why.
func TestAiomasFatalMessages(t *testing.T) {
	for _, body := range []string{``, `5`, `{}`, `[0,1]`, `[0,1,["m",[],{}],4]`, `[3,0,1]`, `["0",0,1]`, `[-1,0,1]`, `[1,0,1] x`, "[1,0,\"\xff\"]", `[1,0,`} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := rpcx.NewSession(near, aiomasOptions(nil))
			go io.Copy(io.Discard, far) // until it is closed
			f := s.Go(t.Context(), "m", nil)
			synctest.Wait()
			frame, err := rpcx.LengthFramer{}.AppendFrame(nil, []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			far.Write(frame)
			var bad *rpcx.ProtocolError
			if err := ended(t, s); !errors.As(err, &bad) {
				t.Errorf("%s: the session ended with %v", body, err)
			}
			matches(t, f.Err(), rpcx.ErrConnectionLost)
			if s.Stats().Errors != 1 {
				t.Errorf("%s: counted %d errors", body, s.Stats().Errors)
			}
		})
	}
}

func TestTracebackError(t *testing.T) {
	const start = "Traceback (most recent call last):\n"
	for traceback, want := range map[string]string{
		start + "  File \"s.py\", line 1, in a\n    f()\nValueError: spam\n": "ValueError: spam",
		start + "  File \"s.py\"\nValueError: one\ntwo\n":                    "ValueError: one\ntwo",
		start + "plain\n": "plain",
		"no traceback":    "no traceback",
		"":                "",
		start + "  x\n":   "  x",
	} {
		e := rpcx.TracebackError(traceback)
		if diff := cmp.Diff(&rpcx.Error{Code: rpcx.CodeUnavailable, Message: want, Data: traceback}, e); diff != "" {
			t.Error(diff)
		}
	}
	e := rpcx.Errorf(5, "no")
	if got := rpcx.TracebackError(rpcx.Traceback(e)); got.Message != "no" {
		t.Errorf("there and back it is %q", got.Message)
	}
}

// Whole numbers are not rounded where any value is expected.
func TestAiomasWholeNumbers(t *testing.T) {
	echo := rpcx.ExposeMap(map[string]any{"echo": func(v any) any { return v }})
	client, _ := newPipe(t, aiomasOptions(nil), aiomasOptions(echo))
	for _, v := range []any{int64(1<<62 + 1), int64(-5), 1.5, []any{int64(1)}, map[string]any{"x": int64(2)}, nil, "1", true} {
		var got any
		if err := client.Remote().Call(t.Context(), &got, "echo", v); err != nil || !cmp.Equal(got, v) {
			t.Errorf("got %#v, %v; want %#v", got, err, v)
		}
	}
}
