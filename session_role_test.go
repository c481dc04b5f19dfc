package rpcx

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// socketSessions returns a client's session to a server, over a socket.
func socketSessions(t *testing.T, network string, srv *Server, opts *Options) (client, peer *Session) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	sessions := make(chan *Session, 1)
	srv.OnSession = func(s *Session) { sessions <- s }
	served := make(chan struct{})
	go func() { // ends when the server is closed
		defer close(served)
		srv.Serve(l)
	}()
	conn, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = NewSession(conn, opts)
	peer = <-sessions
	t.Cleanup(func() {
		client.Close()
		<-client.Done()
		srv.Close()
		srv.Wait(context.Background())
		<-served
	})
	return client, peer
}

// roleOf returns a copy of the state of the role.
func roleOf(s *Session) readingRole {
	s.lock()
	defer s.unlock()
	return s.reader.role
}

// waitForRole waits until the state of the role is as wanted.
func waitForRole(t *testing.T, s *Session, what string, want func(readingRole) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !want(roleOf(s)); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%s: the state of the role stays %+v", what, roleOf(s))
		}
	}
}

func isHeldByLoop(role readingRole) bool { return role.vacancy == notVacant && role.caller == nil }

// echoServer returns a server with a method echo, and the given methods.
func echoServer(methods map[string]HandlerFunc) *Server {
	r := NewRouter()
	r.Handle("echo", Func(func(s string) string { return s }, "s"))
	for name, h := range methods {
		r.Handle(name, h)
	}
	return &Server{Options: Options{Handler: r, Limits: Limits{CostOff: true}}}
}

func mustEcho(t *testing.T, s *Session) {
	t.Helper()
	var got string
	if err := s.Call(context.Background(), "echo", Args{"hi"}, &got); err != nil || got != "hi" {
		t.Fatalf("echo: %q, %v", got, err)
	}
}

// lend makes lone calls until the role of the client is vacant.
func lend(t *testing.T, s *Session) {
	t.Helper()
	for i := 0; roleOf(s).vacancy != vacantLone; i++ {
		if i == 100_000 {
			t.Fatalf("the role is not lent: %+v", roleOf(s))
		}
		mustEcho(t, s)
	}
}

// prove makes lone calls until the handler of the method has proved to be quick.
func prove(t *testing.T, srv *Server, s *Session, method string) {
	t.Helper()
	for i := 0; !srv.pool.handlers.isQuick(method); i++ {
		if i == 100_000 {
			t.Fatalf("the handler of %q has not proved to be quick", method)
		}
		if err := s.Call(context.Background(), method, Args{"hi"}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLoneCallsReadForThemselves checks that after some lone calls the goroutine of a call
// reads the reply, and that readLoop reads again when no call comes.
func TestLoneCallsReadForThemselves(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s, _ := socketSessions(t, network, echoServer(nil), nil)
			lend(t, s)
			waitForRole(t, s, "without calls", isHeldByLoop)
			lend(t, s)
			mustEcho(t, s)
		})
	}
}

// TestConnectionsWithoutSocketsLendNoRole checks that readLoop keeps the role where a read
// cannot be interrupted.
func TestConnectionsWithoutSocketsLendNoRole(t *testing.T) {
	a, b := Pipe(nil, &Options{Handler: echoServer(nil).Options.Handler})
	defer func() { a.Close(); <-a.Done(); <-b.Done() }()
	for range 4 * proofRuns {
		mustEcho(t, a)
		if ours, theirs := roleOf(a), roleOf(b); !isHeldByLoop(ours) || !isHeldByLoop(theirs) {
			t.Fatalf("the roles are %+v and %+v", ours, theirs)
		}
	}
}

