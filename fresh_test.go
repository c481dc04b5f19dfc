package rpcx_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"example.com/rpcx"
)

// slowConn is a connection through a wrapper whose writes take their time, though the
// connection below has room.
type slowConn struct {
	net.Conn
	wait chan struct{}
}

func (c slowConn) NetConn() net.Conn { return c.Conn }

func (c slowConn) Write(p []byte) (int, error) {
	<-c.wait
	return c.Conn.Write(p)
}

// Close of a server takes no longer than that of one session.
func TestServerCloseWaitsForAllWritesAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	srv := new(rpcx.Server)
	wait := make(chan struct{})
	for range 20 {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s := srv.ServeConn(slowConn{conn, wait})
		if err := s.Notify(t.Context(), "m", rpcx.Args{string(bytes.Repeat([]byte("x"), 1000))}); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	srv.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	close(wait)
	if err := srv.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}
