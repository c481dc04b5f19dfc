package rpchttp

import (
	"context"
	"net"
	"sync"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
)

// dialFunc makes a connection.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// clientConns holds the open connections of a Client. [http.Client.CloseIdleConnections]
// would leave a connection of HTTP/2 open if a request on it has just been cancelled.
type clientConns struct {
	ctx    context.Context // ends with close
	cancel context.CancelFunc

	mu   sync.Mutex // guards open
	open map[*clientConn]struct{}
}

func newClientConns() *clientConns {
	c := &clientConns{open: make(map[*clientConn]struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// close closes all connections, and ends dialling.
func (c *clientConns) close() {
	c.cancel()
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for conn := range open {
		conn.Conn.Close()
	}
}

// dialling returns a function that makes connections by dial, and adds them to c. timeout
// is Dialer.Timeout. The context of a call would not bound dialling, because the connection
// may serve other calls.
func (c *clientConns) dialling(dial dialFunc, timeout time.Duration) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := bounded.DialTimeout(ctx, timeout)
		defer cancel()
		stop := context.AfterFunc(c.ctx, cancel)
		defer stop()
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, bounded.DialError(ctx, err)
		}
		added := &clientConn{Conn: conn, conns: c}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ctx.Err() != nil {
			conn.Close()
			return nil, rpcx.ErrClosed
		}
		c.open[added] = struct{}{}
		return added, nil
	}
}

// clientConn is a connection in a clientConns.
type clientConn struct {
	net.Conn
	conns *clientConns
}

func (c *clientConn) Close() error {
	c.conns.mu.Lock()
	delete(c.conns.open, c)
	c.conns.mu.Unlock()
	return c.Conn.Close()
}