// TestReadingCallerGivesUp checks that the end of a context, and a timeout, end a call
// whose goroutine reads, and that the session goes on.
func TestReadingCallerGivesUp(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	srv := echoServer(map[string]HandlerFunc{"block": func(ctx context.Context, _ *Request) (any, error) {
		<-release
		return "late", nil
	}})
	s, _ := socketSessions(t, "tcp", srv, &Options{Limits: Limits{RequestTimeout: 20 * time.Millisecond}})
	t.Cleanup(func() { once.Do(func() { close(release) }) })
	lend(t, s)
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("no longer wanted")
	stop := make(chan struct{})
	go func() { // ends when the call is registered
		defer close(stop)
		for s.Stats().Pending == 0 {
			runtime.Gosched()
		}
		cancel(cause)
	}()
	if err := s.Call(ctx, "block", nil, nil); err != cause {
		t.Errorf("the error is %v, want the cause of the context", err)
	}
	<-stop
	lend(t, s)
	ctx, cancelDeadline := context.WithTimeout(context.Background(), 3*time.Millisecond)
	defer cancelDeadline()
	if err := s.Call(ctx, "block", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want that of the deadline", err)
	}
	waitForRole(t, s, "after the deadline", isHeldByLoop)
	lend(t, s)
	if err := s.Call(context.Background(), "block", nil, nil); !errors.Is(err, ErrTimeout) {
		t.Errorf("the error is %v, want ErrTimeout", err)
	}
	once.Do(func() { close(release) })
	for range 20 {
		mustEcho(t, s)
	}
	waitForRole(t, s, "at the end", isHeldByLoop)
}

