package websocket_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// Debian's packages are for this Python, which need not be the first in PATH.
const python = "/usr/bin/python3"

func TestInteropAiorpcxClient(t *testing.T) {
	needAiorpcx(t)
	url := serveRPC(t, &rpcx.Server{Options: rpcx.Options{Handler: interopMethods(1)}})
	interopChecks(t, python, "aiorpcx_client.py", url, "websocket")
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

// interopMethods are those that the peers' checks call. "meet" returns when as
// many as party have called it.
func interopMethods(party int) *rpcx.Router {
	router := rpcx.NewRouter()
	handle := func(method string, fn any, names ...string) { router.Handle(method, rpcx.Func(fn, names...)) }
	handle("echo", func(message json.RawMessage) json.RawMessage { return message }, "message")
	handle("sum", func(values ...float64) (sum float64) {
		for _, value := range values {
			sum += value
		}
		return sum
	})
	handle("subtract", func(minuend, subtrahend float64) float64 { return minuend - subtrahend }, "minuend", "subtrahend?")
	handle("refuse", func() error { return rpcx.Errorf(42, "refused: naïve") })
	handle("fail", func() error { return errors.New("nobody else is to know") })
	handle("panic", func() { panic("nobody else is to know") })
	notes := make(chan string, 10)
	handle("note", func(token string) { notes <- token })
	handle("await_note", func(ctx context.Context, token string) (string, error) {
		select {
		case got := <-notes:
			return got, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	})
	handle("call_back", func(ctx context.Context, s *rpcx.Session, method string, args ...any) (any, error) {
		return rpcx.Call[any](ctx, s, method, rpcx.Args(args))
	})
	handle("errors", func(s *rpcx.Session) uint64 { return s.Stats().Errors })
	handle("hang", func(ctx context.Context) { <-ctx.Done() })
	handle("hangup", func(s *rpcx.Session) { s.Close() })
	handle("bye", func() error { return rpcx.ReplyAndDisconnect("bye") })

	arrived, present := make(chan string, party), make(chan []string, 1)
	present <- nil
	all := make(chan struct{})
	handle("meet", func(ctx context.Context, name string) ([]string, error) {
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
	})
	return router
}

// startAiorpcx starts the original as a server, which is stopped when the test
// ends, and returns its URL.
func startAiorpcx(t *testing.T) (url string) {
	t.Helper()
	cmd := interopCommand(t, python, "aiorpcx_server.py", "ws://127.0.0.1", "v2")
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

// interopChecks runs a client, which prints a line of JSON for each of its
// checks, and makes a subtest of each line.
func interopChecks(t *testing.T, command string, args ...string) {
	t.Helper()
	stdout, err := interopCommand(t, command, args...).Output()
	if err != nil {
		t.Errorf("%s: %v", args[0], err)
	}
	checks := 0
	for dec := json.NewDecoder(bytes.NewReader(stdout)); dec.More(); checks++ {
		var result struct {
			Check  string
			OK     bool
			Detail string
		}
		if err := dec.Decode(&result); err != nil {
			t.Fatalf("%s printed what is no result: %v\n%s", args[0], err, stdout)
		}
		t.Run(result.Check, func(t *testing.T) {
			if !result.OK {
				t.Error(result.Detail)
			}
		})
	}
	if checks == 0 {
		t.Error("no check was run")
	}
}

// interopCommand returns the command that runs a peer, whose stderr is logged if
// the test fails. It is killed should it outlive all patience.
func interopCommand(t *testing.T, command string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = filepath.Join("..", "testdata", "interop")
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stderr of %s:\n%s", command, stderr)
		}
	})
	return cmd
}

func needAiorpcx(t *testing.T) {
	t.Helper()
	needPeer(t, "apt-get install python3-aiorpcx python3-websockets", python, "-c", "import aiorpcx, websockets")
}

// needPeer skips the test if the command, which only looks for a peer, fails.
func needPeer(t *testing.T, install, command string, args ...string) {
	t.Helper()
	if err := exec.CommandContext(t.Context(), command, args...).Run(); err == nil {
		return
	} else if os.Getenv("RPCX_INTEROP") == "require" {
		t.Fatalf("a peer is missing (%v): %s", err, install)
	} else {
		t.Skipf("a peer is missing (%v): %s", err, install)
	}
}
