package rpcx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	"github.com/google/go-cmp/cmp"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) {
	if name := os.Getenv(programVariable); name != "" {
		programs[name]() // a test of Command has started this
		return
	}
	setResolver()
	os.Exit(leaktest.Run(m))
}

// noLeak fails the test if it leaves a goroutine behind; see [leaktest.Check].
func noLeak(t *testing.T) {
	t.Helper()
	leaktest.Check(t)
}

// A wire is the far end of a session's connection, held by the test: it says
// lines to the session and hears what the session writes. It is for use in a
// synctest bubble.
type wire struct {
	net.Conn
	t *testing.T

	mu    sync.Mutex
	lines []string // heard and not asked for yet
	over  bool     // there is nothing more to be heard
}

// newWire returns a session and its wire, which always listens.
func newWire(t *testing.T, opts *rpcx.Options) (*rpcx.Session, *wire) {
	t.Helper()
	s, w := newDeafWire(t, opts)
	w.listen()
	return s, w
}

// newDeafWire returns a session and a wire that reads nothing until it is told
// to listen.
func newDeafWire(t *testing.T, opts *rpcx.Options) (*rpcx.Session, *wire) {
	t.Helper()
	near, far := net.Pipe()
	s := rpcx.NewSession(near, opts)
	w := &wire{Conn: far, t: t}
	t.Cleanup(func() {
		s.Close()
		far.Close()
		<-s.Done()
	})
	return s, w
}

// listen begins to read.
func (w *wire) listen() {
	go func() {
		lines := bufio.NewScanner(w)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			w.mu.Lock()
			w.lines = append(w.lines, lines.Text())
			w.mu.Unlock()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
	}()
}

// say sends lines to the session.
func (w *wire) say(lines ...string) {
	w.t.Helper()
	for _, line := range lines {
		if _, err := w.Write([]byte(line + "\n")); err != nil {
			w.t.Fatalf("saying %.100s: %v", line, err)
		}
	}
}

// heard returns what was heard since it was last asked, once nothing moves.
func (w *wire) heard() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.lines
	w.lines = nil
	return lines
}

// expect says that just these lines have been heard since the last time.
func (w *wire) expect(lines ...string) {
	w.t.Helper()
	if diff := cmp.Diff(lines, w.heard()); diff != "" {
		w.t.Errorf("wrong lines on the wire (-want +got):\n%s", diff)
	}
}

// expectNothing says that nothing has been heard since the last time.
func (w *wire) expectNothing() {
	w.t.Helper()
	if lines := w.heard(); len(lines) > 0 {
		w.t.Errorf("unexpected lines on the wire: %q", lines)
	}
}

// hungUp reports whether the session has closed the connection.
func (w *wire) hungUp() bool {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

// idOf returns the id of the request in line.
func idOf(t *testing.T, line string) string {
	t.Helper()
	var request struct{ ID json.RawMessage }
	if err := json.Unmarshal([]byte(line), &request); err != nil || request.ID == nil {
		t.Fatalf("%s is no request: %v", line, err)
	}
	return string(request.ID)
}

// newPipe joins two sessions, which are closed at the end of the test.
func newPipe(t *testing.T, a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session) {
	t.Helper()
	sa, sb := rpcx.Pipe(a, b)
	t.Cleanup(func() {
		sa.Close()
		sb.Close()
		<-sa.Done()
		<-sb.Done()
	})
	return sa, sb
}

// methods is a handler of requests by their method.
type methods map[string]rpcx.HandlerFunc

func (m methods) ServeRPC(ctx context.Context, req *rpcx.Request) (any, error) {
	if h := m[req.Method]; h != nil {
		return h(ctx, req)
	}
	return nil, rpcx.MethodNotFound(req.Method)
}

// handling returns options with a handler.
func handling(h rpcx.Handler) *rpcx.Options { return &rpcx.Options{Handler: h} }

// reply answers with the request's first argument, nil if there is none.
func reply(_ context.Context, req *rpcx.Request) (any, error) {
	var args []json.RawMessage
	if err := req.Bind(&args); err != nil || len(args) == 0 {
		return nil, err
	}
	return args[0], nil
}

// hang answers when its context ends, with the cause.
func hang(ctx context.Context, _ *rpcx.Request) (any, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// gate is a handler that waits to be opened, whatever its context says.
type gate chan struct{}

func (g gate) ServeRPC(context.Context, *rpcx.Request) (any, error) {
	<-g
	return "through", nil
}

// takes says that f takes exactly so long, on the bubble's clock.
func takes(t *testing.T, want time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if got := time.Since(start); got != want {
		t.Errorf("took %v, want %v", got, want)
	}
}

// ended returns the error that the session ended with, which it has.
func ended(t *testing.T, s *rpcx.Session) error {
	t.Helper()
	synctest.Wait()
	select {
	case <-s.Done():
		return s.Err()
	default:
		t.Fatal("the session is not over")
		return nil
	}
}

// live says that the session is not over.
func live(t *testing.T, s *rpcx.Session) {
	t.Helper()
	synctest.Wait()
	select {
	case <-s.Done():
		t.Fatalf("the session is over: %v", s.Err())
	default:
	}
}

// matches says that err matches all of the targets.
func matches(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("the error is %v, which does not match %v", err, target)
		}
	}
}

