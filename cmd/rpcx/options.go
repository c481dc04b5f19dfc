package main

import (
	"sync"
	"time"
)

// connFlags is the flags that say how to reach the peer, and which dialect it speaks.
type connFlags struct {
	framing  string
	protocol string
	cancel   string
	stdio    string
	timeout  time.Duration
	maxSize  int

	tls      bool
	tlsCA    string
	cert     string
	key      string
	sni      string
	insecure bool

	proxy   string
	headers []string
	auth    string
	verbose bool
	retries int // over HTTP; 0 for the library's default, negative for none

	warnOnce sync.Once  // for --insecure
	mu       sync.Mutex // guards secrets
	secrets  []string   // texts that no output may have; see redact
}

const (
	defaultTimeout = 30 * time.Second
	// defaultMaxSize is more than the library's: a person who asks for a large reply wants it.
	defaultMaxSize = 64 << 20
)

// declareConnFlags declares the flags of every command that connects.
func declareConnFlags(fs *flags) *connFlags {
	c := &connFlags{protocol: "2", timeout: defaultTimeout, maxSize: defaultMaxSize}
	fs.group("Connection")
	fs.Choice(&c.framing, "framing", "how messages are kept apart: `FRAMING`. Default: line, or as ADDR says", "line", "lsp", "length", "json", "ws", "http")
	fs.Choice(&c.protocol, "protocol", "JSON-RPC 2.0, 1.0, a mix of both, or aiomas: `VERSION`", "2", "1", "loose", "aiomas")
	fs.Choice(&c.cancel, "cancel", "how the peer is told of an abandoned call: `DIALECT`. Default: not at all", "lsp", "mcp")
	fs.String(&c.stdio, "stdio", "start `'COMMAND ARGS'` and talk to its stdin and stdout; takes the place of ADDR")
	fs.Duration(&c.timeout, "timeout", "the `TIME` for connecting, and for each call; 0 for no limit")
	fs.Int(&c.maxSize, "max-size", "the size of the largest message, in `BYTES`")
	fs.String(&c.proxy, "proxy", "a SOCKS `URL`, as in socks5://user:password@host:port")
	fs.List(&c.headers, "header", "an HTTP header, as in `'Name: value'`, or @FILE with one on each line; may be repeated")
	fs.alias("H", "header")
	fs.String(&c.auth, "auth", "HTTP `CREDENTIALS`: user:password, bearer:TOKEN, or @FILE with one of these")
	fs.group("TLS")
	fs.Bool(&c.tls, "tls", "use TLS for an ADDR without a scheme")
	fs.File(&c.tlsCA, "tls-ca", "trust the certificates in the PEM `FILE` in place of the system's")
	fs.File(&c.cert, "cert", "show the client certificate in the PEM `FILE`")
	fs.File(&c.key, "key", "the PEM `FILE` with the key of --cert. Default: the file of --cert")
	fs.String(&c.sni, "sni", "the `NAME` to ask for, and to find in the certificate. Default: the host")
	fs.Bool(&c.insecure, "insecure", "accept any certificate")
	fs.group("Other")
	fs.Bool(&c.verbose, "verbose", "report on stderr what happens to the connection")
	fs.alias("v", "verbose")
	return c
}

// outputFlags is the flags that say how results are printed.
type outputFlags struct {
	form  string
	jq    string
	color string
}

// declareOutputFlags declares the flags of every command that prints values. The default
// form is json, or the first of forms that the command adds.
func declareOutputFlags(fs *flags, forms ...string) *outputFlags {
	forms = append(forms, "json", "compact", "raw", "table")
	o := &outputFlags{form: forms[0], color: "auto"}
	fs.group("Output")
	fs.Choice(&o.form, "output", "json: indented; compact: a line for each value; raw: strings without quotes; table: rows and columns. `FORM`", forms...)
	fs.alias("o", "output")
	fs.String(&o.jq, "jq", "print what the jq `FILTER` makes of each value")
	fs.Choice(&o.color, "color", "`WHEN` to colour. auto: on a terminal, unless NO_COLOR is set", "auto", "always", "never")
	return o
}
