package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	"example.com/rpcx/openrpc"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// TestMain runs the command itself in a process that a test has started; see process.
func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(leaktest.Run(m))
}

const asCommand = "RPCX_TEST_AS_COMMAND"

// process returns a process of the command, for what needs signals or pipes.
func process(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

var update = flag.Bool("update", false, "write the golden files anew")

// invocation is what a run of the command has besides its arguments.
type invocation struct {
	stdin    string
	input    io.Reader // in place of stdin
	terminal bool      // stdout and stderr are terminals
	vars     map[string]string
	ctx      context.Context // Background if nil
	stdout   interface{ Write([]byte) (int, error) }
}

// result is what a run has printed, and its exit code.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a command line in this process.
func (i invocation) run(args ...string) result {
	var stdout, stderr lockedBuffer
	e := &env{
		stdin: strings.NewReader(i.stdin), stdout: &stdout, stderr: &stderr,
		stdoutTTY: i.terminal, stderrTTY: i.terminal,
		getenv: func(key string) string { return i.vars[key] },
	}
	if i.input != nil {
		e.stdin = i.input
	}
	if i.stdout != nil {
		e.stdout = i.stdout
	}
	ctx := i.ctx
	if ctx == nil {
		ctx = context.Background()
	}
	code := run(ctx, e, args)
	return result{code, stdout.String(), stderr.String()}
}

// rpcxRun runs a command line without stdin and terminals.
func rpcxRun(args ...string) result { return invocation{}.run(args...) }

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testRouter has the methods that tests call.
func testRouter() *rpcx.Router {
	router := rpcx.NewRouter()
	handle := func(method string, fn any, names ...string) { router.Handle(method, rpcx.Func(fn, names...)) }
	router.Handle("params", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		if req.Params.Named != nil {
			return req.Params.Named, nil
		}
		return req.Params.Positional, nil
	}))
	router.Handle("echo", rpcx.Documented(rpcx.Func(func(message any) any { return message }, "message"), rpcx.Doc{
		Summary: "Returns the message", Public: true,
		Description: "The message may be anything. It comes back as it was sent.",
	}))
	router.Handle("user.find", rpcx.Documented(rpcx.Func(func(name string, limit *int) ([]user, error) {
		return []user{{"Ann", 34, []string{"admin"}}, {"Bo", 7, nil}}, nil
	}, "name", "limit?"), rpcx.Doc{Summary: "Finds users by the beginning of their names", Public: true}))
	handle("value", func() json.RawMessage { return json.RawMessage(goldenValue) })
	handle("rows", func() json.RawMessage {
		return json.RawMessage(`[{"name":"Ann","age":34,"tags":["a","b"]},{"age":7,"name":"Bo\nlong","mail":null},{"name":"東京"}]`)
	})
	handle("hostile", func() json.RawMessage {
		return json.RawMessage(`{"title\u001b]0;owned":"\u001b[31mred\u001b[0m","c1":"` + "\u009b31m" + `","bidi":"` + "\u202eabc" + `","bell":"\u0007"}`)
	})
	handle("hostile_text", func() string { return "\x1b[2J\u009b2Jcleared\r\u202ecba" })
	handle("refuse", func() error {
		return rpcx.Errorf(42, "refused: naïve \x1b[31m").WithData(map[string][]string{"why": {"tired"}})
	})
	handle("hang", func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	handle("hangup", func(s *rpcx.Session) { s.Close() })
	// subscribe replies, notifies n times, and then closes the connection if asked to.
	handle("subscribe", func(ctx context.Context, s *rpcx.Session, topic string, n int, closes bool) string {
		rpcx.AfterReply(ctx, func(error) {
			for i := range n {
				s.Notify(context.Background(), "news", map[string]any{"topic": topic, "n": i + 1})
			}
			if closes {
				s.Notify(context.Background(), "last", nil)
				go s.Shutdown(context.Background()) // Owner: s. End: s is done.
			}
		})
		return "subscribed to " + topic
	})
	router.Handle("rpc.discover", openrpc.Discover(router, openrpc.Info{
		Title: "Test", Version: "1.0.0", Description: "Methods for tests.",
	}, nil))
	return router
}

type user struct {
	Name string   `json:"name"`
	Age  int      `json:"age"`
	Tags []string `json:"tags"`
}

const goldenValue = `{"string":"text with \"quotes\" and ünï","number":-1.50e3,"big":12345678901234567890123,"words":[true,false,null],"empty":{},"list":[1,[2,{"three":3}]],"line":"a\nb"}`

// peer is a server of testRouter at several addresses.
type peer struct {
	srv                 *rpcx.Server
	tcp, ws, http, unix string // addresses for the command
	received            chan string
	web                 http.Handler   // of ws and http
	running             sync.WaitGroup // servers
}

// newPeer starts a peer. received gets the methods of requests and notifications, up to
// 100.
func newPeer(t *testing.T, change ...func(*rpcx.Options)) *peer {
	t.Helper()
	p := &peer{received: make(chan string, 100)}
	opts := rpcx.Options{Handler: testRouter(), Middleware: []func(rpcx.Handler) rpcx.Handler{
		func(next rpcx.Handler) rpcx.Handler {
			return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
				select {
				case p.received <- req.Method:
				default:
				}
				return next.ServeRPC(ctx, req)
			})
		},
	}}
	for _, f := range change {
		f(&opts)
	}
	p.srv = &rpcx.Server{Options: opts}
	l := listenTCP(t)
	p.tcp = l.Addr().String()
	p.unix = filepath.Join(t.TempDir(), "s")
	u, err := net.Listen("unix", p.unix)
	if err != nil {
		t.Fatal(err)
	}
	web := listenTCP(t)
	p.ws, p.http = "ws://"+web.Addr().String()+"/ws", "http://"+web.Addr().String()+"/rpc"
	mux := http.NewServeMux()
	mux.Handle("/ws", websocket.Handler(p.srv))
	mux.Handle("/rpc", &rpchttp.Handler{Server: p.srv})
	p.web = mux
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, ErrorLog: discardLog}
	p.running.Go(func() { p.srv.Serve(l) })
	p.running.Go(func() { p.srv.Serve(u) })
	p.running.Go(func() { server.Serve(web) })
	t.Cleanup(func() {
		server.Close()
		p.srv.Close()
		p.srv.Wait(context.Background())
		p.running.Wait()
	})
	return p
}

var discardLog = log.New(io.Discard, "", 0)

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// checkResult compares the exit code and stdout, and looks for texts in stderr.
func checkResult(t *testing.T, r result, code int, stdout string, stderr ...string) {
	t.Helper()
	if r.code != code || r.stdout != stdout {
		t.Errorf("exit code %d, stdout %q; want %d, %q\nstderr: %s", r.code, r.stdout, code, stdout, r.stderr)
	}
	for _, text := range stderr {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("stderr has no %q:\n%s", text, r.stderr)
		}
	}
}
