package websocket

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"

	"example.com/rpcx"

	"github.com/coder/websocket"
)

// Handler returns an [http.Handler] that runs a session of srv on each WebSocket
// that it accepts: an [Acceptor] with its defaults. srv need not listen itself;
// its limits, its OnSession and its Shutdown are for these sessions, too.
func Handler(srv *rpcx.Server) http.Handler { return &Acceptor{Server: srv} }

// Acceptor is an [http.Handler] that accepts WebSockets. Its fields must not be
// changed once it serves. To a session, its peer is the other end of the
// connection: behind a reverse proxy that is the proxy, for Limits.Group as well.
type Acceptor struct {
	// Server has the sessions.
	Server *rpcx.Server
	Config
	// Origins are the hosts whose pages may connect, beside the host that is
	// asked: patterns of [path.Match] for "host" or "host:port", or with a scheme
	// for "scheme://host". A request that names no origin comes from no browser,
	// and is accepted. "*" is everybody; what a session may do must not depend on
	// cookies or addresses then.
	// (A name that leads to this machine may be anybody's: a server for pages on
	// the same machine should look at the Host of requests before they come here.)
	Origins []string
}

// ServeHTTP answers a request for a WebSocket, and starts a session on it, which
// goes on when ServeHTTP has returned. It refuses pages of other origins (403), and
// what is no such request; and all (501) if a middleware's [http.ResponseWriter] is
// no [http.Hijacker] and has no method Unwrap.
func (a *Acceptor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := &hijacker{ResponseWriter: w}
	if hijackable(w) {
		w = h
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		OriginPatterns:  a.Origins,
		Subprotocols:    a.Subprotocols,
		CompressionMode: a.compression(),
	})
	if err != nil { // which has been answered
		if log := a.Server.Options.Logger; log != nil {
			log.LogAttrs(context.Background(), slog.LevelWarn, "WebSocket refused",
				slog.String("peer", r.RemoteAddr), slog.Any("error", err))
		}
		return
	}
	a.Server.ServeMessageConn(newConn(ws, h.conn.corked, h.conn.Conn, a.Config))
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
	return h.conn, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(h.conn)), nil
}

// WriteHeaderNow is for the web framework gin, which keeps headers back.
func (h *hijacker) WriteHeaderNow() {
	if w, ok := h.ResponseWriter.(interface{ WriteHeaderNow() }); ok {
		w.WriteHeaderNow()
	}
}
