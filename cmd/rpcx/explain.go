package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"example.com/rpcx"
)

// explainedError is an error with a text for the user of the command.
type explainedError struct {
	text string
	err  error
}

func (e *explainedError) Error() string { return e.text }
func (e *explainedError) Unwrap() error { return e.err }

// call calls a method, and explains the error.
func (c *connection) call(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	var result json.RawMessage
	err := c.Call(ctx, method, paramsOrNil(params), &result)
	return result, c.explain(err)
}

// explain returns err with a hint, and an exit code. Errors of the peer are unchanged.
func (c *connection) explain(err error) error {
	h := heardUnknown
	if c.session != nil {
		if h = heardSomething; c.session.Stats().BytesReceived == 0 {
			h = heardNothing
		}
	}
	return c.flags.explain(err, h)
}

// heard is whether the peer has sent something.
type heard int

const (
	heardUnknown heard = iota // while connecting, and over HTTP
	heardNothing
	heardSomething
)

// explain is explain of a connection, with what was heard of the peer.
func (c *connFlags) explain(err error, h heard) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*rpcx.Error](err); ok {
		return err
	}
	text, code := err.Error(), exitConnection
	switch unsent, _ := errors.AsType[*rpcx.ProtocolError](err); {
	case errors.Is(err, context.Canceled) && !errors.Is(err, rpcx.ErrConnectionLost):
		return err
	case unsent != nil && unsent.Unsent:
		code = exitUsage
	case errors.Is(err, context.DeadlineExceeded):
		text = strings.Replace(text, context.DeadlineExceeded.Error(), fmt.Sprintf("no reply within %v (--timeout)", c.timeout), 1)
		if h == heardNothing {
			text += "\nNothing came from the peer. Is the method slow? " + c.framingQuestion()
		}
	}
	if hint := hintFor(err, text); hint != "" {
		text += "\n" + hint
	} else if c.secure && c.cert == "" && h != heardSomething && isCut(err) {
		text += "\nDoes the peer ask for a client certificate? --cert and --key show one."
	} else if ended := strings.Contains(text, "program ended"); h == heardNothing && !ended && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		text += "\nThe peer has closed the connection without a word. Does it expect TLS (--tls)? " + c.framingQuestion()
	}
	return &exitError{code: code, err: &explainedError{c.redact(text), err}}
}

