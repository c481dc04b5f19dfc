package rpcx

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A handler that returns wakes as many blocked sessions as can go on, and not all of them.
func TestHandlersThatReturnWakeFewSessions(t *testing.T) {
	const sessions, size = 50, 40_000
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		var handled atomic.Int64
		srv := &Server{MaxHandledBytes: 2*size + size/2}
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			handled.Add(1)
			<-open
			return nil, nil
		})
		var conns []net.Conn
		for range sessions {
			near, far := net.Pipe()
			srv.ServeConn(near)
			// Owner: the test. End: the connection is closed.
			go io.Copy(io.Discard, far)
			fmt.Fprintf(far, `{"jsonrpc":"2.0","method":"m","params":["%s"],"id":1}`+"\n", strings.Repeat("x", size))
			synctest.Wait()
			conns = append(conns, far)
		}
		l := &srv.load
		blocked := func() int {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.blocked)
		}
		for done := 2; done <= sessions; done++ {
			if n := handled.Load(); n != int64(done) {
				t.Fatalf("%d handlers were called when %d may run", n, done)
			}
			if n := blocked(); n != sessions-done {
				t.Fatalf("%d sessions are blocked, want %d", n, sessions-done)
			}
			before := make(map[*Session]int)
			l.mu.Lock()
			for i, s := range l.blocked {
				before[s] = i
			}
			l.mu.Unlock()
			open <- struct{}{}
			synctest.Wait()
			l.mu.Lock()
			for i, s := range l.blocked { // who is not woken keeps the place in the line
				if want, ok := before[s]; !ok || i != want-1 {
					t.Errorf("the session at %d was at %d, of %d", i, want, len(before))
				}
			}
			l.mu.Unlock()
		}
		close(open)
		synctest.Wait()
		if n := l.handling.Load(); n != 0 {
			t.Errorf("%d bytes are handled afterwards", n)
		}
		for _, c := range conns {
			c.Close()
		}
		srv.Wait(context.Background())
	})
}

// Room that a session does not need any more is others', who wait for it.
func TestRoomThatIsNotUsedIsPassedOn(t *testing.T) {
	const size = 40_000
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		handled := make(chan string, 10)
		srv := &Server{MaxHandledBytes: size + size/2}
		srv.Options.Limits.ProcessingTimeout = time.Minute
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			handled <- string(req.ID)
			<-open // and does not heed its context
			return nil, nil
		})
		var conns []net.Conn
		ask := func(id int) {
			near, far := net.Pipe()
			srv.ServeConn(near)
			// Owner: the test. End: the connection is closed.
			go io.Copy(io.Discard, far)
			fmt.Fprintf(far, `{"jsonrpc":"2.0","method":"m","params":["%s"],"id":%d}`+"\n", strings.Repeat("x", size), id)
			synctest.Wait()
			conns = append(conns, far)
		}
		ask(1) // runs
		ask(2) // times out
		ask(3) // ends
		time.Sleep(time.Minute)
		ask(4)
		ask(5)
		conns[2].Close()
		synctest.Wait()
		open <- struct{}{}
		synctest.Wait()
		close(open)
		synctest.Wait()
		close(handled)
		var got []string
		for id := range handled {
			got = append(got, id)
		}
		if fmt.Sprint(got) != "[1 4 5]" {
			t.Errorf("handled were %v", got)
		}
		if n := srv.load.handling.Load(); n != 0 || len(srv.load.blocked) != 0 {
			t.Errorf("afterwards %d bytes are handled, and %d sessions blocked", n, len(srv.load.blocked))
		}
		for _, c := range conns {
			c.Close()
		}
		srv.Wait(context.Background())
	})
}
