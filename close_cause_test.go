package rpcx_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// tellingConn is a MessageConn that is told why it is closed.
type tellingConn struct {
	*chanConn
	errs  chan error // of ReadMessage
	takes time.Duration
	told  []error
	plain int // calls of Close
}

func newTellingConn() *tellingConn {
	return &tellingConn{chanConn: newChanConn(), errs: make(chan error)}
}

func (c *tellingConn) ReadMessage() ([]byte, error) {
	select {
	case msg := <-c.in:
		return msg, nil
	case err := <-c.errs:
		return nil, err
	case <-c.closed:
		return nil, io.EOF
	}
}

func (c *tellingConn) Close() error {
	c.plain++
	return c.chanConn.Close()
}

func (c *tellingConn) CloseWithError(err error) error {
	c.told = append(c.told, err)
	time.Sleep(c.takes)
	return c.chanConn.Close()
}

// A connection that can tell its peer is told why the session ends, once, and by
// nothing else.
func TestConnectionIsToldWhyTheSessionEnds(t *testing.T) {
	broken := errors.New("broken")
	frame := &rpcx.FrameError{Message: "out of step"}
	is := func(want error) func(error) bool { return func(err error) bool { return err == want } }
	costs := func(err error) bool { _, ok := errors.AsType[*rpcx.CostError](err); return ok }
	busy := func(err error) bool { return errors.Is(err, rpcx.ErrServerBusy) }
	for _, c := range []struct {
		name   string
		server *rpcx.Server // nil for a session that is no server's
		opts   rpcx.Options
		end    func(t *testing.T, srv *rpcx.Server, s *rpcx.Session, c *tellingConn)
		told   func(error) bool
		err    func(error) bool // Session.Err, if it is another
	}{
		{name: "Close", end: func(_ *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *tellingConn) { s.Close() }, told: is(rpcx.ErrClosed)},
		{name: "Shutdown", end: func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *tellingConn) {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}, told: is(rpcx.ErrClosed)},
		{name: "the server's Shutdown", server: &rpcx.Server{}, end: func(t *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) {
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server's Shutdown, which is given up", server: &rpcx.Server{}, end: func(t *testing.T, srv *rpcx.Server, s *rpcx.Session, c *tellingConn) {
			c.in <- []byte(`{"jsonrpc":"2.0","method":"hang","id":1}`)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server's Close", server: &rpcx.Server{}, end: func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) { srv.Close() },
			told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "Close, before the server's", server: &rpcx.Server{}, end: func(_ *testing.T, srv *rpcx.Server, s *rpcx.Session, _ *tellingConn) {
			s.Close()
			srv.Close()
		}, told: is(rpcx.ErrClosed)},
		{name: "a handler that disconnects", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) {
			c.in <- []byte(`{"jsonrpc":"2.0","method":"bye","id":1}`)
		}, told: is(rpcx.ErrClosed)},
		{name: "the cost", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) {
			c.in <- []byte(`{"jsonrpc":"2.0","method":"costly","id":1}`)
		}, told: costs},
		{name: "nothing happens", opts: rpcx.Options{Limits: rpcx.Limits{IdleTimeout: time.Minute}},
			end: func(*testing.T, *rpcx.Server, *rpcx.Session, *tellingConn) {}, told: is(rpcx.ErrIdle)},
		{name: "the peer does not read", opts: rpcx.Options{Limits: rpcx.Limits{SendTimeout: time.Minute}},
			end: func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, c *tellingConn) {
				for range cap(c.out) + 1 {
					if err := s.Notify(t.Context(), "m", nil); err != nil {
						t.Error(err)
					}
				}
			}, told: func(err error) bool { return errors.Is(err, rpcx.ErrSlowPeer) }},
		{name: "the peer sends too much that is wrong", opts: rpcx.Options{Limits: rpcx.Limits{PeerErrors: 1}},
			end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) {
				for range 11 {
					c.in <- []byte("{}")
				}
			}, told: is(rpcx.ErrFaultyPeer)},
		{name: "a violation that the connection has found", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.errs <- frame }, told: is(frame)},
		{name: "a message that ends the session", opts: rpcx.Options{Protocol: rpcx.Aiomas, Framer: rpcx.LengthFramer{}},
			end:  func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.in <- []byte("rubbish") },
			told: func(err error) bool { _, ok := errors.AsType[*rpcx.ProtocolError](err); return ok }},
		{name: "the connection fails", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.errs <- broken }, told: is(broken)},
		{name: "the peer closes it", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.errs <- io.EOF }, told: is(io.EOF)},
		{name: "the server has no room", server: &rpcx.Server{MaxSessions: 1}, end: func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) {
			refusedWith(t, srv, busy)
			srv.Close()
		}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server has no room for one of a group", server: &rpcx.Server{MaxGroup: 1},
			opts: rpcx.Options{Limits: rpcx.Limits{Group: func(*rpcx.Session) string { return "all" }}},
			end: func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) {
				refusedWith(t, srv, busy)
				srv.Close()
			}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server was stopped", server: &rpcx.Server{}, end: func(_ *testing.T, srv *rpcx.Server, s *rpcx.Session, _ *tellingConn) {
			srv.StopListening()
			refusedWith(t, srv, is(rpcx.ErrServerClosed))
			s.Close()
		}, told: is(rpcx.ErrClosed)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.opts.Handler = methods{
					"hang":   hang,
					"bye":    func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
					"costly": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ErrExcessiveCost },
				}
				conn := newTellingConn()
				var s *rpcx.Session
				if c.server != nil {
					c.server.Options = c.opts
					s = c.server.ServeMessageConn(conn)
				} else {
					s = rpcx.NewMessageSession(conn, &c.opts)
				}
				c.end(t, c.server, s, conn)
				<-s.Done()
				if len(conn.told) != 1 || conn.plain != 0 || !c.told(conn.told[0]) {
					t.Errorf("the connection was told %v, and closed without a word %d times", conn.told, conn.plain)
				}
				if c.err == nil {
					c.err = c.told
				}
				if !c.err(s.Err()) {
					t.Errorf("the session ended with %v", s.Err())
				}
				if c.server != nil {
					c.server.Wait(context.Background())
				}
			})
		})
	}
}