// TestVacancyEnds checks that input which no call waits for is read although the role was
// vacant.
func TestVacancyEnds(t *testing.T) {
	got := make(chan string, 1)
	opts := &Options{Handler: HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		got <- req.Method
		return "yes", nil
	})}
	t.Run("notification", func(t *testing.T) {
		s, peer := socketSessions(t, "tcp", echoServer(nil), opts)
		lend(t, s)
		if err := peer.Notify(context.Background(), "news", nil); err != nil {
			t.Fatal(err)
		}
		if method := <-got; method != "news" {
			t.Error(method)
		}
	})
	t.Run("request", func(t *testing.T) {
		s, peer := socketSessions(t, "tcp", echoServer(nil), opts)
		lend(t, s)
		var answer string
		if err := peer.Call(context.Background(), "question", nil, &answer); err != nil || answer != "yes" {
			t.Error(answer, err)
		}
		<-got
	})
	t.Run("end of input", func(t *testing.T) {
		s, peer := socketSessions(t, "tcp", echoServer(nil), opts)
		lend(t, s)
		peer.Close()
		<-s.Done()
		if err := s.Err(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
	t.Run("future", func(t *testing.T) {
		reply := make(chan struct{})
		s, _ := socketSessions(t, "tcp", echoServer(map[string]HandlerFunc{"wait": func(context.Context, *Request) (any, error) {
			<-reply
			return nil, nil
		}}), opts)
		lend(t, s)
		f := s.Go(context.Background(), "wait", nil)
		if role := roleOf(s); role.isLent() {
			t.Errorf("nobody reads for a future: %+v", role)
		}
		close(reply)
		if err := f.Wait(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("batch", func(t *testing.T) {
		s, _ := socketSessions(t, "tcp", echoServer(nil), opts)
		lend(t, s)
		var b Batch
		b.Call("echo", Args{"hi"}, nil)
		b.Call("echo", Args{"hi"}, nil)
		if err := s.SendBatch(context.Background(), &b); err != nil {
			t.Error(err)
		}
	})
	t.Run("close", func(t *testing.T) {
		s, _ := socketSessions(t, "tcp", echoServer(nil), opts)
		lend(t, s)
		s.Close()
		<-s.Done()
	})
	t.Run("shutdown", func(t *testing.T) {
		s, _ := socketSessions(t, "tcp", echoServer(nil), opts)
		lend(t, s)
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// TestCallerReadsForOthers checks that a caller that reads passes on the replies to other
// calls, and that a slow call does not keep the role.
func TestCallerReadsForOthers(t *testing.T) {
	release := make(chan struct{})
	srv := echoServer(map[string]HandlerFunc{"block": func(context.Context, *Request) (any, error) {
		<-release
		return "late", nil
	}})
	s, _ := socketSessions(t, "tcp", srv, nil)
	for range 20 {
		lend(t, s)
		done := make(chan error, 1)
		go func() { done <- s.Call(context.Background(), "block", nil, nil) }() // ends by release
		for s.Stats().Pending == 0 {
			runtime.Gosched()
		}
		for range 3 {
			mustEcho(t, s)
		}
		waitForRole(t, s, "beside a slow call", isHeldByLoop)
		release <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// TestQuickHandlerThatBlocks checks that a handler that has proved to be quick, and then
// blocks, does not keep the session from reading.
func TestQuickHandlerThatBlocks(t *testing.T) {
	var block atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	srv := echoServer(map[string]HandlerFunc{"moody": func(context.Context, *Request) (any, error) {
		if block.Load() {
			close(entered)
			<-release
		}
		return "done", nil
	}})
	s, peer := socketSessions(t, "tcp", srv, nil)
	prove(t, srv, s, "moody")
	block.Store(true)
	f := s.Go(context.Background(), "moody", nil)
	<-entered
	for start := time.Now(); time.Since(start) < 2*slowRun; {
		mustEcho(t, s)
	}
	close(release)
	if err := f.Wait(context.Background(), nil); err != nil {
		t.Error(err)
	}
	waitForRole(t, peer, "after the handler", func(role readingRole) bool {
		return isHeldByLoop(role) && !srv.pool.handlers.isQuick("moody")
	})
}

// TestQuickHandlerThatWaits checks that a handler that waits for the peer hands the role on
// first, and no longer counts as quick.
func TestQuickHandlerThatWaits(t *testing.T) {
	var call atomic.Bool
	srv := echoServer(map[string]HandlerFunc{"back": func(ctx context.Context, req *Request) (any, error) {
		if !call.Load() {
			return nil, nil
		}
		var answer string
		err := req.Session().Call(ctx, "question", nil, &answer)
		return answer, err
	}})
	s, _ := socketSessions(t, "tcp", srv, &Options{Handler: HandlerFunc(func(context.Context, *Request) (any, error) { return "yes", nil })})
	prove(t, srv, s, "back")
	call.Store(true)
	var got string
	if err := s.Call(context.Background(), "back", nil, &got); err != nil || got != "yes" {
		t.Error(got, err)
	}
	waitForRole(t, s, "after the handler", func(readingRole) bool { return !srv.pool.handlers.isQuick("back") })
	mustEcho(t, s)
}

// TestQuickHandlerEndsGoroutine checks that a reader's goroutine that a handler ends is
// replaced.
func TestQuickHandlerEndsGoroutine(t *testing.T) {
	var end atomic.Int32
	srv := echoServer(map[string]HandlerFunc{"end": func(context.Context, *Request) (any, error) {
		switch end.Load() {
		case 1:
			runtime.Goexit()
		case 2:
			panic("as wanted")
		}
		return nil, nil
	}})
	s, _ := socketSessions(t, "tcp", srv, nil)
	for how := range int32(2) {
		end.Store(0)
		prove(t, srv, s, "end")
		end.Store(how + 1)
		var e *Error
		if err := s.Call(context.Background(), "end", nil, nil); !errors.As(err, &e) || e.Code != CodeInternalError {
			t.Error(err)
		}
		mustEcho(t, s)
	}
}

// TestUnknownMethodsAreNotKept checks that a peer cannot fill quickHandlers with methods
// that have no handler, and that the number of methods is bounded.
func TestUnknownMethodsAreNotKept(t *testing.T) {
	srv := echoServer(nil)
	s, _ := socketSessions(t, "tcp", srv, nil)
	for range 2 {
		if err := s.Call(context.Background(), strings.Repeat("x", 100), nil, nil); err == nil {
			t.Error("no error")
		}
	}
	mustEcho(t, s)
	mustEcho(t, s) // the first run may not be recorded yet
	if n := srv.pool.handlers.size.Load(); n > 1 {
		t.Errorf("%d methods are known", n)
	}
	var q quickHandlers
	for i := range 2 * maxMethods {
		q.recordRun(string(rune('a'+i%26))+strings.Repeat("x", i/26), 0)
	}
	if n := q.size.Load(); n != maxMethods {
		t.Errorf("%d methods are known, want %d", n, maxMethods)
	}
}

// TestLongMethodsAreNotKept checks that a peer whose requests one handler answers cannot
// fill quickHandlers with long names.
func TestLongMethodsAreNotKept(t *testing.T) {
	var q quickHandlers
	known, long := strings.Repeat("x", maxMethod), strings.Repeat("x", maxMethod+1)
	for range proofRuns {
		q.recordRun(known, 0)
		q.recordRun(long, 0)
	}
	if !q.isQuick(known) || q.isQuick(long) || q.size.Load() != 1 {
		t.Errorf("a method of %d bytes is known: %v, of %d bytes: %v", len(known), q.isQuick(known), len(long), q.isQuick(long))
	}
}

// TestProofOfQuickHandlers checks how many runs a proof needs.
func TestProofOfQuickHandlers(t *testing.T) {
	var q quickHandlers
	runsUntilQuick := func() (n int) {
		for ; !q.isQuick("m"); n++ {
			q.recordRun("m", time.Microsecond)
		}
		return n
	}
	for _, c := range []struct {
		name string
		took time.Duration
		want int
	}{
		{"never run", -1, proofRuns},
		{"longer after the proof", 2 * quickRun, 0},
		{"slow", slowRun, proofRuns + slowProof},
	} {
		if c.took >= 0 {
			q.recordRun("m", c.took)
		}
		if got := runsUntilQuick(); got != c.want {
			t.Errorf("%s: quick after %d runs, want %d", c.name, got, c.want)
		}
	}
	q.recordRun("m", slowRun)
	q.recordRun("m", time.Microsecond)
	q.recordRun("m", 2*quickRun) // no step back: the count is negative
	if got := runsUntilQuick(); got != proofRuns+slowProof-1 {
		t.Errorf("after a slow run and a quick run: quick after %d runs", got)
	}
}

// TestErrorsMetByReadingCallers checks that a bad frame, and the end of the connection, met
// by the goroutine of a call have the same effects as those met by readLoop.
func TestErrorsMetByReadingCallers(t *testing.T) {
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	defer far.Close()
	s := NewSession(near, &Options{Framer: NewlineFramer{MaxSize: 200}})
	answers := make(chan string)
	go func() { // ends with the connection
		for lines := bufio.NewScanner(far); lines.Scan(); {
			var req struct {
				Method string
				ID     json.RawMessage
			}
			if json.Unmarshal(lines.Bytes(), &req) != nil || req.Method == "" {
				continue // the answer to a bad message
			}
			extra := ""
			select {
			case extra = <-answers:
			default:
			}
			if _, err := far.Write([]byte(extra + `{"jsonrpc":"2.0","result":"hi","id":` + string(req.ID) + "}\n")); err != nil {
				return
			}
		}
	}()
	next := func(extra string) {
		t.Helper()
		lend(t, s)
		sent := make(chan struct{})
		go func() { // ends when the peer has taken the text
			answers <- extra
			close(sent)
		}()
		for done := false; !done; {
			mustEcho(t, s)
			select {
			case <-sent:
				done = true
			default:
			}
		}
	}
	next(strings.Repeat("x", 300) + "\n")
	if got := s.Stats().Errors; got != 1 {
		t.Errorf("%d bad messages are counted, want 1", got)
	}
	next(`{"jsonrpc":"2.0","result":1,"id":77777777}` + "\n")
	if got := s.Stats().UnexpectedReplies; got != 1 {
		t.Errorf("%d unexpected replies are counted, want 1", got)
	}
	lend(t, s)
	far.Close()
	if err := s.Call(context.Background(), "echo", Args{"hi"}, nil); !errors.Is(err, ErrConnectionLost) && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	<-s.Done()
}

// TestCloseAtEveryPointOfARole closes both ends while roles change hands.
func TestCloseAtEveryPointOfARole(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 60
	}
	for round := range rounds {
		srv := echoServer(map[string]HandlerFunc{"back": func(ctx context.Context, req *Request) (any, error) {
			return nil, req.Session().Call(ctx, "question", nil, nil)
		}})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() { // ends when the server is closed
			defer close(served)
			srv.Serve(l)
		}()
		s, err := Dial(context.Background(), "tcp://"+l.Addr().String(), &Options{Handler: HandlerFunc(func(context.Context, *Request) (any, error) { return 1, nil })})
		if err != nil {
			t.Fatal(err)
		}
		for range 10 * (round % 10) {
			mustEcho(t, s)
		}
		var running sync.WaitGroup
		for i := range 1 + round%3 {
			running.Go(func() {
				for n := 0; ; n++ {
					method := "echo"
					if i == 2 && n%5 == 0 {
						method = "back"
					}
					ctx, cancel := context.WithCancel(context.Background())
					if n%7 == 6 {
						cancel()
					}
					err := s.Call(ctx, method, Args{"hi"}, nil)
					cancel()
					if errors.Is(err, ErrClosed) || errors.Is(err, ErrConnectionLost) {
						return
					}
					if err != nil && !errors.Is(err, context.Canceled) {
						if _, ok := errors.AsType[*Error](err); !ok {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		for range round % 50 {
			runtime.Gosched()
		}
		switch round % 4 {
		case 0:
			s.Close()
		case 1:
			srv.Close()
		case 2:
			s.Shutdown(context.Background())
		case 3:
			srv.Shutdown(context.Background())
		}
		running.Wait()
		s.Close()
		<-s.Done()
		srv.Close()
		srv.Wait(context.Background())
		<-served
	}
}

// TestIdleSessionsHaveOneGoroutine checks that no goroutine writes in an idle session.
func TestIdleSessionsHaveOneGoroutine(t *testing.T) {
	s, peer := socketSessions(t, "tcp", echoServer(nil), nil)
	for range 3 {
		var running sync.WaitGroup
		for range 8 {
			running.Go(func() { mustEcho(t, s) })
		}
		running.Wait()
		waitForWriter(s)
		waitForWriter(peer)
		stacks := make([]byte, 1<<20)
		for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			n := runtime.Stack(stacks, true)
			if !strings.Contains(string(stacks[:n]), "(*writer).writeLoop") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("a goroutine writes in an idle session:\n%s", stacks[:n])
			}
		}
	}
}

// scratchFramer is a NewlineFramer whose tokens are in memory of the splitter, valid until
// the next call.
type scratchFramer struct{ onSplit func(data []byte, atEOF bool) }

func (f scratchFramer) NewSplitter() bufio.SplitFunc {
	split := NewlineFramer{}.NewSplitter()
	var scratch []byte
	return func(data []byte, atEOF bool) (int, []byte, error) {
		if f.onSplit != nil {
			f.onSplit(data, atEOF)
		}
		for i := range scratch {
			scratch[i] = '#'
		}
		n, token, err := split(data, atEOF)
		if token != nil {
			scratch = append(scratch[:0], token...)
			token = scratch
		}
		return n, token, err
	}
}

func (f scratchFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	return NewlineFramer{}.AppendFrame(dst, msg)
}

// TestTokenIsUsedBeforeTheNextCallOfTheSplitter checks the contract of Framer with replies
// that arrive together.
func TestTokenIsUsedBeforeTheNextCallOfTheSplitter(t *testing.T) {
	for _, size := range []int{10, 1000, 5000, 100_000} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		text := strings.Repeat("x", size)
		go func() { // ends with the connection
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			for {
				var out bytes.Buffer
				for range 4 {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					id := line[strings.Index(line, `"id":`)+5:]
					id = id[:strings.IndexAny(id, ",}")]
					fmt.Fprintf(&out, `{"jsonrpc":"2.0","id":%s,"result":"%s"}`+"\n", id, text)
				}
				conn.Write(out.Bytes())
			}
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s := NewSession(conn, &Options{Framer: scratchFramer{}})
		for range 50 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			var fs []*Future
			for range 3 {
				fs = append(fs, s.Go(ctx, "m", nil))
			}
			var got string
			if err := s.Call(ctx, "m", nil, &got); err != nil || got != text {
				t.Fatalf("%d: call: %.50q, %v", size, got, err)
			}
			for _, f := range fs {
				if err := f.Wait(ctx, &got); err != nil || got != text {
					t.Fatalf("%d: %.50q, %v", size, got, err)
				}
			}
			cancel()
		}
		s.Close()
		<-s.Done()
	}
}

// TestSplitterGetsNoEmptyData checks the contract of bufio.SplitFunc, "never called with an
// empty data slice unless atEOF is true", where reads are interrupted and at the close.
func TestSplitterGetsNoEmptyData(t *testing.T) {
	var empty atomic.Bool
	srv := echoServer(map[string]HandlerFunc{"block": func(ctx context.Context, _ *Request) (any, error) {
		time.Sleep(5 * time.Millisecond)
		return nil, nil
	}})
	s, _ := socketSessions(t, "tcp", srv, &Options{Framer: scratchFramer{func(data []byte, atEOF bool) {
		if len(data) == 0 && !atEOF {
			empty.Store(true)
		}
	}}})
	for range 20 {
		lend(t, s)
		if err := s.Call(context.Background(), "block", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if empty.Load() {
		t.Error("the splitter was called without data")
	}
	s.Close()
	<-s.Done()
	if empty.Load() {
		t.Error("the splitter was called without data at the close")
	}
}

// TestReadDeadlineOfUser checks that a deadline that the user has set is no interruption of
// a read.
func TestReadDeadlineOfUser(t *testing.T) {
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	defer far.Close()
	near.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	s := NewSession(near, nil)
	<-s.Done()
	if err := s.Err(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the session ends with %v", err)
	}
}

// rawPeer returns a session over TCP to a peer that answers each request with the result of
// answer, or with {"result":"hi"} if that is empty. %s in the answer is the id.
func rawPeer(t *testing.T, opts *Options, answer func(method string) string) *Session {
	t.Helper()
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	s := NewSession(near, opts)
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
		far.Close()
	})
	go func() { // ends with the connection
		for lines := bufio.NewScanner(far); lines.Scan(); {
			var req struct {
				Method string
				ID     json.RawMessage
			}
			if json.Unmarshal(lines.Bytes(), &req) != nil || req.Method == "" {
				continue
			}
			text := answer(req.Method)
			if text == "" {
				text = `{"jsonrpc":"2.0","result":"hi","id":%s}` + "\n"
			}
			if _, err := far.Write([]byte(strings.ReplaceAll(text, "%s", string(req.ID)))); err != nil {
				return
			}
		}
	}()
	return s
}

// TestReadingCallerLeavesRoleAtFullQueue checks that a caller that reads takes no more
// requests than readLoop does before a pause.
func TestReadingCallerLeavesRoleAtFullQueue(t *testing.T) {
	release := make(chan struct{})
	s := rawPeer(t, &Options{Limits: Limits{Concurrency: 1, Queue: 10}, Handler: HandlerFunc(func(context.Context, *Request) (any, error) {
		<-release
		return nil, nil
	})}, func(method string) string {
		if method == "flood" {
			return strings.Repeat(`{"jsonrpc":"2.0","method":"n"}`+"\n", 150)
		}
		return ""
	})
	lend(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // ends by cancel
		s.Call(ctx, "flood", nil, nil)
		close(ended)
	}()
	for s.Stats().Pauses == 0 {
		time.Sleep(time.Millisecond)
	}
	if n := s.Stats().Queued; n > 20 {
		t.Errorf("%d requests are queued, the limit is 10", n)
	}
	cancel()
	<-ended
	close(release)
}

// panickingProtocol panics when the goroutine of a call decodes the result "panic".
type panickingProtocol struct {
	Protocol
	session *atomic.Pointer[Session]
}

func (p panickingProtocol) Decode(m *Message, msg []byte, maxBatch int) {
	if bytes.Contains(msg, []byte(`"panic"`)) && roleOf(p.session.Load()).caller != nil {
		panic("panickingProtocol")
	}
	p.Protocol.Decode(m, msg, maxBatch)
}

// TestPanicOfReadingCaller checks that a session ends if the goroutine of a call panics as
// reader and recovers: messages are lost.
func TestPanicOfReadingCaller(t *testing.T) {
	var session atomic.Pointer[Session]
	s := rawPeer(t, &Options{Protocol: panickingProtocol{JSONRPCv2, &session}}, func(method string) string {
		if method == "panic" {
			return `{"jsonrpc":"2.0","result":"panic","id":%s}` + "\n"
		}
		return ""
	})
	session.Store(s)
	for panicked := false; !panicked; {
		lend(t, s)
		func() {
			defer func() { panicked = recover() != nil }()
			s.Call(context.Background(), "panic", nil, nil)
		}()
	}
	<-s.Done()
	if err := s.Err(); !errors.Is(err, errReaderPanicked) {
		t.Errorf("the session ends with %v", err)
	}
}

// TestHalfClosedSessionKeepsNoInput checks that a session gives back the input buffer when
// the peer has finished sending.
func TestHalfClosedSessionKeepsNoInput(t *testing.T) {
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	defer far.Close()
	s := NewSession(near, nil)
	far.(*net.TCPConn).CloseWrite()
	<-s.Done()
	if buf := s.conn.(*stream).buf; buf != nil {
		t.Errorf("the session keeps %d bytes", len(buf))
	}
}

// TestLendTime checks that lending takes longer as long as the role is lent again, and that
// a vacancy that lasts begins anew.
func TestLendTime(t *testing.T) {
	s, _ := socketSessions(t, "tcp", echoServer(nil), nil)
	for range 2 {
		for role := (readingRole{}); role.lendTime != maxLendTime; role = roleOf(s) {
			mustEcho(t, s)
		}
		for end := time.Now().Add(10 * time.Second); roleOf(s).lendTime == maxLendTime; lend(t, s) {
			if time.Now().After(end) {
				t.Fatalf("lending does not begin anew: %+v", roleOf(s))
			}
			waitForRole(t, s, "without calls", func(role readingRole) bool { return isHeldByLoop(role) && !role.watched })
		}
	}
}
