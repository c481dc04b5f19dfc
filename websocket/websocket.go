// Package websocket runs rpcx sessions over WebSockets: for browsers, for servers
// behind a web port, for what passes through HTTP proxies. A session is the same
// as over any other connection: both ends call each other, and all limits hold.
//
// # A server
//
// [Handler] is an [http.Handler] for any mux. The sessions are those of an
// [rpcx.Server], which may serve other listeners as well, counts them, and shuts
// them down. ([http.Server.Shutdown] does not know of WebSockets.) [ServeContext] serves
// until a context ends, and then shuts both servers down:
//
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
//	mux.Handle("/rpc", websocket.Handler(srv))
//	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
//	err := websocket.ServeContext(ctx, srv, web, l) // l, err := net.Listen("tcp", ":8080")
//
// A browser says which page a connection comes from, and pages of other hosts are
// refused unless [Acceptor].Origins allows them (a page without an origin, by "null"):
// otherwise any page could act in the name of whoever looks at it. A request that is too large is refused
// (Acceptor.MaxHeaderFields, MaxHeaderBytes). Who never ends a request is the
// [http.Server]'s to bound, whose ReadHeaderTimeout should be set on a public port, and
// MaxHeaderBytes to 32 KiB, say: it reads a megabyte before the Acceptor sees a request.
//
// Who may connect is up to middleware, as for any handler: it answers a request that
// is to be refused, with a status of its choice, and passes the others on. [Request]
// returns the request of a session later, with what the middleware has put into its
// context, its path, its headers and its TLS client certificates (and nil for one
// that came by another listener of the server):
//
//	user := websocket.Request(s).Context().Value(userKey{})
//
// # A client
//
//	s, err := websocket.Dial(ctx, "wss://example.com/rpc", nil)
//
// [Dialer] has headers, TLS and proxies, which are asked for a tunnel. Other answers
// than a WebSocket are a [*StatusError].
//
// # Messages
//
// Each message is one WebSocket message: of text if it is UTF-8, as JSON always
// is, and binary otherwise. Both kinds are read. Options.Framer is ignored. A
// message that is larger than [Config].MaxSize is dropped, counted, and answered with
// an error, like a long line in a stream. If its first KiB does not show which request
// it is, or which reply, the connection is closed with code 1009, since its sender
// would wait in vain.
//
// # The end
//
// A session that ends says so to its peer, and waits up to a second for the answer
// (Close does not wait for that, Done does). What it says is a code and a reason:
//
//	1000  Close or Shutdown of the session, ReplyAndDisconnect, Limits.IdleTimeout
//	1001  Shutdown or Close of the server
//	1002  a message that the protocol cannot answer
//	1007  a text message that is no UTF-8
//	1008  the session has cost too much, its peer does not read, sends too many control
//	      frames (Config.ControlFrames) or too much that is wrong (Limits.PeerErrors)
//	1009  a message over Config.MaxSize
//	1011  any other error of this side
//	1013  Server.MaxSessions, MaxGroup or MaxQueuedBytes; these are also why an idle
//	      session ends, or a message is not waited for, on a server that is nearly full
//
// [SetCloseCode] has another code sent, of the program's own. A peer that does not read
// is told nothing if a write to it is under way.
//
// When the peer closes the connection, [rpcx.Session.Err] is a [*CloseError] with its
// code and its reason; io.EOF if it gave none, or 1000 without a reason; and
// io.ErrUnexpectedEOF if it was gone without a word. A CloseError with code 1000 or
// 1001 is an end in order, and matches io.EOF by [errors.Is]. A peer that has nothing to
// say is pinged, and one that does not answer ends the session with [ErrNoPong].
package websocket

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/duration"

	"github.com/coder/websocket"
)

// Config is what both ends have in common. The zero value has the defaults.
type Config struct {
	// MaxSize is the size of the largest message to be received or sent, in bytes; 0
	// means [rpcx.DefaultMaxSize], a negative value no limit.
	MaxSize int
	// PingInterval is how long a peer may be silent before it is sent a ping, and
	// then how long it has for the answer; 0 means 30 s, a negative value that no
	// pings are sent.
	PingInterval time.Duration
	// ControlFrames is how many control frames (pings, and answers to ours) the peer may
	// send a second, as an average over ten seconds; 0 means 100 (or twice as many as
	// PingInterval asks for), a negative value no limit. One that sends more ends the session, and is told by close code 1008.
	ControlFrames int
	// Compress allows messages to be compressed if the peer agrees. That takes much
	// time and memory; MaxSize is about what comes out.
	Compress bool
	// Subprotocols are those that this end speaks, the preferred first. A browser
	// that names some gives up a connection for which the server picks none.
	Subprotocols []string
}

// check returns what is wrong with the configuration, nil if nothing is.
func (c *Config) check() error { return duration.Check("websocket.Config", c) }

func (c Config) maxSize() int {
	switch {
	case c.MaxSize == 0:
		return rpcx.DefaultMaxSize
	case c.MaxSize < 0:
		return math.MaxInt
	}
	return c.MaxSize
}

func (c Config) pingInterval() time.Duration {
	if c.PingInterval == 0 {
		return 30 * time.Second
	}
	return c.PingInterval
}

func (c Config) compression() websocket.CompressionMode {
	if c.Compress {
		return websocket.CompressionNoContextTakeover
	}
	return websocket.CompressionDisabled
}

// ErrNoPong is why a session ended whose peer did not answer a ping in time.
var ErrNoPong = errors.New("rpcx: WebSocket peer does not answer pings (websocket.Config.PingInterval)")

// StatusError is why a WebSocket could not be dialled where the server answered by HTTP
// and did not upgrade the connection.
type StatusError struct {
	Code   int // of HTTP: 401, say, or 503 if the server has no room
	Header http.Header
	Body   string // its first 1024 bytes
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("server answers the request for a WebSocket with status %d %s", e.Code, http.StatusText(e.Code))
}

// CloseError is why a session ended whose peer closed the connection and said why. With
// code 1000 (an ordinary close) or 1001 (the peer goes away: a server that shuts down,
// a page that is left) it matches io.EOF by [errors.Is], with any other code
// io.ErrUnexpectedEOF.
type CloseError struct {
	Code   int // of RFC 6455, section 7.4; 3000 to 4999 are applications'
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("peer closed the WebSocket with code %d %q", e.Code, e.Reason)
}

// Is reports whether target is io.EOF if the peer closed the connection in order, and
// io.ErrUnexpectedEOF if not.
func (e *CloseError) Is(target error) bool {
	if e.Code == int(websocket.StatusNormalClosure) || e.Code == int(websocket.StatusGoingAway) {
		return target == io.EOF
	}
	return target == io.ErrUnexpectedEOF
}
