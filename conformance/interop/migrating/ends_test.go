package migrating

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/channel"
	"github.com/creachadair/jrpc2/handler"
	gethrpc "github.com/ethereum/go-ethereum/rpc"
	"github.com/sourcegraph/jsonrpc2"
)

// pair is a client and a server on one connection. The server has one method, which waits.
type pair struct {
	call func(ctx context.Context) error // calls the method
	// closeClient and closeServer close the ends by the method of the library that is
	// called Close or Stop.
	closeClient, closeServer func()
	conn                     net.Conn // the client's end of the connection
}

// waiter is the method of the server: wait returns at the end of its context, or when
// released.
type waiter struct {
	running atomic.Int32
	ended   atomic.Bool // the context ended first
	release chan struct{}
}

func (w *waiter) wait(ctx context.Context) error {
	w.running.Add(1)
	defer w.running.Add(-1)
	select {
	case <-ctx.Done():
		w.ended.Store(true)
		return ctx.Err()
	case <-w.release:
		return nil
	}
}

func jrpc2Pair(w *waiter) pair {
	near, far := net.Pipe()
	srv := jrpc2.NewServer(handler.Map{"wait": handler.New(w.wait)}, nil).Start(channel.Line(far, far))
	c := jrpc2.NewClient(channel.Line(near, near), nil)
	return pair{
		call: func(ctx context.Context) error {
			_, err := c.Call(ctx, "wait", nil)
			return err
		},
		closeClient: func() { c.Close() },
		closeServer: srv.Stop,
		conn:        near,
	}
}

// gethWaiter has the method m_wait.
type gethWaiter struct{ w *waiter }

func (g gethWaiter) Wait(ctx context.Context) error { return g.w.wait(ctx) }

func gethPair(w *waiter) pair {
	near, far := net.Pipe()
	srv := gethrpc.NewServer()
	if err := srv.RegisterName("m", gethWaiter{w}); err != nil {
		panic(err)
	}
	// Owner: the test. End: the connection is closed.
	go srv.ServeCodec(gethrpc.NewCodec(far), 0)
	c, err := gethrpc.DialIO(context.Background(), near, near)
	if err != nil {
		panic(err)
	}
	return pair{
		call: func(ctx context.Context) error { return c.CallContext(ctx, nil, "m_wait") },
		closeClient: func() {
			// A client of DialIO does not close its connection, and waits for the end.
			time.AfterFunc(time.Second, func() { near.Close() })
			c.Close()
		},
		closeServer: srv.Stop,
		conn:        near,
	}
}

func sourcegraphPair(w *waiter) pair {
	near, far := net.Pipe()
	handle := func(ctx context.Context, _ *jsonrpc2.Conn, _ *jsonrpc2.Request) (any, error) { return nil, w.wait(ctx) }
	open := func(conn net.Conn) *jsonrpc2.Conn {
		h := jsonrpc2.HandlerWithError(handle).SuppressErrClosed()
		return jsonrpc2.NewConn(context.Background(), jsonrpc2.NewPlainObjectStream(conn), jsonrpc2.AsyncHandler(h))
	}
	srv, c := open(far), open(near)
	return pair{
		call:        func(ctx context.Context) error { return c.Call(ctx, "wait", nil, nil) },
		closeClient: func() { c.Close() },
		closeServer: func() { srv.Close() },
		conn:        near,
	}
}

// NetWaiter has the method M.Wait, which has no context.
type NetWaiter struct{ w *waiter }

// Wait waits.
func (n NetWaiter) Wait(int, *int) error { return n.w.wait(context.Background()) }

