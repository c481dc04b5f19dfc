package rpcx

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
)

// WithAddrs returns a connection with other addresses, for [Server].Preamble: the addresses
// of a PROXY header, say. A nil address leaves the address of conn. The bytes are those of
// conn, so a session is as fast on the result as on conn. The method NetConn of the result
// returns conn.
//
// A wrapper of another package, with data about the peer for example, is as fast if the
// wrapper has a method SameBytes() [net.Conn]. The session then reads and writes the
// connection that SameBytes returns. So that connection must have the bytes of the wrapper:
// never return the connection below TLS.
func WithAddrs(conn net.Conn, remote, local net.Addr) net.Conn {
	mustHave("WithAddrs", "connection", conn)
	return &addressedConn{conn, remote, local}
}

// addressedConn is a result of [WithAddrs].
type addressedConn struct {
	net.Conn
	remote, local net.Addr // nil: the address of Conn
}

// NetConn returns the connection that carries the bytes.
func (c *addressedConn) NetConn() net.Conn { return c.Conn }

func (c *addressedConn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

func (c *addressedConn) LocalAddr() net.Addr {
	if c.local != nil {
		return c.local
	}
	return c.Conn.LocalAddr()
}

// CloseWrite closes this end's half of the connection, if the connection has halves.
func (c *addressedConn) CloseWrite() error {
	if conn, ok := c.Conn.(halfCloser); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}

// sameBytesConn returns the connection under conn that has the same bytes. Wrappers of
// other packages stay, unless they have a method SameBytes: TLS must not be bypassed.
func sameBytesConn(conn any) any {
	for {
		switch c := conn.(type) {
		case *SOCKSConn:
			conn = c.Conn
		case *addressedConn:
			conn = c.Conn
		case interface{ SameBytes() net.Conn }:
			conn = c.SameBytes()
		default:
			return conn
		}
	}
}

// tlsListener is the listener of a tls:// address. With a Preamble, [Server.Serve] accepts
// from the inner listener, and begins TLS after the Preamble.
type tlsListener struct {
	net.Listener
	config *tls.Config
}

// Accept returns the next connection, as the server of a TLS handshake.
func (l *tlsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(conn, l.config), nil
}

// acceptor is the part of a listener from which [Server.Serve] accepts. config is for TLS
// after the Preamble, or nil.
type acceptor struct {
	net.Listener
	config *tls.Config
}

// acceptorOf returns the acceptor for l.
func (srv *Server) acceptorOf(l net.Listener) acceptor {
	if secure, ok := l.(*tlsListener); ok && srv.Preamble != nil {
		return acceptor{secure.Listener, secure.config}
	}
	return acceptor{l, nil}
}

// errClosedQuietly is the error of a handshake that ends without a log record.
var errClosedQuietly = errors.New("rpcx: connection closed without a record (Server.Preamble)")

// runPreamble calls Preamble, if set, on the connection in c, and begins TLS if config is
// not nil. c then holds the resulting connection.
func (srv *Server) runPreamble(ctx context.Context, h *handshake, c *preparedConn, config *tls.Config) (net.Conn, error) {
	conn := c.conn
	if srv.Preamble == nil {
		return conn, nil
	}
	text := h.failureText
	h.failureText = "preamble failed"
	if plain := findPlainNetConn(conn); plain != nil {
		h.peerAddr = plain.RemoteAddr() // does not wait
	}
	next, err := srv.Preamble(ctx, conn)
	switch {
	case errors.Is(err, net.ErrClosed):
		return nil, errClosedQuietly
	case err != nil:
		return nil, err
	case next == nil || isNilPointer(next):
		return nil, errors.New("there is neither a connection nor an error (Server.Preamble): return conn if there is nothing to change")
	}
	if config != nil {
		next = tls.Server(next, config)
	}
	if err := c.replaceConn(ctx, next); err != nil {
		return nil, err
	}
	h.failureText = text
	return next, nil
}

// preparedConn is an accepted connection before its session. Preamble may replace the
// connection.
type preparedConn struct {
	conn net.Conn // written under mu; read by the handshake's goroutine without mu

	mu     sync.Mutex
	closed bool
}

// replaceConn puts conn in place of the present connection. If the handshake was given up
// meanwhile, replaceConn closes conn and returns the reason.
func (c *preparedConn) replaceConn(ctx context.Context, conn net.Conn) error {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.conn = conn
	}
	c.mu.Unlock()
	if !closed {
		return nil
	}
	conn.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return io.ErrClosedPipe
}

// closeConn closes the present connection, and any later one.
func (c *preparedConn) closeConn() {
	c.mu.Lock()
	c.closed = true
	conn := c.conn
	c.mu.Unlock()
	conn.Close()
}

// unlocatedConn hides the address of a connection until the Preamble has told the peer's
// address.
type unlocatedConn struct{ net.Conn }

func (unlocatedConn) RemoteAddr() net.Addr { return nil }

// NetConn returns the connection, for its socket.
func (c unlocatedConn) NetConn() net.Conn { return c.Conn }

// handshakeConn returns the connection by which a handshake of accepted is counted, or nil.
// The address of the connection is available without waiting. With a Preamble, the address
// is not known yet.
func (srv *Server) handshakeConn(accepted net.Conn) net.Conn {
	plain := findPlainNetConn(accepted)
	if plain != nil && srv.Preamble != nil {
		return unlocatedConn{plain}
	}
	return plain
}
