package peers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

// vscode-jsonrpc, which frames messages by headers, is the peer over a socket and
// over standard input and output, and server and client in both.
func TestInteropVSCode(t *testing.T) {
	noLeak(t)
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('vscode-jsonrpc/node')")
	opts := rpcx.Options{Handler: interoptest.Router(), Framer: rpcx.HeaderFramer{}, Cancellation: rpcx.LSPCancellation}
	t.Run("socket", func(t *testing.T) {
		sessions := make(chan *rpcx.Session, 1)
		srv := &rpcx.Server{Options: opts, OnSession: func(s *rpcx.Session) { sessions <- s }}
		addr := interopServe(t, srv, "tcp", nil)
		cmd := interoptest.Command(t, "node", "vscode_peer.js", strings.TrimPrefix(addr, "tcp://127.0.0.1:"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ctx := interopContext(t)
		select {
		case s := <-sessions:
			vscodeChecks(t, ctx, s)
			s.Close()
			<-s.Done()
		case <-ctx.Done():
			t.Error("it does not connect")
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("stdio", func(t *testing.T) {
		cmd := interoptest.Command(t, "node", "vscode_peer.js", "stdio")
		s, err := rpcx.Command(t.Context(), cmd, &opts)
		if err != nil {
			t.Fatal(err)
		}
		vscodeChecks(t, interopContext(t), s)
		s.Close()
		<-s.Done()
		if !cmd.ProcessState.Success() {
			t.Errorf("the program: %v", cmd.ProcessState)
		}
	})
}

func vscodeChecks(t *testing.T, ctx context.Context, s *rpcx.Session) {
	t.Run("as a server", func(t *testing.T) {
		for _, text := range []string{"Howdy", "naïve ☃ 𝄞 \u2028", strings.Repeat("é0123456789", 50_000)} {
			if got, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{text}); got != text || err != nil {
				t.Errorf("%.20q: %.20q, %v", text, got, err)
			}
		}
		named := map[string]int{"minuend": 42, "subtrahend": 23}
		if got, err := rpcx.Call[int](ctx, s, "subtract", named); got != 19 || err != nil {
			t.Errorf("by name: %d, %v", got, err)
		}
		wantPeerError(t, s.Call(ctx, "refuse", nil, nil), &rpcx.Error{Code: 42}, "refused: naïve")
		if err := s.Call(ctx, "nothing", nil, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
			t.Errorf("nothing: %v", err)
		}
		for _, token := range []string{"one", "two"} {
			if err := s.Notify(ctx, "note", rpcx.Args{token}); err != nil {
				t.Error(err)
			}
		}
		if got, err := rpcx.Call[[]string](ctx, s, "notes", nil); !slices.Equal(got, []string{"one", "two"}) || err != nil {
			t.Errorf("it was notified of %q, %v", got, err)
		}
		if got, err := rpcx.Call[int](ctx, s, "call_back", rpcx.Args{"sum", 1, 2, 39}); got != 42 || err != nil {
			t.Errorf("called back: %d, %v", got, err)
		}
		checkPipelined(t, ctx, s)

		f := s.Go(ctx, "hang", nil) // until $/cancelRequest
		if err := s.Call(ctx, "echo", rpcx.Args{"it hangs"}, nil); err != nil {
			t.Error(err) // what is cancelled before it has begun never begins
		}
		f.Cancel()
		if got, err := rpcx.Call[string](ctx, s, "await_cancelled", nil); got != "cancelled" || err != nil {
			t.Errorf("a call that was cancelled: %q, %v", got, err)
		}
	})
	type result struct{ Check, Detail string }
	results, err := rpcx.Call[[]result](ctx, s, "run", nil)
	if err != nil || len(results) == 0 {
		t.Errorf("%d checks were run: %v", len(results), err)
	}
	for _, r := range results {
		t.Run("as a client, "+r.Check, func(t *testing.T) {
			if r.Detail != "" {
				t.Error(r.Detail)
			}
		})
	}
}