// isCut reports whether err is that of a connection that was cut, while writing or reading.
// With TLS 1.3, a peer refuses a client only after the handshake, and a write can fail before
// the refusal has been read.
func isCut(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// framingQuestion asks whether the flags fit a peer that says nothing.
func (c *connFlags) framingQuestion() string {
	framing := c.framing
	switch {
	case framing != "":
	case c.protocol == "aiomas":
		return "Does the peer speak aiomas?"
	default:
		framing = "line"
	}
	return fmt.Sprintf("Does the peer speak JSON-RPC with --framing %s?", framing)
}

// hints has what helps if an error has a text. The first that fits counts.
var hints = []struct{ text, hint string }{
	{"looks like HTTP", "Write http:// or ws:// before the address, or --framing http or ws."},
	{"as HeaderFramer reads", "Try --framing lsp."},
	{"as LengthFramer reads", "Try --framing length."},
	{"as JSONFramer reads", "Try --framing json."},
	{"as NewlineFramer and JSONFramer read", "Try --framing line or json."},
	{"expects TLS", "Try --tls, or tls:// in place of tcp://."},
	{"answers with status 426", "The path is that of a WebSocket: write ws:// in place of http://, or wss:// in place of https://."},
	{"request for a WebSocket with status 405", "Is the path that of HTTP? Write http:// in place of ws://, or https:// in place of wss://."},
	{"looks like SSH", "This port is not of a JSON-RPC server."},
	{"looks like a server of mail or files", "This port is not of a JSON-RPC server."},
	{"server gave HTTP response to HTTPS client", "The peer does not use TLS: try http:// or ws://."},
	{"does not look like a TLS handshake", "The peer does not use TLS: try tcp://, http:// or ws://."},
	{`malformed HTTP response "{`, "The peer speaks JSON without HTTP: try tcp://."},
	{`malformed HTTP response "Content-`, "The peer speaks JSON with headers, without HTTP: try tcp:// and --framing lsp."},
	{`malformed HTTP response "\x00\x00`, "The peer speaks JSON with lengths, without HTTP: try tcp:// and --framing length."},
	{`malformed HTTP response "\x15\x03`, "The peer expects TLS: try https:// or wss://."},
	{`malformed HTTP response "SSH-`, "This port is not of a JSON-RPC server."},
	{"malformed HTTP status code", "The peer does not speak HTTP: try tcp://, perhaps with --framing lsp."},
	{"malformed HTTP", "The peer does not speak HTTP: try tcp://."},
	{"certificate signed by unknown authority", "--tls-ca FILE trusts another authority; --insecure trusts anybody."},
	{"certificate is valid for", "--sni NAME asks for another name."},
	{"certificate is not valid for any names", "--sni NAME asks for another name."},
	{"doesn't contain any IP SANs", "--sni NAME asks for another name."},
	{"certificate required", "--cert and --key show a client certificate."},
	{"bad certificate", "--cert and --key show a client certificate."},
	{"executable file not found", "Is the program installed, and in PATH?"},
}

// hintFor returns what helps, or "".
func hintFor(err error, text string) string {
	if _, ok := errors.AsType[*rpcx.SizeError](err); ok {
		return "--max-size SIZE allows larger messages at this end."
	}
	for _, h := range hints {
		if strings.Contains(text, h.text) {
			return h.hint
		}
	}
	return ""
}

// redact removes what --auth, --header, --proxy and a URL have given as secrets.
func (c *connFlags) redact(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range c.secrets {
		text = strings.ReplaceAll(text, secret, "…")
	}
	return text
}

// keepSecret adds a text that no output may have. Short texts, such as 1 in "X-Count: 1",
// are no secrets. Longer secrets come first: a shorter one may be a part of them.
func (c *connFlags) keepSecret(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(text) >= 4 && !slices.Contains(c.secrets, text) {
		c.secrets = append(c.secrets, text, base64.StdEncoding.EncodeToString([]byte(text)))
		slices.SortStableFunc(c.secrets, func(a, b string) int { return len(b) - len(a) })
	}
}

// keepHeaderSecret adds the value of a header. Of a header with credentials, a peer may send
// a part back: the token after Bearer, or a cookie's value.
func (c *connFlags) keepHeaderSecret(name, value string) {
	c.keepSecret(value)
	if redactHeaders(name+": x") == name+": x" {
		return
	}
	const shortest = 8 // words such as Bearer are no secrets
	for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(" \t;,", r) }) {
		for _, text := range []string{part, strings.TrimLeft(part[strings.IndexByte(part, '=')+1:], "=")} {
			if len(text) >= shortest {
				c.keepSecret(text)
			}
		}
	}
	if encoded, ok := strings.CutPrefix(value, "Basic "); ok {
		if userPassword, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			_, password, _ := strings.Cut(string(userPassword), ":")
			c.keepSecret(string(userPassword))
			c.keepSecret(password)
		}
	}
}

// keepURLSecret adds the password of a URL, as written, as meant, and as HTTP sends it.
func (c *connFlags) keepURLSecret(text string) {
	if strings.HasPrefix(text, "stdio:") {
		return
	}
	_, rest, ok := strings.Cut(text, "://")
	if !ok {
		rest = text
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	end := strings.LastIndexByte(rest, '@') // a password may have an @
	if end < 0 {
		return
	}
	user := rest[:end]
	meant, err := url.PathUnescape(user)
	if err != nil {
		meant = user
	}
	name, password, hasPassword := strings.Cut(meant, ":")
	if !hasPassword {
		c.keepSecret(name) // a token, perhaps
		return
	}
	_, written, _ := strings.Cut(user, ":")
	c.keepSecret(meant)
	c.keepSecret(password)
	c.keepSecret(written)
}
