package benchmarks

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"sync"
)

// acceptor accepts connections on a loopback port, and keeps them to be closed
// with it: most libraries leave accepting to their user.
type acceptor struct {
	net.Listener
	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

func listen() (*acceptor, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &acceptor{Listener: l}, nil
}

// Accept is for libraries that accept for themselves.
func (a *acceptor) Accept() (net.Conn, error) {
	conn, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	a.conns = append(a.conns, conn)
	return conn, nil
}

// each hands every connection to handle, which must not block.
func (a *acceptor) each(handle func(net.Conn)) {
	for {
		conn, err := a.Accept()
		if err != nil {
			return
		}
		handle(conn)
	}
}

// dialTCP connects to a server's address.
func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// Close stops listening and closes all connections.
func (a *acceptor) Close() error {
	err := a.Listener.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	for _, conn := range a.conns {
		conn.Close()
	}
	a.conns = nil
	if errors.Is(err, net.ErrClosed) { // the library closed it already
		err = nil
	}
	return err
}

// echoElement returns the one element of params, an array, still encoded.
func echoElement(params json.RawMessage) (json.RawMessage, error) {
	if n := len(params); n > 2 && params[0] == '[' && params[n-1] == ']' {
		return params[1 : n-1], nil
	}
	return nil, errParams
}

var errParams = errors.New("want one positional parameter")

// The methods of all servers that do not prescribe a form for their names.
const (
	echoMethod   = "echo"
	notifyMethod = "ping"
)
