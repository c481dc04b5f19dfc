package rpcx_test

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"example.com/rpcx"
)

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
