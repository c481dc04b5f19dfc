package rpcx_test

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// Whose address is not known yet counts with others of that kind, and afterwards with
// those of the address.
func TestHandshakesBeforeTheAddressIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxHandshakes: 3, OnSession: func(s *rpcx.Session) {}}
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return &headed{Conn: c} })
		silent := []net.Conn{m.dial(t), m.dial(t), m.dial(t)}
		time.Sleep(250 * time.Millisecond)
		conn := m.dial(t)
		conn.Write([]byte("192.0.2.7:1000\n"))
		synctest.Wait()
		if got := srv.Stats(); got.Sessions != 1 || got.Handshakes != 2 {
			t.Errorf("stats are %+v", got)
		}
		if !isClosed(silent[0]) || isClosed(silent[1]) || isClosed(conn) {
			t.Error("it is not the oldest that has made way")
		}
	})
}
