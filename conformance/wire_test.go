package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

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

// events records what is told, in order.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

// take returns what was recorded since the last time, once nothing moves.
func (e *events) take() []string {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.list
	e.list = nil
	return list
}

// allocated returns how many objects and bytes f allocates.
func allocated(f func()) (objects, bytes uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc
}
