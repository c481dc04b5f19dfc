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
	// Dialer makes the connection below: its Timeout (30 s) bounds the WebSocket's
	// handshake as well, its TLS is for wss://.
	rpcx.Dialer
	Config
	// Header is sent with the request, for authorization or cookies, say. If it has
	// Host, that is the name by which the server is asked, in place of the address's;
	// TLS.ServerName is for the certificate.
	Header http.Header
	// Proxy returns the proxy for a request, nil for none, such as
	// [http.ProxyFromEnvironment], which takes HTTP_PROXY for ws:// and HTTPS_PROXY for
	// wss://. By default there is none. An HTTP proxy (http:// or https://, with or
	// without a user) is asked for a tunnel to the server, by CONNECT, for ws:// as for
	// wss://; it is sent Header's Proxy-Authorization, and TLS is for https://, too. Any
	// other URL is a SOCKS proxy's: see [rpcx.ParseSOCKSProxy].
	Proxy func(*http.Request) (*url.URL, error)
}

// Dial connects to a server at ws://host/path or wss://host/path (http:// and https:// are
// the same) and starts a session: [Dialer.Dial] with a zero Dialer. It fails with a [*StatusError] if the server
// answers with something else than a WebSocket.
func Dial(ctx context.Context, url string, opts *rpcx.Options) (*rpcx.Session, error) {
	var d Dialer
	return d.Dial(ctx, url, opts)
}

// Dial connects to a server at ws://host/path or wss://host/path (http:// and https:// are
// the same) and starts a session. ctx bounds only the dialling; a nil opts is the zero [rpcx.Options].
func (d *Dialer) Dial(ctx context.Context, url string, opts *rpcx.Options) (*rpcx.Session, error) {
	s, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return d.connect(ctx, url) }, opts)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", redacted(url), bounded.Error(err))
	}
	return s, nil
}

// redacted returns an address without its password.
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
		DisableKeepAlives: true, // there is one request

		MaxResponseHeaderBytes: largestReply,
	}}
	defer t.base.CloseIdleConnections() // or it would go on dialling when ctx has ended
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
		body, _ := io.ReadAll(resp.Body) // is in memory
		return nil, &StatusError{resp.StatusCode, resp.Header, string(body)}
	} else if err != nil {
		return nil, bounded.DialError(ctx, err)
	}
	return newConn(ws, t.out, under, control, d.Config), nil
}

// checkScheme returns an error if an address is of another transport, or has no scheme.
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

// checkRedirect follows as many redirections as package http does (the WebSocket
// library follows them without end), but none from wss:// to ws://, where what is
// secret would be sent in the clear.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= 10:
		return errors.New("stopped after 10 redirections")
	case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
		return errors.New("redirected from wss:// to an insecure address")
	}
	return nil
}

// splitHost returns a header without Host, and what that says, "" if nothing.
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

// transport gives the WebSocket a connection that can be corked, through a proxy if
// there is one.
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
			t.out = &corked{conn: conn}
			resp.Body = t.out
		}
	}
	return resp, err
}