// refusedWith offers a server one more connection, which it is to close.
func refusedWith(t *testing.T, srv *rpcx.Server, told func(error) bool) {
	t.Helper()
	conn := newTellingConn()
	if s := srv.ServeMessageConn(conn); s != nil {
		t.Errorf("a session was started")
	}
	if len(conn.told) != 1 || !told(conn.told[0]) {
		t.Errorf("the connection was told %v", conn.told)
	}
}

// What was queued is written before the peer is told of its violation.
func TestConnectionIsToldAfterTheRestIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newTellingConn()
		s := rpcx.NewMessageSession(conn, nil)
		for range cap(conn.out) + 1 { // the writer waits in the last one
			if err := s.Notify(t.Context(), "m", nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if err := s.Notify(t.Context(), "last", nil); err != nil {
			t.Fatal(err)
		}
		conn.errs <- &rpcx.FrameError{Message: "out of step"}
		synctest.Wait()
		if len(conn.told) != 0 {
			t.Errorf("it is told %v while it writes", conn.told)
		}
		var last string
		for range cap(conn.out) + 2 {
			last = string(<-conn.out)
		}
		<-s.Done()
		if len(conn.told) != 1 || !strings.Contains(last, "last") {
			t.Errorf("it is told %v after %s", conn.told, last)
		}
	})
}

// Close does not wait for a connection that waits for its peer.
func TestCloseDoesNotWaitForWhatThePeerIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newTellingConn()
		conn.takes = time.Second
		s := rpcx.NewMessageSession(conn, nil)
		takes(t, 0, func() { s.Close() })
		takes(t, time.Second, func() { <-s.Done() })
	})
}
