package rpcx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"example.com/rpcx"
)

// readProxyHeader reads a header of the PROXY protocol, version 1, byte by byte: what
// follows the header belongs to the session.
func readProxyHeader(_ context.Context, conn net.Conn) (net.Conn, error) {
	header := make([]byte, 0, 107) // at most so long, by the protocol
	for !strings.HasSuffix(string(header), "\r\n") {
		n := len(header)
		if n == cap(header) {
			return nil, errors.New("read the PROXY header: no end of line")
		}
		if _, err := io.ReadFull(conn, header[n:n+1]); err != nil {
			return nil, fmt.Errorf("read the PROXY header: %w", err)
		}
		header = header[:n+1]
	}
	fields := strings.Fields(string(header))
	if len(fields) >= 2 && fields[0] == "PROXY" && fields[1] == "UNKNOWN" {
		return nil, net.ErrClosed // the proxy's own health check: closed without a log record
	}
	if len(fields) != 6 || fields[0] != "PROXY" {
		return nil, errors.New("read the PROXY header: wrong form")
	}
	client, err := netip.ParseAddrPort(net.JoinHostPort(fields[2], fields[4]))
	if err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	return rpcx.WithAddrs(conn, net.TCPAddrFromAddrPort(client), nil), nil
}

// Behind a proxy, the PROXY header tells who the client is. In a program, accept headers
// from the addresses of the proxy only.
func ExampleServer_preamble() {
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) string { return s.RemoteAddr().String() }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}, Preamble: readProxyHeader}
	l, err := rpcx.Listen(context.Background(), "tcp://127.0.0.1:0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- srv.Serve(l) }()

	conn, err := net.Dial("tcp", l.Addr().String()) // the proxy
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(conn, "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n")
	s := rpcx.NewSession(conn, nil)
	fmt.Println(rpcx.Call[string](context.Background(), s, "whoami", nil))
	s.Close()
	srv.Shutdown(context.Background())
	fmt.Println(<-served)
	// Output:
	// 203.0.113.7:56324 <nil>
	// rpcx: server closed
}

// readAhead is a connection from which r has read ahead.
type readAhead struct {
	net.Conn
	r *bufio.Reader
}

func (c *readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// The server speaks first. What it has read beyond the answer is read again.
func ExampleServer_preambleBanner() {
	srv := &rpcx.Server{
		Options: rpcx.Options{Handler: exampleMethods()},
		Preamble: func(_ context.Context, conn net.Conn) (net.Conn, error) {
			fmt.Fprintln(conn, "EXAMPLE 1.0")
			r := bufio.NewReader(conn)
			if _, err := r.ReadString('\n'); err != nil {
				return nil, err
			}
			return &readAhead{conn, r}, nil
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go srv.Serve(l)

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(conn, "hello\n"+`{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":1}`+"\n")
	lines := bufio.NewScanner(conn)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	conn.Close()
	srv.Shutdown(context.Background())
	// Output:
	// EXAMPLE 1.0
	// {"jsonrpc":"2.0","result":3,"id":1}
}

// The sessions of a server that ends have their turns within ShutdownSpread, which is a
// minute, say, in a program.
func ExampleServer_shutdownSpread() {
	srv := &rpcx.Server{
		Options:         rpcx.Options{Handler: exampleMethods()},
		ShutdownSpread:  10 * time.Millisecond,
		ShutdownTimeout: 10 * time.Second, // after the spread
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background()) // signal.NotifyContext, in a program
	defer cancel()
	served := make(chan error)
	go func() { served <- srv.ServeContext(ctx, l) }()
	for range 3 {
		s, err := rpcx.Dial(ctx, "tcp://"+l.Addr().String(), nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer func() { <-s.Done() }()
		s.Call(ctx, "sum", rpcx.Args{1}, nil)
	}
	cancel()
	fmt.Println(<-served)
	// Output: <nil>
}

// toldPipe is a transport that tells its peer by a code why the session ends.
type toldPipe struct{ *messagePipe }

func (c toldPipe) CloseWithError(err error) error {
	code := "internal error"
	switch {
	case errors.Is(err, rpcx.ErrServerClosed):
		code = "going away"
	case errors.Is(err, rpcx.ErrClosed):
		code = "bye"
	case errors.Is(err, rpcx.ErrExcessiveResourceUsage):
		code = "too expensive"
	}
	fmt.Println("the peer is told:", code)
	return c.messagePipe.Close()
}

func ExampleCloserWithError() {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: exampleMethods()}}
	here, there := newMessagePipe()
	srv.ServeMessageConn(toldPipe{there})
	client := rpcx.NewMessageSession(here, nil)
	srv.Shutdown(context.Background())
	<-client.Done()
	// Output: the peer is told: going away
}
