package peers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
)

// node's own fetch has its messages answered, streams its bodies, and reads events. A
// handler ends when the program aborts the request.
func TestInteropFetch(t *testing.T) {
	noLeak(t)
	interoptest.Need(t, "apt-get install nodejs", "node", "-e", "fetch.name")
	w := serveHTTP(t, rpcx.Options{}, func(h *rpchttp.Handler) { h.SSE, h.Compress = true, 1000 })
	interoptest.Checks(t, "node", "fetch_client.js", w.url+"/rpc")
}

// jayson's client gets the same answers over HTTP as over TCP, in both versions.
func TestInteropJaysonHTTPClient(t *testing.T) {
	noLeak(t)
	needJayson(t)
	for version, protocol := range map[string]rpcx.Protocol{"2": rpcx.JSONRPCv2, "1": rpcx.JSONRPCv1} {
		t.Run("v"+version, func(t *testing.T) {
			w := serveHTTP(t, rpcx.Options{Protocol: protocol})
			interoptest.Checks(t, "node", "jayson_client.js", w.url+"/rpc", version)
		})
	}
}

// ethers' JsonRpcProvider, which makes a batch of the calls of one moment, gets the answer
// of each.
func TestInteropEthersHTTP(t *testing.T) {
	noLeak(t)
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('ethers')")
	w := new(webServer)
	router := rpcx.NewRouter()
	handle := func(method string, fn any) { router.Handle(method, rpcx.Func(fn)) }
	handle("eth_chainId", func() string { return "0x539" })
	handle("eth_blockNumber", func() string { return "0x7" })
	handle("eth_getBalance", func(address, block string) string { // the address is the balance, in decimal
		n, _ := strconv.Atoi(address[2:])
		return fmt.Sprintf("0x%x", n)
	})
	handle("refuse", func() error { return rpcx.Errorf(42, "refused") })
	handle("batches", func() int64 { return w.batches.Load() })
	srv := &rpcx.Server{Options: rpcx.Options{Handler: w.counting(router)}}
	interoptest.Checks(t, "node", "ethers_http.js", serveWeb(t, &rpchttp.Handler{Server: srv}).url+"/")
}

