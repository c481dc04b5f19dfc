package rpcx_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// tellingSocket is a socket that is told why it is closed.
type tellingSocket struct {
	*socket
	told chan error
}

func (s tellingSocket) CloseWithError(err error) error {
	s.told <- err
	return s.socket.Close()
}

func (s tellingSocket) Close() error { panic("a CloserWithError is closed without a reason") }

// A connection that can tell its peer why a session ends is told once, and before the
// session is over.
func TestCloseWithErrorIsToldTheCause(t *testing.T) {
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	ask := func(method string) func(*rpcx.Server, *rpcx.Session, *socket) {
		return func(_ *rpcx.Server, _ *rpcx.Session, peer *socket) {
			peer.WriteMessages([][]byte{[]byte(`{"jsonrpc":"2.0","method":"` + method + `"}`)})
		}
	}
	for name, c := range map[string]struct {
		srv  *rpcx.Server // nil: the zero Server
		end  func(srv *rpcx.Server, s *rpcx.Session, peer *socket)
		want func(error) bool
	}{
		"Close": {
			end:  func(_ *rpcx.Server, s *rpcx.Session, _ *socket) { s.Close() },
			want: is(rpcx.ErrClosed),
		},
		"Shutdown of the session": {
			end:  func(_ *rpcx.Server, s *rpcx.Session, _ *socket) { go s.Shutdown(context.Background()) },
			want: is(rpcx.ErrClosed),
		},
		"ReplyAndDisconnect": {end: ask("bye"), want: is(rpcx.ErrClosed)},
		"Close of the server": {
			end:  func(srv *rpcx.Server, _ *rpcx.Session, _ *socket) { srv.Close() },
			want: is(rpcx.ErrServerClosed),
		},
		"Shutdown of the server": {
			end:  func(srv *rpcx.Server, _ *rpcx.Session, _ *socket) { go srv.Shutdown(context.Background()) },
			want: is(rpcx.ErrServerClosed),
		},
		"Shutdown of the server, at the session's turn": {
			srv:  &rpcx.Server{ShutdownSpread: time.Minute},
			end:  func(srv *rpcx.Server, _ *rpcx.Session, _ *socket) { go srv.Shutdown(context.Background()) },
			want: is(rpcx.ErrServerClosed),
		},
		"cost": {
			end: ask("costly"),
			want: func(err error) bool {
				_, ok := errors.AsType[*rpcx.CostError](err)
				return ok
			},
		},
		"silence": {
			srv:  &rpcx.Server{Options: rpcx.Options{Limits: rpcx.Limits{IdleTimeout: time.Second}}},
			end:  func(*rpcx.Server, *rpcx.Session, *socket) {},
			want: is(rpcx.ErrIdle),
		},
		"faults": {
			srv: &rpcx.Server{Options: rpcx.Options{Limits: rpcx.Limits{PeerErrors: 1, CostOff: true}}},
			end: func(_ *rpcx.Server, _ *rpcx.Session, peer *socket) {
				peer.WriteMessages(slices.Repeat([][]byte{[]byte("evil")}, 11))
			},
			want: is(rpcx.ErrFaultyPeer),
		},
		"the peer": {
			end:  func(_ *rpcx.Server, _ *rpcx.Session, peer *socket) { peer.Close() },
			want: is(io.EOF),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := c.srv
				if srv == nil {
					srv = &rpcx.Server{}
				}
				srv.Options.Handler = methods{
					"bye":    func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect(nil), nil },
					"costly": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ErrExcessiveCost },
				}
				near, peer := newSockets()
				conn := tellingSocket{near, make(chan error, 2)}
				s := srv.ServeMessageConn(conn)
				// Owner: the test. End: the connection is closed.
				go func() {
					for {
						if _, err := peer.ReadMessage(); err != nil {
							return
						}
					}
				}()
				c.end(srv, s, peer)
				<-s.Done()
				if err := <-conn.told; !c.want(err) {
					t.Errorf("it is told %v", err)
				}
				if len(conn.told) > 0 {
					t.Errorf("it is told again: %v", <-conn.told)
				}
				srv.Close()
				srv.Wait(context.Background())
				peer.Close()
			})
		})
	}
}

// So is a connection of which no session comes.
func TestCloseWithErrorOfARefusedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 1}
		connectAll(t, srv, 1)
		refuse := func() error {
			near, peer := newSockets()
			defer peer.Close()
			conn := tellingSocket{near, make(chan error, 2)}
			if srv.ServeMessageConn(conn) != nil {
				t.Error("there is a session")
			}
			return <-conn.told
		}
		if busy, ok := errors.AsType[*rpcx.Error](refuse()); !ok || busy.Code != rpcx.CodeServerBusy {
			t.Errorf("a full server tells %v", busy)
		}
		srv.Close()
		if err := refuse(); err != rpcx.ErrServerClosed {
			t.Errorf("a closed server tells %v", err)
		}
	})
}
