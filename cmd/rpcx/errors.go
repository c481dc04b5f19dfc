package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"example.com/rpcx"
)

// The exit codes. A shell has 130 for a program that Ctrl-C has ended.
const (
	exitOK          = 0
	exitPeer        = 1 // the peer has answered with an error
	exitUsage       = 2
	exitConnection  = 3
	exitTimeout     = 4
	exitInterrupted = 130
)

// exitError is an error with an exit code of its own. Other errors have the code that
// exitCodeOf finds.
type exitError struct {
	code int
	err  error
	// silent is set if the command has printed the error already.
	silent bool
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usagef returns an error about the command line.
func usagef(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// connectionError returns err as a failure of the connection.
func connectionError(err error) error { return &exitError{code: exitConnection, err: err} }

// exitCodeOf returns the exit code for err. ctx is the context of the program, which an
// interrupt ends.
func exitCodeOf(ctx context.Context, err error) int {
	if err == nil || isClosedOutput(err) {
		return exitOK
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	if e, ok := errors.AsType[*rpcx.Error](err); ok && e != nil {
		return exitPeer
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitTimeout
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	return exitConnection
}

// isClosedOutput reports whether a write failed because nobody reads the output any more.
func isClosedOutput(err error) bool {
	_, ok := errors.AsType[*outputError](err)
	return ok && (errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe))
}

// outputError is the error of a write to stdout. A connection can have the same cause.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write the output: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// printError prints err on stderr: an error of the peer as JSON, any other as text.
func printError(e *env, c *command, err error) {
	if x, ok := errors.AsType[*exitError](err); ok && x.silent {
		return
	}
	if peer, ok := errors.AsType[*rpcx.Error](err); ok {
		fmt.Fprintln(e.stderr, escapeFor(e.stderrTTY, string(peerErrorJSON(peer))))
		return
	}
	name := "rpcx"
	if c != nil {
		name += " " + c.name
	}
	fmt.Fprintf(e.stderr, "%s: %s\n", name, escapeFor(e.stderrTTY, err.Error()))
	if x, ok := errors.AsType[*exitError](err); ok && x.code == exitUsage && !strings.Contains(err.Error(), "\n") {
		fmt.Fprintf(e.stderr, "Run \"%s --help\" for the usage.\n", name)
	}
}

// peerErrorJSON returns an error of the peer as the JSON object of JSON-RPC 2.0.
func peerErrorJSON(e *rpcx.Error) json.RawMessage {
	object := struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Data    any    `json:"data,omitempty"`
	}{e.Code, e.Message, e.Data}
	text, err := marshal(object)
	if err != nil {
		object.Data = nil
		text, _ = marshal(object)
	}
	return text
}

// marshal encodes v as JSON, without the escapes that only HTML needs.
func marshal(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
