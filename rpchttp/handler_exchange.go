package rpchttp

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"

	"example.com/rpcx"
)

// Request returns the HTTP request that a session of a [Handler] answers. For another
// session, the result is nil. The body of the request has been read. Callers share the
// request and must not change it. Limits.Group and Limits.Exempt may call Request, too.
//
// A function for [rpcx.Func] takes the *rpcx.Session and calls Request; an *http.Request is
// no valid parameter. The context of a handler derives from the context of the request.
func Request(s *rpcx.Session) *http.Request {
	if x, ok := s.Conn().(*exchange); ok {
		return x.request
	}
	return nil
}

// exchange is the connection of the session that answers a request. The methods are those
// of [rpcx.Server.ServeMessage].
type exchange struct {
	request  *http.Request
	maxSize  int
	admitted bool
	dropped  *rpcx.FrameError // nil if the message was received whole
	client   netip.Addr       // not valid for unix sockets
	addr     net.TCPAddr
	ip       [16]byte // of addr
}

// newExchange returns the exchange of an accepted request.
func newExchange(h *Handler, r *http.Request, s *settings) *exchange {
	x := &exchange{request: r, maxSize: s.maxSize, admitted: h.Server.Options.Gate != nil}
	peer := remoteAddr(r)
	x.client = peer.Addr()
	if h.Client != nil {
		if client := h.Client(r).Unmap().WithZone(""); client.IsValid() {
			x.client = client
		}
	}
	if x.client.IsValid() {
		x.ip = x.client.As16()
		x.addr.IP = x.ip[:]
	}
	if x.client == peer.Addr() {
		x.addr.Port = int(peer.Port())
		if len(r.Header[forwardedFor]) > 0 {
			h.logIgnoredHeader(r)
		}
	}
	return x
}

// logIgnoredHeader logs, once, that X-Forwarded-For is not believed.
func (h *Handler) logIgnoredHeader(r *http.Request) {
	log := h.Server.Options.Logger
	if log == nil || h.forwardedLogged.Swap(true) {
		return
	}
	log.LogAttrs(context.Background(), slog.LevelWarn,
		"X-Forwarded-For is ignored; if the peer is a proxy of yours, set rpchttp.Handler.Client to rpchttp.XForwardedFor with its address",
		slog.String("peer", r.RemoteAddr))
}

// RemoteAddr returns the address of the client, or nil if the address is unknown.
func (x *exchange) RemoteAddr() net.Addr {
	if !x.client.IsValid() {
		return nil
	}
	return &x.addr
}

// subnet returns the address of the client, or a /64 of IPv6. For unix sockets, the result
// is not valid.
func (x *exchange) subnet() netip.Prefix {
	bits := 64
	if x.client.Is4() {
		bits = 32
	}
	subnet, _ := x.client.Prefix(bits) // the number of bits is valid
	return subnet
}

// Group returns the group of a request for which Limits.Group returns none.
func (x *exchange) Group() string {
	if !x.client.IsValid() {
		return "unix"
	}
	return x.subnet().String()
}

// Header returns the values of a header of the request. Package otelrpcx reads the trace
// context by this method.
func (x *exchange) Header(name string) []string { return x.request.Header.Values(name) }

func (x *exchange) Admitted() bool            { return x.admitted } // or checkAdmission has refused the request
func (x *exchange) Dropped() *rpcx.FrameError { return x.dropped }
func (x *exchange) MaxMessage() int           { return x.maxSize }
func (x *exchange) MaxMessageField() string   { return maxSizeField }

const maxSizeField = "rpchttp.Handler.MaxSize"

// remoteAddr returns the address of the connection. For unix sockets, the result is not
// valid.
func remoteAddr(r *http.Request) netip.AddrPort {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}
