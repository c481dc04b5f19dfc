package rpcx

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// hear returns the lines that come over conn.
func hear(conn net.Conn) <-chan string {
	lines := make(chan string, 100)
	// Owner: the test. End: the connection is closed.
	go func() {
		for r := bufio.NewScanner(conn); r.Scan(); {
			lines <- r.Text()
		}
		close(lines)
	}()
	return lines
}

// next returns the next line, "" if none comes within a second.
func next(lines <-chan string) string {
	select {
	case line := <-lines:
		return line
	case <-time.After(time.Second):
		return ""
	}
}

// A request that a nearly full server holds back, until a message is written, is handled
// then, even if a handler waits for a reply of the peer.
func TestWrittenMessageWakesWorkerBesideTiedHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{MaxQueuedBytes: 1 << 20}
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			if req.Method == "outer" {
				return nil, req.Session().Call(ctx, "question", nil, nil)
			}
			return "inner", nil
		})
		near, far := net.Pipe()
		srv.ServeConn(near)
		srv.load.bytes.Store(1 << 20 / 4 * 3)
		fmt.Fprintln(far, `{"jsonrpc":"2.0","method":"outer","id":1}`)
		fmt.Fprintln(far, `{"jsonrpc":"2.0","method":"inner","id":2}`)
		synctest.Wait() // the question is being written
		lines := hear(far)
		if line := next(lines); !strings.Contains(line, "question") {
			t.Fatalf("got %q", line)
		}
		if line := next(lines); !strings.Contains(line, "inner") {
			t.Errorf("got %q, want the second reply", line)
		}
		far.Close()
		srv.load.bytes.Store(0)
		srv.Wait(context.Background())
	})
}

// A handler that waits for a reply of its peer does not hold up what the peer asks before,
// however large its own request is. What other sessions handle does, until it is over.
func TestHandledBytesDoNotHoldUpNestedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		srv := &Server{MaxHandledBytes: 50_000}
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			switch req.Method {
			case "outer":
				return nil, req.Session().Call(ctx, "question", nil, nil)
			case "other":
				<-open
			}
			return "inner", nil
		})
		send := func(conn net.Conn, method string, id, size int) {
			fmt.Fprintf(conn, `{"jsonrpc":"2.0","method":"%s","params":["%s"],"id":%d}`+"\n", method, strings.Repeat("x", size), id)
			synctest.Wait()
		}
		near, far := net.Pipe()
		srv.ServeConn(near)
		lines := hear(far)
		send(far, "outer", 1, 60_000)
		if line := next(lines); !strings.Contains(line, "question") {
			t.Fatalf("got %q", line)
		}
		send(far, "inner", 2, 30_000)
		if line := next(lines); !strings.Contains(line, "inner") {
			t.Errorf("got %q, want the second reply", line)
		}
		otherNear, otherFar := net.Pipe()
		srv.ServeConn(otherNear)
		hear(otherFar)
		send(otherFar, "other", 1, 24_000) // its share is 25,000
		send(far, "inner", 3, 30_000)
		if line := next(lines); line != "" {
			t.Errorf("got %q beside the handler of another session", line)
		}
		close(open)
		if line := next(lines); !strings.Contains(line, "inner") {
			t.Errorf("got %q, want the third reply", line)
		}
		far.Close()
		otherFar.Close()
		srv.Wait(context.Background())
		if n := srv.Stats().HandledBytes; n != 0 || len(srv.load.blocked) != 0 {
			t.Errorf("afterwards %d bytes are handled, and %d sessions blocked", n, len(srv.load.blocked))
		}
	})
}

// A negative cost of handlers' errors switches it off, as it does any limit.
func TestNegativeCostOfHandlerErrorIsNone(t *testing.T) {
	if cost := (Limits{CostHandlerError: -1}).resolved(RoleServer).CostHandlerError; cost != 0 {
		t.Errorf("an error costs %v", cost)
	}
}

// sessionError is an error whose text needs the session.
type sessionError struct{ session *atomic.Pointer[Session] }

func (e sessionError) Error() string {
	return fmt.Sprint("bytes sent: ", e.session.Load().Stats().BytesSent)
}

// failingFramer is a framer whose errors are the user's own.
type failingFramer struct {
	NewlineFramer
	err error
}

func (f failingFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	if bytes.Contains(msg, []byte("error")) || bytes.Contains(msg, []byte("cancel")) {
		return dst, f.err
	}
	return f.NewlineFramer.AppendFrame(dst, msg)
}

// Texts of the user's errors are asked for without the lock (I5).
func TestTextsOfErrorsMayNeedTheSession(t *testing.T) {
	for name, use := range map[string]func(s *Session, far net.Conn){
		"a reply to what is wrong": func(_ *Session, far net.Conn) { fmt.Fprintln(far, `{"jsonrpc":"2.0","id":7}`) },
		"a cancellation": func(s *Session, _ net.Conn) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = s.Call(ctx, "m", nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var session atomic.Pointer[Session]
			near, far := net.Pipe()
			hear(far)
			srv := &Server{Options: Options{
				Framer:       failingFramer{err: sessionError{&session}},
				Logger:       slog.New(slog.NewTextHandler(io.Discard, nil)),
				Cancellation: RPCCancellation,
			}}
			s := srv.ServeConn(near)
			session.Store(s)
			done := make(chan struct{})
			// Owner: the test. End: use and Stats return.
			go func() {
				use(s, far)
				time.Sleep(10 * time.Millisecond)
				s.Stats()
				close(done)
			}()
			select {
			case <-done:
				s.Close()
				<-s.Done()
			case <-time.After(5 * time.Second):
				t.Error("the session hangs")
			}
		})
	}
}
