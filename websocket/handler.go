package websocket

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"

	"github.com/coder/websocket"
)

// Handler returns an [http.Handler] that runs a session of srv on each accepted WebSocket:
// an [Acceptor] with its defaults. srv need not listen itself. The limits, OnSession and
// Shutdown of srv apply to the sessions.
func Handler(srv *rpcx.Server) http.Handler {
	if srv == nil {
		panic("websocket: Handler with a nil *rpcx.Server")
	}
	return &Acceptor{Server: srv}
}

// Acceptor is an [http.Handler] that accepts WebSockets. The fields must not be changed
// while serving.
//
// For a session, the peer is the other end of the connection. Behind a reverse proxy the
// peer is the proxy, also for Limits.Group, unless the program looks for the client in the
// headers of [Request].
type Acceptor struct {
	// Server runs the sessions.
	Server *rpcx.Server
	Config
	// Origins lists the hosts whose pages may connect, besides the requested host. An
	// element is a pattern of [path.Match] for "host" or "host:port", or for
	// "scheme://host". A request without an origin comes from no browser, and is accepted.
	//
	// "null" is an origin hidden by the browser: of a file, of a sandboxed frame, or after
	// some redirections, from any page. "*" allows everybody; the rights of a session must
	// not depend on cookies or addresses then.
	//
	// (Anybody may own a name that leads to this machine. A server for pages on the same
	// machine should therefore check the Host of requests first, as by rpchttp.CheckHosts.)
	Origins []string
	// MaxHeaderFields and MaxHeaderBytes bound the size of a request. MaxHeaderFields is
	// the maximum number of header fields and URL parameters together; 0 means 100.
	// MaxHeaderBytes is the maximum size of the header and the URL in bytes; 0 means 16
	// KiB. With negative values, only the [http.Server] has limits. A session keeps its
	// request, which counts for Server.MaxQueuedBytes.
	MaxHeaderFields int
	MaxHeaderBytes  int
	// Headers lists the header fields kept for [Request], in any case. Nil keeps every
	// field.
	Headers []string
}

// ServeHTTP accepts a WebSocket, and starts a session on the connection. The session
// continues after ServeHTTP has returned. A refused request is answered with a status:
//
//	403  The page has another origin.
//	431  The request is too large.
//	501  A middleware's http.ResponseWriter is no http.Hijacker and has no method Unwrap.
//	503  The server accepts no sessions.
//
// Requests for anything but a WebSocket are refused as well. Invalid Options of the server,
// or an invalid Config, cause a panic, logged by package http. A session over
// Server.MaxGroup is closed right after the start, since its group can depend on the
// connection.
func (a *Acceptor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.Server == nil {
		panic("rpcx: websocket.Acceptor without a Server: set that field")
	}
	if err := a.check(); err != nil {
		panic("rpcx: " + err.Error())
	}
	if !a.Server.Accepts() {
		http.Error(w, "no more sessions", http.StatusServiceUnavailable)
		return
	}
	if err := a.checkSize(r); err != nil {
		http.Error(w, err.Error(), http.StatusRequestHeaderFieldsTooLarge)
		a.logRefusal(r, err)
		return
	}
	h := &hijacker{ResponseWriter: w}
	if hijackable(w) {
		w = h
	}
	control := a.controlFrames()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		OriginPatterns:     a.patterns(),
		InsecureSkipVerify: a.allowsHidden(r),
		Subprotocols:       a.Subprotocols,
		CompressionMode:    a.compression(),
		OnPingReceived:     control.received,
		OnPongReceived:     control.pong,
	})
	if err != nil { // already answered
		a.logRefusal(r, err)
		return
	}
	c := newConn(ws, h.conn.corked, h.conn.Conn, control, a.Config)
	c.request = a.keep(r)
	c.kept = requestSize(c.request)
	a.Server.ServeMessageConn(c)
}

// logRefusal logs a refused request. Anybody can cause refusals, and some errors quote the
// request, so the number of records is bounded.
func (a *Acceptor) logRefusal(r *http.Request, err error) {
	log := a.Server.Options.Logger
	if log == nil || !log.Enabled(r.Context(), slog.LevelWarn) {
		return
	}
	ok, skipped := bounded.OfServer(a.Server).Allow()
	if !ok {
		return
	}
	attrs := []slog.Attr{slog.String("peer", r.RemoteAddr), slog.Any("error", bounded.Error(err))}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("records left out", skipped))
	}
	log.LogAttrs(context.Background(), slog.LevelWarn, "WebSocket refused", attrs...)
}

// hidden is the origin in place of an origin hidden by the browser (RFC 6454, section 7.3).
const hidden = "null"

// allowsHidden reports whether r comes from a hidden origin, and Origins allows hidden
// origins.
func (a *Acceptor) allowsHidden(r *http.Request) bool {
	return r.Header.Get("Origin") == hidden && slices.Contains(a.Origins, hidden)
}

// patterns returns Origins for the WebSocket library, without "null": the library would
// take "null" for a host.
func (a *Acceptor) patterns() []string {
	if !slices.Contains(a.Origins, hidden) {
		return a.Origins
	}
	return slices.DeleteFunc(slices.Clone(a.Origins), func(pattern string) bool { return pattern == hidden })
}

// Request returns the HTTP request that started a session of an [Acceptor]. For another
// session, the result is nil. The request has no body. Callers share the request and must
// not change it. The header has the fields named by [Acceptor].Headers.
//
// The request's context does not end. Its values come from the context of the served
// request, so a middleware can pass on the user. Limits.Group and Limits.Exempt may call
// Request too. A function for [rpcx.Func] takes the *rpcx.Session and calls Request; an
// *http.Request is no valid parameter.
func Request(s *rpcx.Session) *http.Request {
	if c, ok := s.Conn().(*conn); ok {
		return c.request
	}
	return nil
}

// hijackable reports whether w, or a wrapped writer, gives up its connection, in the manner
// of [http.ResponseController]. A middleware's writer may not. The WebSocket refuses such a
// writer only if hijacker does not hide the writer.
func hijackable(w http.ResponseWriter) bool {
	for {
		if _, ok := w.(http.Hijacker); ok {
			return true
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = wrapper.Unwrap()
	}
}

// hijacker gives the WebSocket a corked connection.
type hijacker struct {
	http.ResponseWriter
	conn corkedConn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = corkedConn{conn, newCorked(conn)}
	h.conn.received.Store(uint64(rw.Reader.Buffered()))
	return h.conn, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(h.conn)), nil
}

// WriteHeaderNow writes the header at once, for the web framework gin, which delays
// headers.
func (h *hijacker) WriteHeaderNow() {
	if w, ok := h.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		w.WriteHeaderNow()
	}
}
