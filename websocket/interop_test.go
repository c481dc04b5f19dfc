package websocket_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/websocket"
)

func TestInteropAiorpcxClient(t *testing.T) {
	needAiorpcx(t)
	url := serveRPC(t, &rpcx.Server{Options: rpcx.Options{Handler: interoptest.Router()}})
	interoptest.Checks(t, interoptest.Python, "aiorpcx_client.py", url, "websocket")
}

func TestInteropAiorpcxServer(t *testing.T) {
	needAiorpcx(t)
	url := startAiorpcx(t)
	router := rpcx.NewRouter()
	router.Handle("double", rpcx.Func(func(number int) int { return 2 * number }))
	router.Handle("refuse", rpcx.Func(func() error { return rpcx.Errorf(7, "no") }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, check := range map[string]func(t *testing.T, s *rpcx.Session){
		"call": func(t *testing.T, s *rpcx.Session) {
			for _, text := range []string{"Howdy", "naïve ☃ 𝄞 \u2028", strings.Repeat("é0123456789", 50_000)} {
				if got, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{text}); got != text || err != nil {
					t.Errorf("%.20q: %.20q, %v", text, got, err)
				}
			}
			named := map[string]int{"minuend": 42, "subtrahend": 23}
			if got, err := rpcx.Call[int](ctx, s, "subtract", named); got != 19 || err != nil {
				t.Errorf("by name: %d, %v", got, err)
			}
		},
		"errors": func(t *testing.T, s *rpcx.Session) {
			for method, want := range map[string]error{
				"nothing": rpcx.ErrMethodNotFound,
				"echo":    rpcx.ErrInvalidParams,
				"refuse":  &rpcx.Error{Code: 42},
				"fail":    rpcx.ErrInternalError,
			} {
				if err := s.Call(ctx, method, nil, nil); !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", method, err, want)
				}
			}
		},
		"notification and batch": func(t *testing.T, s *rpcx.Session) {
			var b rpcx.Batch
			var sum float64
			b.Notify("note", rpcx.Args{"batched"})
			b.Call("sum", rpcx.Args{1, 2, 39}, &sum)
			b.Call("nothing", nil, nil)
			if err := s.SendBatch(ctx, &b); !errors.Is(err, rpcx.ErrMethodNotFound) || sum != 42 {
				t.Errorf("%v, %v", sum, err)
			}
			if err := s.Notify(ctx, "note", rpcx.Args{"alone"}); err != nil {
				t.Error(err)
			}
			for _, token := range []string{"batched", "alone"} {
				if err := s.Call(ctx, "await_note", rpcx.Args{token}, nil); err != nil {
					t.Error(err)
				}
			}
		},
		"many at once": func(t *testing.T, s *rpcx.Session) {
			var calls []*rpcx.Future
			for i := range 1000 {
				calls = append(calls, s.Go(ctx, "echo", rpcx.Args{i}))
			}
			for i, call := range calls {
				var got int
				if err := call.Wait(ctx, &got); got != i || err != nil {
					t.Fatalf("call %d: %d, %v", i, got, err)
				}
			}
		},
		"called back": func(t *testing.T, s *rpcx.Session) {
			if got, err := rpcx.Call[int](ctx, s, "call_back", rpcx.Args{"double", 21}); got != 42 || err != nil {
				t.Errorf("%d, %v", got, err)
			}
			if err := s.Call(ctx, "call_back", rpcx.Args{"refuse"}, nil); !errors.Is(err, &rpcx.Error{Code: 7}) {
				t.Errorf("our error comes back as %v", err)
			}
		},
		"it disconnects": func(t *testing.T, s *rpcx.Session) {
			f := s.Go(ctx, "hang", nil)
			if got, err := rpcx.Call[string](ctx, s, "bye", nil); got != "bye" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			if err := ended(t, s); err != io.EOF {
				t.Errorf("the session ended with %v", err)
			}
			if err := f.Err(); !errors.Is(err, rpcx.ErrConnectionLost) {
				t.Errorf("the call failed with %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, dial(t, websocket.Dialer{}, url, &rpcx.Options{Handler: router}))
		})
	}
}

// What clients that others have written are told, and whether they find it in order.
const closeCodes = `hangup: 1000 "" true
shutdown: 1001 "server shutting down" true
costly: 1008 "excessive resource usage" true
large: 1009 "message too large (over 1000000 bytes)" true
leave: 4001 "naïve ☃" true
`

// closing serves WebSockets by the name of the way in which they are to be closed,
// each by a server of its own.
func closing(t *testing.T) http.Handler {
	router := interoptest.Router()
	router.Handle("costly", rpcx.Func(func() error { return rpcx.ErrExcessiveCost }))
	router.Handle("leave", rpcx.Func(func(s *rpcx.Session) error {
		if err := websocket.SetCloseCode(s, 4001, "naïve ☃"); err != nil {
			t.Error(err)
		}
		return rpcx.ReplyAndDisconnect("bye")
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv := &rpcx.Server{}
		srv.Options.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			if req.Method != "shutdown" {
				return router.ServeRPC(ctx, req)
			}
			// Owner: the test. End: the session does.
			go srv.Shutdown(context.Background())
			return nil, nil
		})
		t.Cleanup(func() { srv.Wait(context.Background()) })
		t.Cleanup(func() { srv.Close() })
		websocket.Handler(srv).ServeHTTP(w, r)
	})
}

func TestInteropCloseCodesPython(t *testing.T) {
	needAiorpcx(t)
	url := serve(t, closing(t))
	out, err := interoptest.Command(t, interoptest.Python, "websockets_codes.py", url).Output()
	want := closeCodes + "invalid: 1007 \"text message is no UTF-8\" true\n"
	if string(out) != want || err != nil {
		t.Errorf("it was told\n%swant\n%s%v", out, want, err)
	}
}

func TestInteropCloseCodesNode(t *testing.T) {
	// Node 20 wants the flag, and later ones take it.
	const flag = "--experimental-websocket"
	interoptest.Need(t, "apt-get install nodejs", "node", flag, "-e", "WebSocket")
	url := serve(t, closing(t))
	cmd := interoptest.Command(t, "node", flag, "--no-warnings", filepath.Join("..", "..", "websocket", "testdata", "codes.js"), url)
	if out, err := cmd.Output(); string(out) != closeCodes || err != nil {
		t.Errorf("it was told\n%swant\n%s%v", out, closeCodes, err)
	}
}

// meeting returns the methods that the peers' checks call, and "meet", which returns
// when as many as party have called it.
func meeting(party int) *rpcx.Router {
	router := interoptest.Router()
	arrived, present := make(chan string, party), make(chan []string, 1)
	present <- nil
	all := make(chan struct{})
	router.Handle("meet", rpcx.Func(func(ctx context.Context, name string) ([]string, error) {
		arrived <- name
		names := append(<-present, <-arrived)
		if present <- names; len(names) == party {
			close(all)
		}
		select {
		case <-all:
			names = <-present
			present <- names
			return names, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}))
	return router
}

// startAiorpcx starts the original as a server, which is stopped when the test
// ends, and returns its URL.
func startAiorpcx(t *testing.T) (url string) {
	t.Helper()
	cmd := interoptest.Command(t, interoptest.Python, "aiorpcx_server.py", "ws://127.0.0.1", "v2")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // which it takes for the end
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server does not say where it listens: %v", err)
	}
	return strings.TrimSpace(line)
}

func needAiorpcx(t *testing.T) {
	t.Helper()
	interoptest.Need(t, "apt-get install python3-aiorpcx python3-websockets", interoptest.Python, "-c", "import aiorpcx, websockets")
}
