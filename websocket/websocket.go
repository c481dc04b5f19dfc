// Package websocket runs rpcx sessions over WebSockets: for browsers, for servers behind a
// web port, for connections through HTTP proxies. A session is the same as over any other
// connection: both ends call each other, and the same limits apply.
//
// # A server
//
// [Handler] is an [http.Handler] for any mux. The sessions belong to an [rpcx.Server],
// which may also serve other listeners. The server counts the sessions and shuts them down.
// ([http.Server.Shutdown] ignores WebSockets.) [ListenAndServe] serves until a context ends,
// and then shuts both servers down. [ServeContext] is the same for a listener.
//
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
//	mux.Handle("GET /rpc", websocket.Handler(srv))
//	web := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
//	err := websocket.ListenAndServe(ctx, srv, web)
//
// A browser names the page that opens a connection. Pages of other hosts are refused unless
// [Acceptor].Origins allows them (a page without an origin, by "null"). Otherwise any page
// could act in the name of its visitor.
//
// A request that is too large is refused (Acceptor.MaxHeaderFields, MaxHeaderBytes). The
// [http.Server] has to bound slow and huge requests, since the Acceptor sees only complete
// headers. On a public port, set ReadHeaderTimeout, and MaxHeaderBytes to 32 KiB, say; the
// default is a megabyte.
//
// Middleware decides who may connect, as for any handler. It answers a refused request with
// a status of its choice, and passes other requests on. Later, [Request] returns the
// request of a session: the path, the headers, the TLS client certificates, and the context
// with values from middleware. For a session from another listener of the server, the
// result is nil. An example:
//
//	user := websocket.Request(s).Context().Value(userKey{})
//
// A handler takes the session as a parameter, s *rpcx.Session, and not the *http.Request.
//
// # A client
//
//	s, err := websocket.Dial(ctx, "wss://example.com/rpc", nil)
//
// http:// and https:// mean the same as ws:// and wss://. [Dialer] has headers, TLS and
// proxies, which open a tunnel. If the server does not accept the WebSocket, the error is a
// [*StatusError]. For a client that reconnects, set Connect of [rpcx.ClientOptions] to Dial,
// or to the Dial of a Dialer.
//
// # Messages
//
// Each message is a single WebSocket message: a text message if the bytes are UTF-8, as
// JSON always is, and otherwise a binary message. Both kinds are read. Options.Framer is
// ignored.
//
// A message larger than [Config].MaxSize is dropped, counted, and answered with an error,
// like a long line in a stream. If the first KiB does not identify the request or reply,
// the connection is closed with code 1009. Otherwise the sender would wait in vain.
//
// # The end
//
// At its end, a session sends the peer a code and a reason, and waits up to a second for
// the answer. (Close does not wait for the answer, Done does.) The codes are:
//
//	1000  Close or Shutdown of the session, ReplyAndDisconnect, Limits.IdleTimeout.
//	1001  Shutdown or Close of the server.
//	1002  A message that the protocol cannot answer.
//	1007  A text message that is no UTF-8.
//	1008  The session has cost too much, or its peer does not read. The peer sends too many
//	      control frames (Config.ControlFrames) or too many errors (Limits.PeerErrors).
//	1009  A message over Config.MaxSize.
//	1011  Any other error of this side.
//	1013  Server.MaxSessions, MaxGroup or MaxQueuedBytes. On a server that is nearly full,
//	      also the end of an idle session or of an incomplete message.
//
// [SetCloseCode] sets another code, chosen by the program. If a write to the peer is under
// way, as to a peer that does not read, no code is sent. If a program exits right after
// Close, the code may be lost, about once in twenty times. To be safe, end with Shutdown,
// or wait for Done after Close.
//
// If the peer closes the connection, [rpcx.Session.Err] is a [*CloseError] with the peer's
// code and reason. Without a code, or with 1000 and no reason, the error is io.EOF. Without
// a close frame, the error is io.ErrUnexpectedEOF. A CloseError with code 1000 or 1001 is
// an orderly end, and matches io.EOF by [errors.Is].
//
// A silent peer is pinged. If the peer does not answer a ping, the session ends with
// [ErrNoPong].
package websocket

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/duration"

	"github.com/coder/websocket"
)

// Config holds the settings common to both ends. The zero value has the defaults.
type Config struct {
	// MaxSize is the size of the largest message to receive or send, in bytes. 0 means
	// [rpcx.DefaultMaxSize], a negative value no limit.
	MaxSize int
	// PingInterval is how long a peer may be silent before a ping, and then how long the
	// peer has for the answer. 0 means 30 s, a negative value no pings.
	PingInterval time.Duration
	// ControlFrames is how many control frames (pings, and answers to our pings) the peer
	// may send a second, averaged over ten seconds. 0 means 100, or twice the number
	// required by PingInterval if larger; a negative value means no limit. A peer over the
	// limit ends the session with close code 1008.
	ControlFrames int
	// Compress allows compressed messages if the peer agrees. Compression takes much time
	// and memory. MaxSize bounds the decompressed size.
	Compress bool
	// Subprotocols lists the subprotocols of this end, in order of preference. A browser
	// with subprotocols abandons the connection if the server selects none.
	Subprotocols []string
}

// check returns an error if the configuration is invalid.
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

// ErrNoPong is the error of a session whose peer did not answer a ping in time.
var ErrNoPong = errors.New("rpcx: WebSocket peer does not answer pings (websocket.Config.PingInterval)")

// StatusError is the error of dialling a server that answered by HTTP without upgrading the
// connection.
type StatusError struct {
	Code   int // HTTP status: 401, say, or 503 if the server has no room
	Header http.Header
	Body   string // first 1024 bytes of the body
}

// Error returns the status and the beginning of the body, quoted because the server chose
// the text.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("server answers the request for a WebSocket with status %d %s", e.Code, http.StatusText(e.Code))
	body := strings.TrimSpace(e.Body)
	if len(body) > largestExcerpt {
		body = body[:largestExcerpt] + "…"
	}
	if body != "" {
		text += fmt.Sprintf(": %q", body)
	}
	return text
}

// largestExcerpt is how many bytes of a body an error quotes.
const largestExcerpt = 128

// CloseError is the error of a session closed by the peer with a code. Code 1000 is an
// ordinary close. Code 1001 means that the peer goes away: a server shuts down, or a page
// is left. By [errors.Is], codes 1000 and 1001 match io.EOF, and other codes
// io.ErrUnexpectedEOF.
type CloseError struct {
	Code   int // see RFC 6455, section 7.4; 3000 to 4999 are for libraries and applications
	Reason string
}

func (e *CloseError) Error() string {
	return fmt.Sprintf("peer closed the WebSocket with code %d %q", e.Code, e.Reason)
}

// GoingAway reports whether the peer goes away, or restarts: codes 1001 and 1012. An
// [rpcx.Client] then tries the next address at once.
func (e *CloseError) GoingAway() bool {
	return e.Code == int(websocket.StatusGoingAway) || e.Code == int(websocket.StatusServiceRestart)
}

// Is reports whether target is io.EOF after an orderly close, and io.ErrUnexpectedEOF
// otherwise.
func (e *CloseError) Is(target error) bool {
	if e.Code == int(websocket.StatusNormalClosure) || e.Code == int(websocket.StatusGoingAway) {
		return target == io.EOF
	}
	return target == io.ErrUnexpectedEOF
}