// matchesNot says that err matches none of the targets.
func matchesNot(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if errors.Is(err, target) {
			t.Errorf("the error is %v, which matches %v", err, target)
		}
	}
}

// isDone reports whether the future is done.
func isDone(f *rpcx.Future) bool {
	synctest.Wait()
	select {
	case <-f.Done():
		return true
	default:
		return false
	}
}

// wired joins two sessions by a net.Pipe, whatever their framer and protocol.
func wired(a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session) {
	near, far := net.Pipe()
	return rpcx.NewSession(near, a), rpcx.NewSession(far, b)
}

// socketed joins two sessions by a connection that keeps messages apart.
func socketed(a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session) {
	near, far := newSockets()
	return rpcx.NewMessageSession(near, a), rpcx.NewMessageSession(far, b)
}

// socket is one end of a connection that keeps messages apart, like a WebSocket.
// What it has returned is overwritten as soon as it may be.
type socket struct {
	in  <-chan []byte
	out chan<- []byte
	buf []byte

	bad           chan struct{} // a message was lost
	closed, other chan struct{}
	once          *sync.Once
}

// newSockets returns the two ends.
func newSockets() (a, b *socket) {
	up, down := make(chan []byte), make(chan []byte)
	aClosed, bClosed := make(chan struct{}), make(chan struct{})
	bad := make(chan struct{})
	return &socket{down, up, nil, bad, aClosed, bClosed, new(sync.Once)}, &socket{up, down, nil, bad, bClosed, aClosed, new(sync.Once)}
}

func (s *socket) ReadMessage() ([]byte, error) {
	for i := range s.buf {
		s.buf[i] = '!'
	}
	select {
	case msg := <-s.in:
		s.buf = append(s.buf[:0], msg...)
		return s.buf, nil
	case <-s.bad:
		return nil, &rpcx.FrameError{Message: "a binary message", Recoverable: true}
	case <-s.other:
		return nil, io.EOF
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *socket) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		select {
		case s.out <- bytes.Clone(msg):
		case <-s.other:
			return io.ErrClosedPipe
		case <-s.closed:
			return net.ErrClosed
		}
	}
	return nil
}

