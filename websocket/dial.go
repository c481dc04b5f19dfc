package websocket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/duration"

	"github.com/coder/websocket"
)

// Dialer connects to WebSocket servers. The zero value is ready to use.
type Dialer struct {
	// Dialer makes the connection below. Its Timeout (30 s) also bounds the WebSocket
	// handshake; its TLS is for wss://.
	rpcx.Dialer
	Config
	// Header is sent with the request, for authorization or cookies, say. A field Host
	// replaces the address's host in the request; for the certificate, set TLS.ServerName.
	Header http.Header
	// Proxy returns the proxy for a request, or nil for a direct connection. By default no
	// proxy is used. An example is [http.ProxyFromEnvironment], which uses HTTP_PROXY for
	// ws:// and HTTPS_PROXY for wss://.
	//
	// An HTTP proxy (http:// or https://, with or without a user) opens a tunnel by
	// CONNECT, for ws:// and wss://. The proxy receives the Proxy-Authorization of Header;
	// TLS also applies to https:// proxies. Any other URL is a SOCKS proxy; see
	// [rpcx.ParseSOCKSProxy].
	Proxy func(*http.Request) (*url.URL, error)
}

// Dial connects to a server and starts a session, like [Dialer.Dial] with a zero Dialer.
// Addresses are ws://host/path and wss://host/path (http:// and https:// mean the same). If
// the server does not accept the WebSocket, the error is a [*StatusError].
func Dial(ctx context.Context, url string, opts *rpcx.Options) (*rpcx.Session, error) {
	var d Dialer
	return d.Dial(ctx, url, opts)
}

// Dial connects to a server and starts a session. Addresses are ws://host/path and
// wss://host/path (http:// and https:// mean the same). ctx bounds only the dialling; a nil
// opts means the zero [rpcx.Options].
func (d *Dialer) Dial(ctx context.Context, url string, opts *rpcx.Options) (*rpcx.Session, error) {
	s, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return d.connect(ctx, url) }, opts)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", redacted(url), bounded.Error(err))
	}
	return s, nil
}

// redacted returns addr without a password.
func redacted(addr string) string {
	if u, err := url.Parse(addr); err == nil && u.User != nil {
		return u.Redacted()
	}
	return addr
}

func (d *Dialer) connect(ctx context.Context, url string) (rpcx.MessageConn, error) {
	if err := errors.Join(checkScheme(url), duration.Check("Dialer", &d.Dialer), d.Config.check()); err != nil {
		return nil, err
	}
	ctx, cancel := bounded.DialTimeout(ctx, d.Timeout)
	defer cancel()
	var under net.Conn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { under = info.Conn },
	})
	t := &transport{proxy: d.Proxy, base: &http.Transport{
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return d.dialRequest(ctx, addr) },
		TLSClientConfig:   d.TLS,
		DisableKeepAlives: true, // the client sends a single request

		MaxResponseHeaderBytes: largestReply,
	}}
	defer t.base.CloseIdleConnections() // otherwise dialling would go on after the end of ctx
	header, host := splitHost(d.Header)
	control := d.controlFrames()
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient:      &http.Client{Transport: t, CheckRedirect: checkRedirect},
		HTTPHeader:      header,
		Host:            host,
		Subprotocols:    d.Subprotocols,
		CompressionMode: d.compression(),
		OnPingReceived:  control.received,
		OnPongReceived:  control.pong,
	})
	if err != nil && resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body) // the body is in memory
		return nil, &StatusError{resp.StatusCode, resp.Header, string(body)}
	} else if err != nil {
		return nil, bounded.DialError(ctx, err)
	}
	return newConn(ws, t.out, under, control, d.Config), nil
}

// checkScheme returns an error if addr has no scheme, or another transport's scheme.
func checkScheme(addr string) error {
	scheme, _, ok := strings.Cut(addr, "://")
	if !ok {
		return errors.New("the address has no scheme: want ws://host/path or wss://host/path")
	}
	switch strings.ToLower(scheme) {
	case "ws", "wss", "http", "https":
		return nil
	}
	return fmt.Errorf("the scheme %.20q is no WebSocket's: want ws://host/path or wss://host/path", scheme)
}

// checkRedirect bounds redirections to 10, as package http does; the WebSocket library has
// no bound. Redirections from wss:// to ws:// are refused, because secrets would be sent in
// the clear.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= 10:
		return errors.New("stopped after 10 redirections")
	case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
		return errors.New("redirected from wss:// to an insecure address")
	}
	return nil
}

// splitHost returns header without Host, and the value of Host, if any.
func splitHost(header http.Header) (rest http.Header, host string) {
	rest = header.Clone()
	for name, values := range header {
		if strings.EqualFold(name, "Host") {
			delete(rest, name)
			if len(values) > 0 {
				host = values[0]
			}
		}
	}
	return rest, host
}

// transport makes a corked connection for the WebSocket, through a proxy if there is one.
type transport struct {
	base  *http.Transport
	proxy func(*http.Request) (*url.URL, error) // may be nil
	out   *corked
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.proxy != nil {
		proxy, err := t.proxy(req)
		if err != nil {
			return nil, err
		}
		if proxy != nil {
			req = through(proxy, req)
		}
	}
	resp, err := t.base.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if conn, ok := resp.Body.(io.ReadWriteCloser); ok {
			t.out = newCorked(conn)
			resp.Body = t.out
		}
	}
	return resp, err
}
