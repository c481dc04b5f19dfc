package rpcx

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// socketPair returns the two ends of a connection of the operating system.
func socketPair(t *testing.T, network, addr string) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial(network, l.Addr().String()); err == nil {
		near, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// What a peer reads is progress, though the writer waits for more room than that makes.
func TestWhatTheSystemSendsIsProgress(t *testing.T) {
	if !canSeeUnsent {
		t.Skip("the operating system does not tell what it has not sent")
	}
	web := httptest.NewTLSServer(nil) // has a certificate for tests
	defer web.Close()
	for name, connect := range map[string]func() (near, far, raw net.Conn){
		"TCP": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "tcp", "127.0.0.1:0")
			return near, far, near
		},
		"unix": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
			return near, far, near
		},
		"TLS": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "tcp", "127.0.0.1:0")
			secured := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
			server := tls.Server(near, web.TLS)
			// Owner: the test. End: the handshake.
			go server.Handshake()
			if err := secured.Handshake(); err != nil {
				t.Fatal(err)
			}
			return server, secured, near
		},
		"a tunnel": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "tcp", "127.0.0.1:0")
			return &SOCKSConn{Conn: near}, far, near
		},
	} {
		t.Run(name, func(t *testing.T) {
			near, far, raw := connect()
			defer far.Close()
			unsent := func() int {
				n, ok := unsentBytes(socketUnder(raw))
				if !ok {
					t.Fatal("the system does not tell what is unsent")
				}
				return n
			}
			s := NewSession(near, &Options{Framer: NewlineFramer{MaxSize: -1}, Limits: Limits{SendTimeout: time.Hour}})
			defer func() {
				s.Close()
				far.Close()
				<-s.Done()
			}()
			if err := s.Notify(context.Background(), "m", Args{strings.Repeat("x", 32<<20)}); err != nil {
				t.Fatal(err)
			}
			for last, equal := -1, 0; equal < 100; { // until the system takes no more
				if n := unsent(); n > 0 && n == last {
					equal++
				} else {
					last, equal = n, 0
				}
				time.Sleep(time.Millisecond)
			}

			// restarted reports whether the time of the write begins anew in so many
			// minutes, in which it would not by itself.
			restarted := func(minutes time.Duration) bool {
				s.lock()
				defer s.unlock()
				now := s.now() + minutes*time.Minute
				s.checkSentLocked(now)
				return s.out.writeBy == now+time.Hour
			}
			if restarted(1) || restarted(10) {
				t.Fatal("there is progress, and nothing was read")
			}
			before, read := unsent(), 0
			for before-unsent() < writeChunk {
				n, err := io.CopyN(io.Discard, far, 4<<10)
				if read += int(n); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("the queue of %d bytes has fallen to %d when %d were read", before, unsent(), read)
			if !restarted(30) {
				t.Error("what was read is no progress")
			}
			if restarted(31) || restarted(89) {
				t.Error("it is progress twice")
			}
		})
	}
}

func TestProgressIsARate(t *testing.T) {
	const timeout = 20 * time.Second
	for _, c := range []struct {
		name   string
		fallen int
		after  time.Duration
		want   bool
	}{
		{"nothing", 0, timeout, false},
		{"nothing, at once", 0, 0, false},
		{"the queue has grown", -100_000, timeout, false},
		{"a chunk in the whole time", writeChunk, timeout, true},
		{"a byte less", writeChunk - 1, timeout, false},
		{"half of it in half of the time", writeChunk / 2, timeout / 2, true},
		{"much at once", 1 << 20, time.Millisecond, true},
	} {
		if got := isProgress(c.fallen, c.after, timeout); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// What carries no socket has no queue to look at.
func TestNoSocketUnderAConnection(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, conn := range []net.Conn{nil, a, tls.Client(a, &tls.Config{}), &SOCKSConn{Conn: a}} {
		if raw := socketUnder(conn); raw != nil {
			t.Errorf("under a %T there is %v", conn, raw)
		}
	}
}
