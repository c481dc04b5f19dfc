package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// notes returns n notifications, each a line.
func notes(n int) []byte {
	return []byte(strings.Repeat(`{"jsonrpc":"2.0","method":"note"}`+"\n", n))
}

// A peer that notifies and closes is heard, whatever OnSession does meanwhile.
func TestNotificationsBeforeTheCloseAreHandled(t *testing.T) {
	transports := map[string]func(t *testing.T) (near, far io.ReadWriteCloser){
		"TCP": func(t *testing.T) (near, far io.ReadWriteCloser) { return socketPair(t, "tcp", "127.0.0.1:0") },
		"unix": func(t *testing.T) (near, far io.ReadWriteCloser) {
			return socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
		},
		"TLS":       func(t *testing.T) (near, far io.ReadWriteCloser) { return tlsPair(t) },
		"pipe":      func(*testing.T) (near, far io.ReadWriteCloser) { return net.Pipe() },
		"two pipes": func(*testing.T) (near, far io.ReadWriteCloser) { return newHalves() },
	}
	for transport, pair := range transports {
		for name, onSession := range map[string]func(s *rpcx.Session, closed <-chan struct{}){
			"returns at once":               func(*rpcx.Session, <-chan struct{}) {},
			"returns when the peer is gone": func(s *rpcx.Session, closed <-chan struct{}) { <-closed },
			"waits for a reply": func(s *rpcx.Session, _ <-chan struct{}) {
				err := s.Call(context.Background(), "m", nil, nil)
				if !errors.Is(err, rpcx.ErrConnectionLost) || s.Err() == nil {
					t.Errorf("the call fails with %v, and Err says %v", err, s.Err())
				}
			},
			"speaks to who is gone": func(s *rpcx.Session, closed <-chan struct{}) {
				<-closed
				for s.Notify(context.Background(), "greeting", rpcx.Args{strings.Repeat("x", 1000)}) == nil {
				}
			},
		} {
			t.Run(transport+": OnSession "+name, func(t *testing.T) {
				t.Parallel()
				for range 20 {
					var handled atomic.Int32
					closed := make(chan struct{})
					srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { onSession(s, closed) }}
					srv.Options.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
						handled.Add(1)
						return nil, nil
					})
					near, far := pair(t)
					go func() {
						defer close(closed)
						defer far.Close()
						_, _ = far.Write(notes(50))
					}()
					s := srv.ServeConn(near)
					srv.Wait(t.Context())
					if n := handled.Load(); n != 50 || s.Stats().NotificationsDropped != 0 {
						t.Fatalf("%d of 50 were handled, and %d dropped; it ended with %v", n, s.Stats().NotificationsDropped, s.Err())
					}
				}
			})
		}
	}
}

// What waits for OnSession longer than it may is dropped, and then nothing holds the
// session up.
func TestNotificationsThatOnSessionHoldsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { <-s.Done() }}
		srv.Options = rpcx.Options{Logger: slog.New(log), Limits: rpcx.Limits{ProcessingTimeout: time.Minute}}
		near, far := net.Pipe()
		s := srv.ServeConn(near)
		far.Write(notes(3))
		far.Close()
		takes(t, time.Minute, func() { srv.Wait(t.Context()) })
		if n := s.Stats().NotificationsDropped; n != 3 {
			t.Errorf("%d were dropped", n)
		}
		if got := log.attr("method"); !slices.Equal(got, []string{"note", "note", "note"}) {
			t.Errorf("the log tells of %q", got)
		}
	})
}

// cutOff is a connection whose writes fail from some moment on.
type cutOff struct {
	net.Conn
	fails atomic.Bool
}

func (c *cutOff) Write(p []byte) (int, error) {
	if c.fails.Load() {
		return 0, errors.New("the cable is cut")
	}
	return c.Conn.Write(p)
}

// Notifications that wait are counted and logged, whatever ends their session.
func TestDroppedNotificationsAreCounted(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, srv *rpcx.Server, s *rpcx.Session, c *cutOff, far net.Conn){
		"Close":              func(_ *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *cutOff, _ net.Conn) { s.Close() },
		"the server's Close": func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *cutOff, _ net.Conn) { srv.Close() },
		"Shutdown": func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *cutOff, _ net.Conn) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			s.Shutdown(ctx)
		},
		"a broken connection": func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, c *cutOff, _ net.Conn) {
			c.fails.Store(true)
			s.Notify(t.Context(), "note", nil)
		},
		"bad framing": func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, _ *cutOff, far net.Conn) {
			far.Write([]byte("Content-Length: none\r\n\r\n"))
		},
		"a handler that finds it too costly": func(_ *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *cutOff, _ net.Conn) {
			s.BumpCost(1e9)
			s.UpdateCost()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				srv := &rpcx.Server{Options: rpcx.Options{
					Handler: methods{"hang": hang}, Framer: rpcx.HeaderFramer{}, Logger: slog.New(log),
					Limits: rpcx.Limits{Concurrency: 1},
				}}
				near, far := net.Pipe()
				c := &cutOff{Conn: near}
				s := srv.ServeConn(c)
				go io.Copy(io.Discard, far)
				note := `{"jsonrpc":"2.0","method":"note"}`
				for _, msg := range []string{`{"jsonrpc":"2.0","method":"hang","id":0}`, note, "[" + note + "," + note + "," + ask("m", 1) + "]", note} {
					fmt.Fprintf(far, "Content-Length: %d\r\n\r\n%s", len(msg), msg)
				}
				synctest.Wait()
				end(t, srv, s, c, far)
				<-s.Done()
				if n := s.Stats().NotificationsDropped; n != 4 {
					t.Errorf("%d were dropped, want 4", n)
				}
				if got := log.take(); !slices.ContainsFunc(got, func(r string) bool { return strings.Contains(r, "dropped") || strings.Contains(r, "refused") }) {
					t.Errorf("the log has %q", got)
				}
				far.Close()
				srv.Close()
				srv.Wait(t.Context())
			})
		})
	}
}

// Whoever learns of the end can ask for its reason, and finds the server without the
// session.
func TestEndIsKnownToWhoLearnsOfIt(t *testing.T) {
	for name, end := range map[string]func(s *rpcx.Session, far net.Conn){
		"Close":             func(s *rpcx.Session, _ net.Conn) { s.Close() },
		"the peer":          func(_ *rpcx.Session, far net.Conn) { far.Close() },
		"the peer, by half": func(_ *rpcx.Session, far net.Conn) { far.(*net.TCPConn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			srv := &rpcx.Server{}
			s := srv.ServeConn(near)
			type seen struct {
				err  error
				live int
			}
			called := make(chan seen, 1)
			s.OnClose(func(err error) {
				live := 0
				for range srv.Sessions() {
					live++
				}
				if s.Err() != err {
					err = fmt.Errorf("OnClose is given %v, Err says %w", err, s.Err())
				}
				called <- seen{err, live + srv.Stats().Sessions}
			})
			if err := s.Err(); err != nil {
				t.Errorf("while it is live Err says %v", err)
			}
			f := s.Go(t.Context(), "m", nil)
			errs := make(chan error, 1)
			f.OnDone(func(*rpcx.Future) { errs <- s.Err() })
			end(s, far)
			if err := <-errs; err == nil {
				t.Errorf("the call failed with %v, and Err says nothing", f.Err())
			}
			if got := <-called; got.err == nil || strings.Contains(got.err.Error(), "is given") || got.live != 0 {
				t.Errorf("OnClose saw %v and %d sessions", got.err, got.live)
			}
			srv.Wait(t.Context())
		})
	}
}
