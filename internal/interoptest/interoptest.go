// Package interoptest supports tests with foreign programs as peers: aiorpcX, the
// counterpart of this library in Python, and others. The programs that speak to the
// foreign peers are in testdata/interop.
package interoptest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
)

// Python is the interpreter of Debian's Python packages. PATH may contain a different
// Python first.
const Python = "/usr/bin/python3"

// Router returns the methods that the peers' checks call.
func Router() *rpcx.Router {
	router := rpcx.NewRouter()
	handle := func(method string, fn any, names ...string) { router.Handle(method, rpcx.Func(fn, names...)) }

	handle("echo", func(message json.RawMessage) json.RawMessage { return message }, "message")
	handle("sum", func(values ...float64) float64 {
		sum := 0.0
		for _, value := range values {
			sum += value
		}
		return sum
	})
	handle("subtract", func(minuend, subtrahend float64) float64 { return minuend - subtrahend }, "minuend", "subtrahend?")
	handle("text", func(length int) string { return strings.Repeat("x", length) })

	handle("refuse", func() error {
		err := rpcx.Errorf(42, "refused: naïve")
		err.Data = map[string][]string{"why": {"tired"}}
		return err
	})
	handle("fail", func() error { return errors.New("nobody else is to know") })
	handle("panic", func() { panic("nobody else is to know") })

	// A caller may await a note from another session.
	var notes sync.Map
	note := func(token string) chan struct{} {
		c, _ := notes.LoadOrStore(token, make(chan struct{}, 1))
		return c.(chan struct{})
	}
	handle("note", func(token string) { note(token) <- struct{}{} })
	handle("await_note", func(ctx context.Context, token string) (string, error) {
		select {
		case <-note(token):
			return token, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	})

	handle("call_back", func(ctx context.Context, s *rpcx.Session, method string, args ...any) (any, error) {
		return rpcx.Call[any](ctx, s, method, rpcx.Args(args))
	})
	handle("errors", func(s *rpcx.Session) uint64 { return s.Stats().Errors })
	handle("protocol", func(s *rpcx.Session) string {
		switch s.Protocol() {
		case rpcx.JSONRPCv1:
			return "1.0"
		case rpcx.JSONRPCv2:
			return "2.0"
		}
		return "neither"
	})

	handle("hang", func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	handle("hangup", func(s *rpcx.Session) { s.Close() })
	handle("bye", func() error { return rpcx.ReplyAndDisconnect("bye") })
	return router
}

// Checks runs a client that prints a line of JSON for each check, and makes a subtest of
// each line.
func Checks(t *testing.T, command string, args ...string) {
	t.Helper()
	cmd := Command(t, command, args...)
	stdout, err := cmd.Output()
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

// Command returns the command that runs a peer. If the test fails, the peer's stderr is
// logged. After five minutes, the peer is killed.
func Command(t *testing.T, command string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = programsFolder(t)
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stderr of %s:\n%s", strings.Join(args, " "), stderr)
		}
	})
	return cmd
}

// Need runs a command that only looks for a peer. If the command fails, Need reports the
// peer as missing.
func Need(t *testing.T, install, command string, args ...string) {
	t.Helper()
	skipIfUnwanted(t, install)
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Dir = programsFolder(t)
	if err := cmd.Run(); err != nil {
		Missing(t, err, install)
	}
}

// Program returns the path of a program in PATH or in folders. If the program is not
// installed, Program reports the peer as missing.
func Program(t *testing.T, install, program string, folders ...string) string {
	t.Helper()
	skipIfUnwanted(t, install)
	path, err := exec.LookPath(program)
	for _, folder := range folders {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(folder, program))
		}
	}
	if err != nil {
		Missing(t, err, install)
	}
	return path
}

// skipIfUnwanted reports the peer as missing if RPCX_INTEROP=skip is set.
func skipIfUnwanted(t *testing.T, install string) {
	t.Helper()
	if os.Getenv("RPCX_INTEROP") == "skip" {
		Missing(t, errors.New("RPCX_INTEROP=skip"), install)
	}
}

// Missing skips the test. If RPCX_INTEROP=require is set, Missing fails the test.
func Missing(t *testing.T, err error, install string) {
	t.Helper()
	if os.Getenv("RPCX_INTEROP") == "require" {
		t.Fatalf("a peer is missing (%v): %s", err, install)
	}
	t.Skipf("a peer is missing (%v): %s", err, install)
}

// programsFolder returns the path of the folder testdata/interop of the module, or of the
// next module around it that has such a folder.
func programsFolder(t *testing.T) string {
	t.Helper()
	for up, depth := ".", 0; depth < 8; up, depth = filepath.Join("..", up), depth+1 {
		path := filepath.Join(up, "testdata", "interop")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("there is no testdata/interop")
	return ""
}
