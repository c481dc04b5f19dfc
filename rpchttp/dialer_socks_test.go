package rpchttp_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// socksServer is a SOCKS5 proxy that leads every connection to one place.
type socksServer struct {
	addr   string
	mu     sync.Mutex
	asked  []string // destinations
	refuse bool
}

// startSOCKS starts a proxy whose connections end at target.
func startSOCKS(t *testing.T, target string) *socksServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &socksServer{addr: l.Addr().String()}
	var wg sync.WaitGroup
	// Owner: the test. End: the listener is closed.
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// Owner: the test. End: the client has hung up.
			wg.Go(func() {
				defer conn.Close()
				p.serve(conn, target)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return p
}

func (p *socksServer) serve(conn net.Conn, target string) {
	r := bufio.NewReader(conn)
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(r, b)
		return b
	}
	read(int(read(2)[1])) // the greeting
	conn.Write([]byte{5, 0})
	var host string
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	p.mu.Lock()
	p.asked = append(p.asked, net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(read(2))))))
	refuse := p.refuse
	p.mu.Unlock()
	if refuse {
		conn.Write([]byte{5, 2, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{})
	// Owner: this call, which waits. End: the client has hung up.
	go func() {
		defer close(done)
		io.Copy(far, r)
		far.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(conn, far)
	conn.Close()
	<-done
}

// The proxy is asked for the name, and the connection is used again. Without the proxy
// nothing is dialled.
func TestDialerSOCKS(t *testing.T) {
	s := newWebServer(answeringBy(sumMethods()))
	s.StartTLS()
	t.Cleanup(s.Close)
	p := startSOCKS(t, s.Listener.Addr().String())
	config := trusting(s)
	config.ServerName = "example.com" // of httptest's certificate
	c := dialClient(t, rpchttp.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: p.addr}, TLS: config}, "https://hidden.onion/rpc", nil)
	checkClient(t, c)
	s.wantSeen(t, 8, 1)
	if asked := strings.Join(p.asked, " "); asked != "hidden.onion:443" {
		t.Errorf("the proxy was asked for %s", asked)
	}
	c.Close()

	p.refuse = true
	c = dialClient(t, rpchttp.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: p.addr}, TLS: config, Retries: -1}, s.URL, nil)
	err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written {
		t.Errorf("the error is %v", err)
	} else if _, ok := errors.AsType[*rpcx.SOCKSError](err); !ok {
		t.Errorf("the error is %v", err)
	}
	s.wantSeen(t, 8, 1)
}
