//go:build unix

package rpcx

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
)

// A session reads and writes the socket under a connection with other addresses as it does
// the socket itself. TLS within is not bypassed.
func TestWithAddrsKeepsTheSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	elsewhere := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}
	addressed := WithAddrs(WithAddrs(conn, elsewhere, nil), nil, elsewhere)
	if newSocket(addressed) == nil || rawConn(addressed) == nil || carrierOf(addressed) != conn {
		t.Error("the socket is not found")
	}
	if newSocket(WithAddrs(tls.Server(conn, nil), elsewhere, nil)) != nil {
		t.Error("TLS is bypassed")
	}
}

// Before a Preamble, the address is that of a proxy. The socket still tells whether the
// peer has sent anything.
func TestHandshakeBeforeThePreambleHasNoAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	srv := &Server{}
	if counted := srv.handshakeConn(tls.Server(conn, nil)); counted != conn {
		t.Errorf("without a Preamble the handshake is that of %v", counted)
	}
	srv.Preamble = func(_ context.Context, conn net.Conn) (net.Conn, error) { return conn, nil }
	if counted := srv.handshakeConn(conn); counted.RemoteAddr() != nil || rawConn(counted) == nil {
		t.Errorf("before the Preamble the handshake is that of %v", counted.RemoteAddr())
	}
}
