package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// connection is what dial returns: a session, or a client of HTTP.
type connection struct {
	rpcx.Caller
	session *rpcx.Session // nil over HTTP
	target  target
}

// Close ends the connection in an orderly way, within seconds. A program that was started
// has ended then.
func (c *connection) Close() error {
	if c.session == nil {
		return c.Caller.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := c.session.Shutdown(ctx)
	if c.target.kind == kindStdio {
		<-c.session.Done()
	}
	return err
}

const closeTimeout = 2 * time.Second

// dial connects to t. opts may be nil; the fields that flags decide are set in a copy.
// Without a deadline in ctx, --timeout bounds the dialling. The errors have exit codes.
func (c *connFlags) dial(ctx context.Context, e *env, t target, opts *rpcx.Options) (*connection, error) {
	o, err := c.options(e, opts)
	if err != nil {
		return nil, err
	}
	d, err := c.newDialer(e, t)
	if err != nil {
		return nil, err
	}
	dialCtx, cancel := c.withTimeout(ctx)
	defer cancel()
	conn := &connection{target: t}
	switch t.kind {
	case kindHTTP:
		h := rpchttp.Dialer{TLS: d.TLS, SOCKS: d.SOCKS, Timeout: d.Timeout, Header: d.Header, MaxSize: c.maxSize}
		conn.Caller, err = h.Dial(t.addr, o)
	case kindStdio:
		cmd := exec.Command(t.command[0], t.command[1:]...)
		conn.session, err = rpcx.Command(context.WithoutCancel(ctx), cmd, o)
	case kindWS:
		conn.session, err = d.Dial(dialCtx, t.addr, o)
	default:
		conn.session, err = d.Dialer.Dial(dialCtx, t.addr, o)
	}
	if err != nil {
		return nil, connectionError(c.redact(err))
	}
	if conn.session != nil {
		conn.Caller = conn.session
	}
	return conn, nil
}

// withTimeout bounds ctx by --timeout, unless ctx has a deadline.
func (c *connFlags) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || c.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.timeout)
}

// options returns a copy of opts with what flags decide.
func (c *connFlags) options(e *env, opts *rpcx.Options) (*rpcx.Options, error) {
	var o rpcx.Options
	if opts != nil {
		o = *opts
	}
	o.Protocol = map[string]rpcx.Protocol{"2": rpcx.JSONRPCv2, "1": rpcx.JSONRPCv1, "loose": rpcx.JSONRPCLoose, "aiomas": rpcx.Aiomas}[c.protocol]
	framing := c.framing
	if framing == "" && c.protocol == "aiomas" {
		framing = "length"
	}
	switch framing {
	case "lsp":
		o.Framer = rpcx.HeaderFramer{MaxSize: c.maxSize}
	case "length":
		o.Framer = rpcx.LengthFramer{MaxSize: c.maxSize}
	case "json":
		o.Framer = rpcx.JSONFramer{MaxSize: c.maxSize}
	default:
		o.Framer = rpcx.NewlineFramer{MaxSize: c.maxSize}
	}
	switch c.cancel {
	case "lsp":
		o.Cancellation = rpcx.LSPCancellation
	case "mcp":
		o.Cancellation = rpcx.MCPCancellation
	}
	if o.Limits.RequestTimeout == 0 {
		o.Limits.RequestTimeout = cmp.Or(c.timeout, -1)
	}
	if c.verbose && o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(&escapingWriter{e.stderr, e.stderrTTY}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return &o, nil
}

// newDialer returns a dialer for streams and WebSockets with what flags decide.
func (c *connFlags) newDialer(e *env, t target) (*websocket.Dialer, error) {
	d := &websocket.Dialer{Config: websocket.Config{MaxSize: c.maxSize}}
	d.Timeout = cmp.Or(c.timeout, -1)
	var err error
	if t.secure {
		if d.TLS, err = c.tlsConfig(e); err != nil {
			return nil, err
		}
	}
	if c.proxy != "" {
		if d.SOCKS, err = rpcx.ParseSOCKSProxy(c.proxy); err != nil {
			return nil, usagef("--proxy: %w", c.redact(err))
		}
	}
	d.Header, err = c.header()
	return d, err
}

func (c *connFlags) tlsConfig(e *env) (*tls.Config, error) {
	config := &tls.Config{ServerName: c.sni, InsecureSkipVerify: c.insecure}
	if c.insecure {
		fmt.Fprintln(e.stderr, "warning: --insecure: anybody on the way can read and change what is sent")
	}
	if c.tlsCA != "" {
		pem, err := os.ReadFile(c.tlsCA)
		if err != nil {
			return nil, usagef("--tls-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("--tls-ca: %s has no certificate in PEM", c.tlsCA)
		}
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, cmp.Or(c.key, c.cert))
		if err != nil {
			return nil, usagef("--cert, --key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// header returns the HTTP header of --header and --auth. Errors do not show values.
func (c *connFlags) header() (http.Header, error) {
	header := http.Header{}
	for _, h := range c.headers {
		lines := []string{h}
		if path, ok := strings.CutPrefix(h, "@"); ok {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, usagef("--header: %w", err)
			}
			lines = strings.Split(strings.TrimSpace(string(text)), "\n")
		}
		for _, line := range lines {
			name, value, ok := strings.Cut(line, ":")
			if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t\"") {
				return nil, usagef("--header: want 'Name: value' or @FILE")
			}
			header.Add(textproto.CanonicalMIMEHeaderKey(name), strings.TrimSpace(value))
		}
	}
	if c.auth == "" {
		return header, nil
	}
	auth := c.auth
	if path, ok := strings.CutPrefix(auth, "@"); ok {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, usagef("--auth: %w", err)
		}
		auth = strings.TrimSpace(string(text))
	}
	if token, ok := strings.CutPrefix(auth, "bearer:"); ok {
		header.Set("Authorization", "Bearer "+token)
		return header, nil
	}
	if !strings.Contains(auth, ":") {
		return nil, usagef("--auth: want user:password, bearer:TOKEN, or @FILE with one of these")
	}
	header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(auth)))
	return header, nil
}

// redact returns err. A text of err with the password of a URL of the command line is
// replaced.
func (c *connFlags) redact(err error) error { return err }
