package rpcx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
)

// cut has nothing arrive at the connections any more, and nothing tell them so: as if
// the network between them were gone.
func cut(t *testing.T, conns ...net.Conn) {
	t.Helper()
	for _, conn := range conns {
		raw, err := conn.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		drop := []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K}} // all but the first 0 bytes
		raw.Control(func(fd uintptr) {
			//lint:ignore SA1019 its alternative is in a module that nothing else here needs
			err = syscall.AttachLsf(int(fd), drop)
		})
		if err != nil {
			t.Skipf("attach a filter to a socket: %v", err)
		}
	}
}

// hangs calls a method that has no end.
func hangs(s *rpcx.Session) *rpcx.Future { return s.Go(context.Background(), "hang", nil) }

func TestDeadNetworkIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	const second = time.Second
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		// Both may make a call, before and after the network is gone.
		before, after func(s *rpcx.Session) *rpcx.Future
	}{
		{"nothing is under way", rpcx.Limits{KeepAlive: second}, nil, nil},
		{"a call is pending", rpcx.Limits{KeepAlive: second}, hangs, nil},
		{"a call is not acknowledged", rpcx.Limits{KeepAlive: second}, nil, hangs},
		{"much is not acknowledged", rpcx.Limits{KeepAlive: second}, hangs, func(s *rpcx.Session) *rpcx.Future {
			go func() {
				for s.Notify(context.Background(), "m", rpcx.Args{strings.Repeat("x", 10_000)}) == nil {
				}
			}()
			return nil
		}},
		{"by a method", rpcx.Limits{KeepAlive: second, KeepAliveMethod: "alive"}, hangs, nil},
		// What takes no less than SendTimeout the operating system sees by itself.
		{"beyond SendTimeout", rpcx.Limits{KeepAlive: second, SendTimeout: 3 * second}, nil, hangs},
		{"by a method, beyond SendTimeout", rpcx.Limits{KeepAlive: second, KeepAliveMethod: "alive", SendTimeout: 2 * second}, hangs, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			peer := rpcx.NewSession(far, handling(methods{"hang": hang}))
			c.limits.RequestTimeout = time.Minute
			s := rpcx.NewSession(near, &rpcx.Options{Limits: c.limits})
			defer func() { s.Close(); peer.Close(); <-s.Done(); <-peer.Done() }()
			var calls []*rpcx.Future
			if c.before != nil {
				calls = append(calls, c.before(s))
				time.Sleep(100 * time.Millisecond) // until it is acknowledged
			}
			cut(t, near, far)
			start := time.Now()
			if c.after != nil {
				calls = append(calls, c.after(s))
			}
			select {
			case <-s.Done():
			case <-time.After(20 * second):
				t.Fatal("the session goes on")
			}
			t.Logf("it took %v", time.Since(start)) // the kernel's time, without a limit on a busy machine
			matches(t, s.Err(), rpcx.ErrUnreachable)
			for _, f := range calls {
				if f != nil {
					lost(t, f.Wait(t.Context(), nil), true, rpcx.ErrUnreachable)
				}
			}
		})
	}
}

// What is slow is not dead.
func TestLiveNetworkIsNotTakenForDead(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	const patience = 5 * time.Second // more than three times KeepAlive
	limits := rpcx.Limits{KeepAlive: time.Second}
	t.Run("a peer that does not read", func(t *testing.T) {
		t.Parallel()
		near, far := socketPair(t, "tcp", "127.0.0.1:0")
		s := rpcx.NewSession(near, &rpcx.Options{Limits: limits})
		const n = 1000
		for range n {
			go s.Notify(context.Background(), "m", rpcx.Args{strings.Repeat("x", 10_000)})
		}
		time.Sleep(patience)
		if stats := s.Stats(); stats.OutboxBytes == 0 {
			t.Errorf("nothing waits for the peer to read: %+v", stats)
		}
		peer := rpcx.NewSession(far, handling(methods{}))
		for deadline := time.Now().Add(20 * time.Second); peer.Stats().MessagesReceived < n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d have come; the session: %v", peer.Stats().MessagesReceived, n, s.Err())
			}
		}
		s.Close()
		<-s.Done()
		<-peer.Done()
	})
	t.Run("ten long polls", func(t *testing.T) {
		t.Parallel()
		near, far := socketPair(t, "tcp", "127.0.0.1:0")
		s := rpcx.NewSession(near, &rpcx.Options{Limits: limits})
		peer := rpcx.NewSession(far, &rpcx.Options{Handler: slow(patience), Limits: limits})
		var polls []*rpcx.Future
		for range 10 {
			polls = append(polls, s.Go(t.Context(), "m", nil))
		}
		for _, f := range polls {
			if err := f.Wait(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
		s.Close()
		<-s.Done()
		<-peer.Done()
	})
	t.Run("a session that has paused", func(t *testing.T) {
		t.Parallel()
		near, far := socketPair(t, "tcp", "127.0.0.1:0")
		s := rpcx.NewSession(near, &rpcx.Options{Limits: limits})
		var handled atomic.Int64
		peer := rpcx.NewSession(far, &rpcx.Options{Handler: rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			handled.Add(1)
			return nil, nil
		}), Limits: rpcx.Limits{KeepAlive: time.Second, Concurrency: 1}})
		const n = 40_000 // more than the buffers between them hold
		go func() {
			for range n {
				if s.Notify(context.Background(), "m", rpcx.Args{strings.Repeat("x", 1000)}) != nil {
					return
				}
			}
		}()
		time.Sleep(patience)
		if stats := peer.Stats(); stats.Paused < patience/2 || handled.Load() < 3 || stats.NotificationsDropped > 0 {
			t.Errorf("%d were handled, and stats are %+v", handled.Load(), stats)
		}
		select {
		case <-s.Done():
			t.Errorf("it ended with %v", s.Err())
		case <-peer.Done():
			t.Errorf("the other ended with %v", peer.Err())
		default:
		}
		s.Close()
		peer.Close()
		<-s.Done()
		<-peer.Done()
	})
}

