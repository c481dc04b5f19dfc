package main

import (
	"sync"
	"time"
)

// connFlags holds the flags for the address, the dialect and the limits of the peer.
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
	secure   bool // the target uses TLS

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
	// defaultMaxSize is above the library's default, because a person has asked for the reply.
	defaultMaxSize = 64 << 20
)

// declareConnFlags declares the flags of commands with a connection.
func declareConnFlags(fs *flags) *connFlags {
	c := &connFlags{protocol: "2", timeout: defaultTimeout, maxSize: defaultMaxSize}
	fs.group("Connection")
	fs.Choice(&c.framing, "framing", "`FRAMING`: how messages are kept apart. Default: line, or as ADDR says", "line", "lsp", "length", "json", "ws", "http")
	fs.Choice(&c.protocol, "protocol", "`VERSION`: JSON-RPC 2.0 or 1.0, a mix of both, or aiomas", "2", "1", "loose", "aiomas")
	fs.Choice(&c.cancel, "cancel", "`DIALECT`: tell the peer when a call is given up", "lsp", "mcp")
	fs.String(&c.stdio, "stdio", "`'COMMAND ARGS'`: start a program and talk to its stdin and stdout, in place of ADDR")
	fs.Duration(&c.timeout, "timeout", "`TIME`: the limit for connecting, and for each call; 0 for none")
	fs.Size(&c.maxSize, "max-size", "`SIZE`: the largest message; 0 for no limit")
	fs.String(&c.proxy, "proxy", "`URL`: a SOCKS proxy, as in socks5://user:password@host:port, or @FILE with the URL")
	fs.List(&c.headers, "header", "`'NAME: VALUE'`: an HTTP header, or @FILE with one on each line; may be repeated")
	fs.alias("H", "header")
	fs.String(&c.auth, "auth", "`CREDENTIALS`: user:password or bearer:TOKEN for HTTP, or @FILE with one of these, which no list of processes shows")
	fs.Bool(&c.verbose, "verbose", "report on stderr what happens to the connection")
	fs.alias("v", "verbose")
	fs.group("TLS")
	fs.Bool(&c.tls, "tls", "use TLS for an ADDR without a scheme")
	fs.File(&c.tlsCA, "tls-ca", "`FILE`: trust the certificates in this PEM file, in place of the system's")
	fs.File(&c.cert, "cert", "`FILE`: show the client certificate in this PEM file")
	fs.File(&c.key, "key", "`FILE`: the key of --cert. Default: in the file of --cert")
	fs.String(&c.sni, "sni", "`NAME`: ask for this server, and expect its certificate. Default: the host")
	fs.Bool(&c.insecure, "insecure", "accept any certificate")
	return c
}

// outputFlags holds the flags for the form of results.
type outputFlags struct {
	form  string
	jq    string
	color string
}

// declareOutputFlags declares the flags of commands with values to print. The default form
// is json, or the first of the command's own forms.
func declareOutputFlags(fs *flags, forms ...string) *outputFlags {
	forms = append(forms, "json", "compact", "raw", "table")
	o := &outputFlags{form: forms[0], color: "auto"}
	fs.group("Output")
	fs.Choice(&o.form, "output", "`FORM`: indented JSON; a line for each value; strings without quotes; rows and columns", forms...)
	fs.alias("o", "output")
	fs.String(&o.jq, "jq", "`FILTER`: print what the jq filter makes of each value")
	fs.Choice(&o.color, "color", "`WHEN`: auto colours on a terminal, unless NO_COLOR is set", "auto", "always", "never")
	return o
}
