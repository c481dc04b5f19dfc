package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"example.com/rpcx"
)

// largestReply is the maximum size of a proxy's answer to CONNECT, and of a server's answer
// to the handshake, in bytes.
const largestReply = 64 << 10

// hop describes the proxy of a request.
type hop struct {
	proxy *url.URL
	auth  string // Proxy-Authorization for an HTTP proxy; may be empty
}

// hopKey is the context key of a request's hop.
type hopKey struct{}

// through returns req for sending through a proxy. The proxy's credentials are removed from
// the header, so that the server does not see them.
func through(proxy *url.URL, req *http.Request) *http.Request {
	h := hop{proxy, req.Header.Get("Proxy-Authorization")}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		h.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
	}
	req = req.Clone(context.WithValue(req.Context(), hopKey{}, h))
	req.Header.Del("Proxy-Authorization")
	return req
}

// dialRequest connects to addr, a host:port, directly or through the hop in ctx.
func (d *Dialer) dialRequest(ctx context.Context, addr string) (net.Conn, error) {
	h, ok := ctx.Value(hopKey{}).(hop)
	if !ok {
		return d.Dialer.Connect(ctx, "tcp://"+addr)
	}
	conn, err := d.tunnel(ctx, h, addr)
	if err != nil {
		return nil, fmt.Errorf("connect through the proxy %s: %w", h.proxy.Redacted(), err)
	}
	return conn, nil
}

func (d *Dialer) tunnel(ctx context.Context, h hop, addr string) (net.Conn, error) {
	proxy, port := h.proxy, "80"
	switch proxy.Scheme {
	case "http":
	case "https":
		port = "443"
	default: // SOCKS, or an unknown scheme
		socks, err := rpcx.ParseSOCKSProxy(proxy.String())
		if err != nil {
			return nil, err
		}
		socks.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return d.Dialer.Connect(ctx, network+"://"+addr)
		}
		return socks.DialContext(ctx, "tcp", addr)
	}
	if p := proxy.Port(); p != "" {
		port = p
	}
	conn, err := d.Dialer.Connect(ctx, "tcp://"+net.JoinHostPort(proxy.Hostname(), port))
	if err != nil {
		return nil, err
	}
	if proxy.Scheme == "https" {
		config := d.TLS.Clone() // nil stays nil
		if config == nil {
			config = new(tls.Config)
		}
		config.ServerName, config.NextProtos = proxy.Hostname(), nil
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secured
	}
	closed := make(chan struct{})
	// Owner: this call, which waits for the end. End: conn is closed.
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		conn.Close()
	})
	err = connectTunnel(conn, h.auth, addr)
	if !stop() {
		<-closed
		return nil, context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// connectTunnel asks the HTTP proxy at the other end of conn for a tunnel to addr.
func connectTunnel(conn net.Conn, auth, addr string) error {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{}}
	if auth != "" {
		req.Header.Set("Proxy-Authorization", auth)
	}
	if err := req.Write(conn); err != nil {
		return err
	}
	limited := &io.LimitedReader{R: conn, N: largestReply}
	r := bufio.NewReader(limited)
	resp, err := http.ReadResponse(r, req)
	switch {
	case err != nil && limited.N == 0:
		return fmt.Errorf("it answers CONNECT with more than %d bytes", largestReply)
	case err != nil:
		return fmt.Errorf("read its answer to CONNECT: %w", err)
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("it answers CONNECT with status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	case r.Buffered() > 0:
		return errors.New("it sends more than its answer to CONNECT") // a server waits for the client to speak first
	}
	return nil
}