func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// The package depends on the standard library, the internal packages of this module and
// errgroup, which carries the goroutines of task groups. Users get no other dependency.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"golang.org/x/sync/errgroup", "example.com/rpcx"}
	var got []string
	for path := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(path, "example.com/rpcx/internal/") {
			got = append(got, path)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the package depends on\n%s, want\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

// The module requires the modules that the package, websocket and the tests need, and no
// module that only a nested module needs.
func TestModuleDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	want := []string{"example.com/rpcx", "github.com/coder/websocket", "github.com/google/go-cmp", "golang.org/x/sync"}
	if !slices.Equal(got, want) {
		t.Errorf("the module graph has\n%s, want\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

// eachSource calls visit for each node of the module's own packages, and of those that are
// nested modules, without tests and programs.
func eachSource(t *testing.T, visit func(fset *token.FileSet, n ast.Node)) {
	t.Helper()
	fset, files := token.NewFileSet(), 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{"examples", "tools", "benchmarks", "interop", "testdata", "aiomastest", "interoptest", ".git"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		ast.Inspect(file, func(n ast.Node) bool {
			if n != nil {
				visit(fset, n)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("only %d files were found", files)
	}
}

// units are the keys of numbers in log records: each says what it counts.
var units = []string{
	"bytes", "requests", "calls", "handlers", "handlers before", "members", "notifications", "records left out",
	"sessions", "handshakes", "errors a second", "cost", "status", "messages",
}

// A number in the log says what it counts, and a time has its unit.
func TestLogValuesCarryTheirUnits(t *testing.T) {
	found := make(map[string]bool)
	eachSource(t, func(fset *token.FileSet, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return
		}
		if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "slog" {
			return
		}
		at, kind := fset.Position(call.Pos()), f.Sel.Name
		switch kind {
		case "String", "Duration", "Group", "Any", "Int", "Int64", "Uint64", "Float64":
		case "Bool", "Time", "With", "Attrs", "Default":
			t.Errorf("%v: slog.%s is not known to this test", at, kind)
			return
		default:
			return // no attribute
		}
		lit, ok := call.Args[0].(*ast.BasicLit)
		if kind == "Group" || kind == "String" || kind == "Duration" {
			return
		}
		if !ok {
			t.Errorf("%v: the key of slog.%s is no literal", at, kind)
			return
		}
		key, _ := strconv.Unquote(lit.Value)
		found[key] = true
		if kind == "Any" && key == "error" {
			return
		}
		if kind == "Any" || !slices.Contains(units, key) {
			t.Errorf("%v: slog.%s(%q) does not say in which unit", at, kind, key)
		}
	})
	for _, unit := range units {
		if !found[unit] {
			t.Errorf("no number is logged as %q", unit)
		}
	}
}

var (
	// aLimit matches the name of a field that sets a limit.
	aLimit = regexp.MustCompile(`\b((Limits|Server|Acceptor|[A-Z][a-z]+Framer|JSONFramer)\.[A-Z]\w+|Config\.(Max|Ping|Read|Write)\w+|Dialer\.(Timeout|IdleTimeout|MaxSize|Retries|MaxRetryWait))`)
	// namedLimit matches what errors and log records have: "(NewlineFramer.MaxSize)".
	namedLimit = regexp.MustCompile(`\(((?:websocket\.|rpchttp\.|natsrpcx\.|proxyproto\.)?\w+\.[A-Z]\w+)(, \w+\.[A-Z]\w+)*\)`)
)

// A text names a field that sets a limit in brackets, and a field of another package with
// that package. (What is a name as a whole is an argument.)
func TestLimitsAreNamedAlike(t *testing.T) {
	found := 0
	eachSource(t, func(fset *token.FileSet, n ast.Node) {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		text, _ := strconv.Unquote(lit.Value)
		at := fset.Position(lit.Pos())
		if !aLimit.MatchString(text) || isFunction(text) {
			return
		}
		found++
		inWebSocket := filepath.Dir(at.Filename) == "websocket"
		if inWebSocket && strings.Contains(strings.ReplaceAll(text, "websocket.Config.", ""), "Config.") {
			t.Errorf("%v: %q does not name the package", at, text)
		}
		rest := namedLimit.ReplaceAllString(text, "")
		rest = strings.TrimPrefix(strings.TrimPrefix(rest, "websocket."), "natsrpcx.")
		if aLimit.FindString(rest) == rest || !aLimit.MatchString(rest) {
			return
		}
		t.Errorf("%v: %q names a limit in another form", at, text)
	})
	if found < 30 {
		t.Errorf("only %d names were found", found)
	}
}

// isFunction reports whether text names a method: of Server.Serve, say, which panics.
func isFunction(text string) bool {
	return strings.HasPrefix(text, "Server.Serve") || strings.Contains(text, "Server.Wait")
}