// TCP_USER_TIMEOUT counts the time in which the peer does not read, too.
func TestUserTimeoutIsNeverBelowSendTimeout(t *testing.T) {
	for _, c := range []struct {
		limits rpcx.Limits
		want   time.Duration // 0 if it is not set
	}{
		{rpcx.Limits{}, 45 * time.Second},
		{rpcx.Limits{KeepAlive: time.Second}, 0},
		{rpcx.Limits{KeepAlive: 7 * time.Second}, 21 * time.Second},
		{rpcx.Limits{KeepAlive: 7 * time.Second, KeepAliveMethod: "alive"}, 0},
		{rpcx.Limits{KeepAlive: 10 * time.Second, KeepAliveMethod: "alive"}, 20 * time.Second},
		{rpcx.Limits{KeepAlive: time.Hour, SendTimeout: -1}, 0},
		{rpcx.Limits{KeepAlive: -1}, 0},
	} {
		near, far := socketPair(t, "tcp", "127.0.0.1:0")
		s := rpcx.NewSession(near, &rpcx.Options{Limits: c.limits})
		raw, err := near.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, 18) })
		if err != nil || time.Duration(got)*time.Millisecond != c.want {
			t.Errorf("for %v it is %d ms, %v", c.limits.KeepAlive, got, err)
		}
		far.Close()
		<-s.Done()
	}
}

func TestErrorsOfLinuxThatPass(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENONET, syscall.ENOSR, syscall.ESOCKTNOSUPPORT, syscall.EPROTONOSUPPORT} {
		for name, err := range acceptErrorsOf(errno) {
			t.Run(errno.Error()+", "+name, func(t *testing.T) { serveSurvives(t, err) })
		}
	}
}

// A name in the abstract namespace has no file, and is free when its owner is gone.
func TestUnixSocketWithoutAFile(t *testing.T) {
	noLeak(t)
	name := fmt.Sprintf("@rpcx/%d/%s", os.Getpid(), t.Name())
	t.Chdir(t.TempDir())
	for range 2 {
		srv := serveUnix(t, listenUnix(t, name))
		if !answersAt(t, name) {
			t.Error("nobody answers")
		}
		if _, err := rpcx.Listen(t.Context(), "unix://"+name, nil); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second one: %v", err)
		}
		srv.Close()
		srv.Wait(context.Background())
	}
	if entries, err := os.ReadDir("."); err != nil || len(entries) > 0 {
		t.Errorf("there are files: %v, %v", entries, err)
	}
}

// A flood of silent connections gets no honest handshake refused, whether it comes from
// the same address or from another, and also where a listener hides what it accepts.
func TestSilentConnectionsLockNobodyOut(t *testing.T) {
	type hiding struct{ net.Conn }
	asItIs := func(l net.Listener, config *tls.Config) net.Listener { return tls.NewListener(l, config) }
	within := func(l net.Listener, config *tls.Config) net.Listener {
		return tls.NewListener(wrapping{l, func(c net.Conn) net.Conn { return hiding{c} }}, config)
	}
	around := func(l net.Listener, config *tls.Config) net.Listener {
		return wrapping{tls.NewListener(l, config), func(c net.Conn) net.Conn { return &hiding{c} }}
	}
	for name, c := range map[string]struct {
		addr   string // of the flood
		listen func(net.Listener, *tls.Config) net.Listener
	}{
		"from another address":              {"127.1.2.3", asItIs},
		"from the same address":             {"127.0.0.1", asItIs},
		"from the same, wrapped within TLS": {"127.0.0.1", within},
		"from the same, wrapped around TLS": {"127.0.0.1", around},
		"from another, wrapped around TLS":  {"127.1.2.3", around},
	} {
		t.Run(name, func(t *testing.T) {
			secure, client := certificate(t)
			client = client.Clone()
			client.ServerName = "example.com"
			srv := &rpcx.Server{MaxHandshakes: 32, Options: *handling(methods{"reply": reply})}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(c.listen(l, secure)) }()
			defer func() { srv.Close(); srv.Wait(t.Context()); <-served }()
			var silent []net.Conn
			defer func() {
				for _, conn := range silent {
					conn.Close()
				}
			}()
			attack := func(n int) {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.addr)}}
				for range n {
					conn, err := d.Dial("tcp", l.Addr().String())
					if err != nil {
						t.Fatal(err)
					}
					silent = append(silent, conn)
				}
			}
			attack(64) // twice what there is room for
			for range 20 {
				conn, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				attack(8) // between the connection and its handshake
				secured := tls.Client(conn, client)
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				if err := secured.Handshake(); err != nil {
					t.Fatalf("an honest handshake fails: %v", err)
				}
				conn.SetDeadline(time.Time{})
				s := rpcx.NewSession(secured, nil)
				if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
					t.Errorf("the call: %v", err)
				}
				s.Close()
				<-s.Done()
			}
			if got := srv.Stats(); got.Handshakes > 32 || got.Refused["Server.MaxHandshakes"] < 100 {
				t.Errorf("stats are %+v", got)
			}
		})
	}
}