// startHTTPPeer starts a server in another language. It returns the address that the server
// prints. The server ends with its standard input, when the test ends.
func startHTTPPeer(t *testing.T, command string, args ...string) (url string) {
	t.Helper()
	cmd := interoptest.Command(t, command, args...)
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
		stdin.Close()
		var failed *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &failed) {
			t.Errorf("%s ended with %v", args[0], err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if url = strings.TrimSpace(line); err != nil || !strings.HasPrefix(url, "http://") {
		t.Fatalf("%s printed %q (%v)", args[0], line, err)
	}
	return url
}

// A client of ours uses jayson's server, over one connection: calls, errors, a batch,
// notifications and futures.
func TestInteropJaysonHTTPServer(t *testing.T) {
	noLeak(t)
	needJayson(t)
	for _, version := range []string{"2", "1"} {
		t.Run("v"+version, func(t *testing.T) {
			opts := &rpcx.Options{Protocol: rpcx.JSONRPCv2}
			if version == "1" {
				opts.Protocol = rpcx.JSONRPCv1
			}
			c, err := rpchttp.Dial(startHTTPPeer(t, "node", "jayson_server.js", version), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx := interopContext(t)
			callsHTTPServer(t, ctx, c, &rpcx.Error{Code: 42, Message: "refused: naïve", Data: json.RawMessage(`{"why":["tired"]}`)})
			if n, err := rpcx.Call[int](ctx, c, "connections", rpcx.Args{}); n != 1 || err != nil {
				t.Errorf("%d connections were made for calls one at a time, %v", n, err)
			}
			futuresOfHTTPServer(t, ctx, c)
			if version == "2" {
				named := map[string]int{"minuend": 42, "subtrahend": 23}
				if got, err := rpcx.Call[int](ctx, c, "subtract", named); got != 19 || err != nil {
					t.Errorf("subtract: %d, %v", got, err)
				}
				batchOfHTTPServer(t, ctx, c)
			}
		})
	}
}

// callsHTTPServer makes calls one at a time. The error of the method refuse is known.
func callsHTTPServer(t *testing.T, ctx context.Context, c rpcx.Caller, refused *rpcx.Error) {
	t.Helper()
	for _, text := range []string{"Howdy", "", "naïve ☃ 𝄞 \u2028", strings.Repeat("é0123456789", 8000)} {
		if got, err := rpcx.Call[string](ctx, c, "echo", rpcx.Args{text}); got != text || err != nil {
			t.Errorf("echo %.20q: %.20q, %v", text, got, err)
		}
	}
	for n := range 50 {
		if got, err := rpcx.Call[int](ctx, c, "sum", rpcx.Args{n, 1}); got != n+1 || err != nil {
			t.Fatalf("sum: %d, %v", got, err)
		}
	}
	if err := c.Call(ctx, "nothing", rpcx.Args{}, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
		t.Errorf("nothing: %v", err)
	}
	var e *rpcx.Error
	if err := c.Call(ctx, "refuse", rpcx.Args{}, nil); !errors.As(err, &e) || e.Code != refused.Code ||
		!strings.Contains(e.Message, refused.Message) || refused.Data != nil && !slices.Equal(e.Data.(json.RawMessage), refused.Data.(json.RawMessage)) {
		t.Errorf("refuse: %v, want %v", err, refused)
	}
	if err := c.Notify(ctx, "note", rpcx.Args{"noted"}); err != nil {
		t.Errorf("notify: %v", err)
	}
	if notes, err := rpcx.Call[[]string](ctx, c, "notes", rpcx.Args{}); !slices.Equal(notes, []string{"noted"}) || err != nil {
		t.Errorf("the notes are %q, %v", notes, err)
	}
}

// futuresOfHTTPServer makes calls at once.
func futuresOfHTTPServer(t *testing.T, ctx context.Context, c rpcx.Caller) {
	t.Helper()
	calls := make([]*rpcx.Future, 200)
	for n := range calls {
		calls[n] = c.Go(ctx, "echo", rpcx.Args{n})
	}
	for n, call := range calls {
		var got int
		if err := call.Wait(ctx, &got); got != n || err != nil {
			t.Fatalf("call %d: %d, %v", n, got, err)
		}
	}
}

// batchOfHTTPServer sends a batch, a batch with a member that fails, and a batch of
// notifications.
func batchOfHTTPServer(t *testing.T, ctx context.Context, c rpcx.Caller) {
	t.Helper()
	var b rpcx.Batch
	var first, last string
	b.Call("echo", rpcx.Args{"first"}, &first)
	b.Notify("note", rpcx.Args{"in a batch"})
	b.Call("nothing", rpcx.Args{}, nil)
	b.Call("echo", rpcx.Args{"last"}, &last)
	var failed *rpcx.BatchError
	if err := c.SendBatch(ctx, &b); !errors.As(err, &failed) || !slices.EqualFunc(failed.Errs, []error{nil, rpcx.ErrMethodNotFound, nil}, errors.Is) {
		t.Errorf("the batch: %v", err)
	}
	if first != "first" || last != "last" {
		t.Errorf("the results are %q and %q", first, last)
	}
	b = rpcx.Batch{}
	b.Notify("note", rpcx.Args{"alone in a batch"})
	if err := c.SendBatch(ctx, &b); err != nil {
		t.Errorf("a batch of notifications: %v", err)
	}
	if notes, err := rpcx.Call[[]string](ctx, c, "notes", rpcx.Args{}); !slices.Contains(notes, "in a batch") || !slices.Contains(notes, "alone in a batch") || err != nil {
		t.Errorf("the notes are %q, %v", notes, err)
	}
}
