package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
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
	flags   *connFlags
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

// dial connects to t, within --timeout. opts may be nil; the fields that flags decide are
// set in a copy. Other fields, such as Limits, are used as they are. The errors have exit
// codes. Several goroutines may dial at once.
func (c *connFlags) dial(ctx context.Context, e *env, t target, opts *rpcx.Options) (*connection, error) {
	o := c.options(e, opts)
	d, err := c.newDialer(e, t)
	if err != nil {
		return nil, err
	}
	dialCtx, cancel := c.withTimeout(ctx)
	defer cancel()
	conn := &connection{target: t, flags: c}
	switch t.kind {
	case kindHTTP:
		h := rpchttp.Dialer{TLS: d.TLS, SOCKS: d.SOCKS, Timeout: d.Timeout, Header: d.Header, MaxSize: c.sizeLimit(), Retries: c.retries}
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
		return nil, c.explain(err, heardUnknown)
	}
	if conn.session != nil {
		conn.Caller = conn.session
	}
	if c.verbose {
		notice(e, "%s", c.redact(conn.description()))
	}
	return conn, nil
}

// withTimeout bounds ctx by --timeout.
func (c *connFlags) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.timeout)
}

// options returns a copy of opts with what flags decide.
func (c *connFlags) options(e *env, opts *rpcx.Options) *rpcx.Options {
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
		o.Framer = rpcx.HeaderFramer{MaxSize: c.sizeLimit()}
	case "length":
		o.Framer = rpcx.LengthFramer{MaxSize: c.sizeLimit()}
	case "json":
		o.Framer = rpcx.JSONFramer{MaxSize: c.sizeLimit()}
	default:
		o.Framer = rpcx.NewlineFramer{MaxSize: c.sizeLimit()}
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
		o.Logger = slog.New(slog.NewTextHandler(&logWriter{e, c}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return &o
}

// sizeLimit returns --max-size for the library, whose 0 is a default.
func (c *connFlags) sizeLimit() int { return cmp.Or(c.maxSize, -1) }

// newDialer returns a dialer for streams and WebSockets with what flags decide.
func (c *connFlags) newDialer(e *env, t target) (*websocket.Dialer, error) {
	d := &websocket.Dialer{Config: websocket.Config{MaxSize: c.sizeLimit()}}
	d.Timeout = cmp.Or(c.timeout, -1)
	if c.proxy == "" {
		d.Proxy = http.ProxyFromEnvironment // as for HTTP
	}
	var err error
	if t.secure {
		if d.TLS, err = c.tlsConfig(e); err != nil {
			return nil, err
		}
	}
	if c.proxy != "" {
		proxy, err := textOrFile("proxy", c.proxy)
		if err != nil {
			return nil, err
		}
		c.keepURLSecret(proxy)
		if d.SOCKS, err = rpcx.ParseSOCKSProxy(proxy); err != nil {
			return nil, usagef("--proxy: %s", c.redact(err.Error()))
		}
	}
	d.Header, err = c.header()
	return d, err
}

func (c *connFlags) tlsConfig(e *env) (*tls.Config, error) {
	config := &tls.Config{ServerName: c.sni, InsecureSkipVerify: c.insecure}
	if c.insecure {
		c.warnOnce.Do(func() {
			notice(e, "warning: --insecure: anybody on the way can read and change what is sent")
		})
	}
	if c.tlsCA != "" {
		pem, err := readSmallFile(c.tlsCA)
		if err != nil {
			return nil, usagef("--tls-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("--tls-ca: %s has no certificate in PEM", c.tlsCA)
		}
	}
	if c.cert != "" {
		pair, err := loadKeyPair(c.cert, c.key)
		if err != nil {
			return nil, usagef("--cert, --key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// textOrFile returns the value of a flag, or the text of the file after @. The arguments of
// a process are visible to other users, and files need not be.
func textOrFile(flag, value string) (string, error) {
	path, ok := strings.CutPrefix(value, "@")
	if !ok {
		return value, nil
	}
	text, err := readSmallFile(path)
	if err != nil {
		return "", usagef("--%s: %w", flag, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// maxSmallFile bounds files of credentials and certificates.
const maxSmallFile = 4 << 20

// readSmallFile reads a file of credentials or certificates.
func readSmallFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(text) > maxSmallFile {
		err = fmt.Errorf("%s has more than %d MiB", path, maxSmallFile>>20)
	}
	return text, err
}

// loadKeyPair reads a certificate and its key. Without a file of the key, the key is in that
// of the certificate.
func loadKeyPair(cert, key string) (tls.Certificate, error) {
	certPEM, err := readSmallFile(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM := certPEM
	if key != "" {
		if keyPEM, err = readSmallFile(key); err != nil {
			return tls.Certificate{}, err
		}
	}
	return tls.X509KeyPair(certPEM, keyPEM)
}

// header returns the HTTP header of --header and --auth. Errors do not show values.
func (c *connFlags) header() (http.Header, error) {
	header := http.Header{}
	for _, h := range c.headers {
		text, err := textOrFile("header", h)
		if err != nil {
			return nil, err
		}
		lines := []string{text}
		if text != h { // a file, with a header on each line
			lines = strings.Split(text, "\n")
		}
		for _, line := range lines {
			name, value, ok := strings.Cut(line, ":")
			if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(name, " \t\"") {
				return nil, usagef("--header: want 'Name: value' or @FILE")
			}
			if value = strings.TrimSpace(value); !isHeaderValue(value) {
				return nil, usagef("--header: the value of %s has control characters", name)
			}
			c.keepHeaderSecret(name, value)
			header.Add(textproto.CanonicalMIMEHeaderKey(name), value)
		}
	}
	if c.auth == "" {
		return header, nil
	}
	auth, err := textOrFile("auth", c.auth)
	if err != nil {
		return nil, err
	}
	if !isHeaderValue(auth) {
		return nil, usagef("--auth: the credentials have control characters")
	}
	c.keepSecret(auth)
	if token, ok := strings.CutPrefix(auth, "bearer:"); ok {
		c.keepSecret(token)
		header.Set("Authorization", "Bearer "+token)
		return header, nil
	}
	if !strings.Contains(auth, ":") {
		return nil, usagef("--auth: want user:password, bearer:TOKEN, or @FILE with one of these")
	}
	_, password, _ := strings.Cut(auth, ":")
	c.keepSecret(password)
	header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(auth)))
	return header, nil
}

// isHeaderValue reports whether HTTP can send a text as the value of a header.
func isHeaderValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// description says where a connection leads to.
func (c *connection) description() string {
	switch {
	case c.target.kind == kindHTTP:
		return "posting to " + c.target.shown
	case c.target.kind == kindStdio:
		return "started " + c.target.shown
	}
	text := "connected to " + c.target.shown
	if remote := c.session.RemoteAddr(); remote != nil && remote.String() != c.target.shown {
		text += " (" + remote.String() + ")"
	}
	conn, ok := c.session.Conn().(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return text
	}
	state := conn.ConnectionState()
	text += ", " + tls.VersionName(state.Version)
	if len(state.PeerCertificates) > 0 {
		text += ", certificate of " + state.PeerCertificates[0].Subject.String()
	}
	return text
}
