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

// Handler returns an [http.Handler] that runs a session of srv on each WebSocket
// that it accepts: an [Acceptor] with its defaults. srv need not listen itself;
// its limits, its OnSession and its Shutdown are for these sessions, too.
func Handler(srv *rpcx.Server) http.Handler {
	if srv == nil {
		panic("websocket: Handler with a nil *rpcx.Server")
	}
	return &Acceptor{Server: srv}
}

// Acceptor is an [http.Handler] that accepts WebSockets. Its fields must not be
// changed once it serves. To a session, its peer is the other end of the
// connection: behind a reverse proxy that is the proxy, for Limits.Group as well,
// unless it looks for the client in the headers of [Request].
type Acceptor struct {
	// Server has the sessions.
	Server *rpcx.Server
	Config
	// Origins are the hosts whose pages may connect, beside the host that is
	// asked: patterns of [path.Match] for "host" or "host:port", or with a scheme
	// for "scheme://host". "null" is the origin that a browser hides: that of a file, of a
	// sandboxed frame, or after some redirections, whosever page it is. A request that
	// names no origin comes from no browser, and is accepted. "*" is everybody; what a session may do must not depend on
	// cookies or addresses then.
	// (A name that leads to this machine may be anybody's: a server for pages on
	// the same machine should look at the Host of requests before they come here.)
	Origins []string
	// MaxHeaderFields and MaxHeaderBytes are how large a request may be: how many fields
	// its header, and how many parameters its URL may have together, and how many bytes
	// both are. 0 means 100 and 16 KiB, a negative value no limit but that of the
	// [http.Server]. A session keeps its request, which counts for Server.MaxQueuedBytes.
	MaxHeaderFields int
	MaxHeaderBytes  int
	// Headers are the names of the header fields that a session keeps, for [Request], in
	// any case: those that the program will look at. Nil is all of them.
	Headers []string
}

// ServeHTTP answers a request for a WebSocket, and starts a session on it, which
// goes on when ServeHTTP has returned. It refuses pages of other origins (403),
// what is no such request, one that is too large (431), and all while the server accepts
// none (503); and all (501) if a middleware's [http.ResponseWriter] is no [http.Hijacker] and has no method
// Unwrap. Options of the server, and a Config, that are wrong panic, which package http
// logs. A session beyond Server.MaxGroup is closed at once, since its group can
// depend on the connection.
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
	if err != nil { // which has been answered
		a.logRefusal(r, err)
		return
	}
	c := newConn(ws, h.conn.corked, h.conn.Conn, control, a.Config)
	c.request = a.keep(r)
	c.kept = requestSize(c.request)
	a.Server.ServeMessageConn(c)
}

// logRefusal logs that a request was refused. Anybody can have that happen, and some of
// the errors repeat what the request has: so it logs a bounded number of records.
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

// hidden is the origin that a browser does not tell (RFC 6454, section 7.3).
const hidden = "null"

// allowsHidden reports whether r comes from a hidden origin, and may.
func (a *Acceptor) allowsHidden(r *http.Request) bool {
	return r.Header.Get("Origin") == hidden && slices.Contains(a.Origins, hidden)
}

// patterns returns Origins as the WebSocket takes them, to which "null" is a host.
func (a *Acceptor) patterns() []string {
	if !slices.Contains(a.Origins, hidden) {
		return a.Origins
	}
	return slices.DeleteFunc(slices.Clone(a.Origins), func(pattern string) bool { return pattern == hidden })
}

// Request returns the HTTP request that a session of an [Acceptor] came with, nil
// for any other session. It has no body, belongs to all who ask for it, and must not
// be changed. Of its header it has the fields that [Acceptor].Headers names. Its context
// does not end, and has the values of the one that the request was served with: so a
// middleware says who is there. In Limits.Group and
// Limits.Exempt, too, it can be asked for. A function for [rpcx.Func] does not take an
// *http.Request: it takes the *rpcx.Session, and calls Request.
func Request(s *rpcx.Session) *http.Request {
	if c, ok := s.Conn().(*conn); ok {
		return c.request
	}
	return nil
}

// hijackable reports whether w gives up its connection, by itself or by what it
// wraps, as [http.ResponseController] has it. A middleware's need not. The
// WebSocket refuses one that does not, as long as it is not hidden from it.
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

// hijacker gives the WebSocket a connection that can be corked.
type hijacker struct {
	http.ResponseWriter
	conn corkedConn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = corkedConn{conn, &corked{conn: conn}}
	h.conn.received.Store(uint64(rw.Reader.Buffered()))
	return h.conn, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(h.conn)), nil
}

// WriteHeaderNow is for the web framework gin, which keeps headers back.
func (h *hijacker) WriteHeaderNow() {
	if w, ok := h.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		w.WriteHeaderNow()
	}
}