func netrpcPair(w *waiter) pair {
	near, far := net.Pipe()
	srv := rpc.NewServer()
	if err := srv.RegisterName("M", NetWaiter{w}); err != nil {
		panic(err)
	}
	// Owner: the test. End: the connection is closed.
	go srv.ServeCodec(jsonrpc.NewServerCodec(far))
	c := jsonrpc.NewClient(near)
	return pair{
		call: func(ctx context.Context) error {
			call := c.Go("M.Wait", 0, new(int), nil)
			select {
			case <-call.Done:
				return call.Error
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		closeClient: func() { c.Close() },
		closeServer: func() { far.Close() },
		conn:        near,
	}
}

func rpcxPair(cancellation *rpcx.Cancellation) func(w *waiter) pair {
	return func(w *waiter) pair {
		near, far := net.Pipe()
		methods := rpcx.ExposeMap(map[string]any{"wait": w.wait})
		srv := rpcx.NewSession(far, &rpcx.Options{Handler: methods, Cancellation: cancellation})
		c := rpcx.NewSession(near, &rpcx.Options{Cancellation: cancellation})
		return pair{
			call:        func(ctx context.Context) error { return c.Call(ctx, "wait", nil, nil) },
			closeClient: func() { c.Close() },
			closeServer: func() { srv.Close() },
			conn:        near,
		}
	}
}

// ways are the ways in which a call can end early.
var ways = []struct {
	name string
	end  func(p pair, cancel func())
}{
	{"the caller gives up", func(_ pair, cancel func()) { cancel() }},
	{"the client is closed", func(p pair, _ func()) { p.closeClient() }},
	{"the server is closed", func(p pair, _ func()) { p.closeServer() }},
	{"the connection is lost", func(p pair, _ func()) { p.conn.Close() }},
}

// ends says, for each of ways, what the error of a call matches, and whether the context of
// the handler ends at once. At most so many handlers run at once (0: no limit).
var ends = []struct {
	library  string
	pair     func(*waiter) pair
	errors   [4]error
	contexts [4]bool
	handlers int32
}{
	{
		"jrpc2", jrpc2Pair,
		[4]error{context.Canceled, context.Canceled, context.Canceled, errInternal},
		[4]bool{false, true, true, true}, int32(runtime.NumCPU()),
	},
	{
		"geth", gethPair,
		[4]error{context.Canceled, gethrpc.ErrClientQuit, io.EOF, io.ErrClosedPipe},
		[4]bool{}, 0,
	},
	{
		"sourcegraph", sourcegraphPair,
		[4]error{context.Canceled, jsonrpc2.ErrClosed, jsonrpc2.ErrClosed, jsonrpc2.ErrClosed},
		[4]bool{false, true, true, true}, 0,
	},
	{
		"netrpc", netrpcPair,
		[4]error{context.Canceled, io.ErrClosedPipe, io.ErrUnexpectedEOF, io.ErrClosedPipe},
		[4]bool{}, 0,
	},
	{
		"rpcx", rpcxPair(nil),
		[4]error{context.Canceled, rpcx.ErrClosed, io.EOF, io.ErrClosedPipe},
		[4]bool{false, true, true, true}, 20,
	},
	{
		"rpcx with Cancellation", rpcxPair(rpcx.RPCCancellation),
		[4]error{context.Canceled, rpcx.ErrClosed, io.EOF, io.ErrClosedPipe},
		[4]bool{true, true, true, true}, 20,
	},
}

// errInternal stands for an error of jrpc2 with the code InternalError.
var errInternal = errors.New("internal error")

// TestEnds ends a call in each way, in each library.
func TestEnds(t *testing.T) {
	log.SetOutput(io.Discard) // sourcegraph/jsonrpc2 logs to the standard logger
	defer log.SetOutput(os.Stderr)
	for _, test := range ends {
		for i, way := range ways {
			t.Run(test.library+"/"+way.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &waiter{release: make(chan struct{})}
					p := test.pair(w)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					result := make(chan error, 1)
					// Owner: the test. End: the call ends.
					go func() { result <- p.call(ctx) }()
					synctest.Wait()
					if n := w.running.Load(); n != 1 {
						t.Errorf("%d handlers run", n)
					}
					// Owner: the test. End: the handler returns, at the latest.
					go way.end(p, cancel)
					synctest.Wait()
					select {
					case err := <-result:
						if want := test.errors[i]; !matches(err, want) {
							t.Errorf("the call: %v, want %v", err, want)
						}
					default:
						t.Error("the call has not ended")
					}
					if got := w.ended.Load(); got != test.contexts[i] {
						t.Errorf("the context of the handler has ended: %v", got)
					}
					p.close(w)
				})
			})
		}
		t.Run(test.library+"/handlers at once", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &waiter{release: make(chan struct{})}
				p := test.pair(w)
				calls := int32(runtime.NumCPU()) + 48
				for range calls {
					// Owner: the test. End: the call ends.
					go p.call(t.Context())
				}
				synctest.Wait()
				want := test.handlers
				if want == 0 {
					want = calls
				}
				if n := w.running.Load(); n != want {
					t.Errorf("%d handlers run, want %d", n, want)
				}
				p.close(w)
			})
		})
	}
}

// matches tells whether err is want; jrpc2's codes are not for errors.Is.
func matches(err, want error) bool {
	if e, ok := errors.AsType[*jrpc2.Error](err); ok {
		return e.Code == jrpc2.InternalError && want == errInternal
	}
	return errors.Is(err, want)
}

// close lets the handlers return, and closes both ends.
func (p pair) close(w *waiter) {
	close(w.release)
	synctest.Wait()
	p.closeClient()
	p.closeServer()
	p.conn.Close()
}

// TestEqualIDs sends two requests with one id. The second request comes before the reply to
// the first.
func TestEqualIDs(t *testing.T) {
	for _, test := range ends {
		t.Run(test.library, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &waiter{release: make(chan struct{})}
				p := test.pair(w)
				request := `{"jsonrpc":"2.0","id":77,"method":"wait"}`
				handled := int32(2)
				switch test.library {
				case "jrpc2":
					handled = 1 // the second request is refused
				case "geth":
					request = `{"jsonrpc":"2.0","id":77,"method":"m_wait"}`
				case "netrpc":
					request = `{"id":77,"method":"M.Wait","params":[0]}`
				}
				for range 2 {
					if _, err := io.WriteString(p.conn, request+"\n"); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if n := w.running.Load(); n != handled {
					t.Errorf("%d requests are handled, want %d", n, handled)
				}
				p.close(w)
			})
		})
	}
}

// TestErrorTexts is about the text of an error at the caller. (The programs of go-ethereum
// and net/rpc print theirs.)
func TestErrorTexts(t *testing.T) {
	for want, err := range map[string]error{
		"[1] division by zero":                       jrpc2.Errorf(1, "division by zero"),
		"jsonrpc2: code 1 message: division by zero": &jsonrpc2.Error{Code: 1, Message: "division by zero"},
		"division by zero (code 1)":                  rpcx.Errorf(1, "division by zero"),
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestInteropLostCalls is about a call whose connection is lost, in libraries that are not
// in Go. (TestEnds has the others.)
func TestInteropLostCalls(t *testing.T) {
	for _, lib := range libraries {
		program, want := "", ""
		switch lib.name {
		case "vscode":
			program, want = "testdata/lost.js", "pending\nerror -32097\n"
		case "aiorpcx":
			program, want = "testdata/lost.py", "CancelledError\n"
		default:
			continue
		}
		t.Run(lib.name, func(t *testing.T) {
			lib.need(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, lib.before[0], program)
			cmd.Env = append(os.Environ(), "NODE_PATH="+nodeModules)
			if got, err := cmd.CombinedOutput(); string(got) != want {
				t.Errorf("printed %q (%v), want %q", got, err, want)
			}
		})
	}
}
