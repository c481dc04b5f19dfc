package rpchttp

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/duration"
)

// Dialer makes Clients of HTTP servers. The zero value is ready to use.
type Dialer struct {
	// Client sends the requests. Default: a client of the [Client]'s own, with up to 100 idle
	// connections, HTTP/2 over TLS, the proxy of the environment
	// ([http.ProxyFromEnvironment]), and no redirects from https to http. A Client given here
	// may be shared: Close does not close its idle connections. Its CheckRedirect, if set,
	// replaces the rule for https.
	Client *http.Client
	// TLS configures https addresses, and SOCKS is the proxy for every connection; see
	// [rpcx.ParseSOCKSProxy]. The SOCKS proxy looks up the server's name. Both are for the
	// default Client, and an error with another: its Transport has TLSClientConfig and
	// DialContext.
	TLS   *tls.Config
	SOCKS *rpcx.SOCKSProxy
	// Timeout bounds the making of a connection of the default Client, and then the TLS
	// handshake. 0 means 30 s; with a negative value only the context bounds both.
	Timeout time.Duration
	// IdleTimeout is how long a connection of the default Client stays open without requests.
	// 0 means 50 s, a negative value no limit. If a server closes idle connections earlier,
	// set less: node does so after 5 s. Otherwise a call that is sent at this moment can fail,
	// and is not repeated unless it is Idempotent.
	IdleTimeout time.Duration

	// Header is sent with each request. It may replace Content-Type (application/json),
	// Accept and User-Agent, and Host names another host in the request. For a fixed bearer
	// token, set Authorization here. A user and a password in the URL are sent by basic
	// authorization. If a redirect leads to another host, that host gets only Content-Type,
	// Accept and User-Agent, and nothing that Auth has set.
	// With a header Idempotency-Key, package http itself repeats each message once its
	// connection has broken, whatever Idempotent says.
	Header http.Header
	// Auth adds credentials that change, by r.Header.Set or r.SetBasicAuth. Auth is called for
	// each request, also for a repeated one. ctx has the values of the caller's context. For a
	// signature, Auth may read r.Body to the end; with Compress, the body is compressed. If
	// Auth fails, nothing is sent, and the call fails with a [*rpcx.ConnectionError] that
	// wraps the error. Default: none.
	Auth func(ctx context.Context, r *http.Request) error
	// CallHeader returns headers for a message, which replace those of Header: a trace context
	// for example. ctx has the values of the caller's context, as the functions of
	// Options.OnCall or, for a batch, of Options.OnBatchCall have left them. CallHeader is
	// called for each request, also for a repeated one, before Auth. Default: none.
	CallHeader func(ctx context.Context) map[string]string
	// Meta sends the trace context of a call, the strings "traceparent" and "tracestate" in
	// [rpcx.OutgoingCall].Meta, as headers of these names, whether or not Options.Meta sends
	// them in the message. A batch has the headers of its first member with a trace context.
	Meta bool
	// Compress sends messages of 1 KiB and more with gzip, and accepts replies with gzip. Not
	// every server takes compressed requests; the others answer 415 or 400.
	Compress bool

	// MaxSize is the size of the largest reply in bytes, after decompression. With
	// server-sent events it is the size of an event, and of all responses together. 0 means
	// [rpcx.DefaultMaxSize], a negative value no limit. If a reply is larger, the call fails
	// with an [*rpcx.SizeError].
	MaxSize int
	// Retries is the number of times that a message is sent again. 0 means 2, a negative
	// value none. See "Repetition" at [Client].
	Retries int
	// MaxRetryWait bounds the wait before a message is sent again. 0 means 30 s, a negative
	// value no limit. If the server asks for a longer time, the message is not sent again.
	// Without Retry-After, the wait is random: at most 100 ms at first, then twice as much
	// each time, up to 30 s.
	MaxRetryWait time.Duration
	// Idempotent reports whether a second execution of a method does no harm, so that a call
	// may be repeated although it may have been carried out. Default: no method is.
	Idempotent func(method string) bool
}

// Dial returns a [Client] for url, like [Dialer.Dial] with a zero Dialer.
func Dial(url string, opts *rpcx.Options) (*Client, error) {
	var d Dialer
	return d.Dial(url, opts)
}

// Dial returns a [Client] that sends its messages to url by POST. Dial connects to nothing:
// the Client connects when there is something to send. Close the Client to release its
// connections and goroutines. A nil opts means the zero [rpcx.Options].
//
// Addresses are http://host/path, https://host/path, and for a unix socket
// unix:///path/of/socket or unix:///path/of/socket:/path of the URL, as in
// unix:///run/app.sock:/rpc. An abstract socket is unix://@name.
//
// Of opts count the fields that [rpcx.NewExchange] names. Handler and Middleware receive
// the notifications in server-sent events; see [Client].
func (d *Dialer) Dial(url string, opts *rpcx.Options) (*Client, error) {
	c, err := d.newClient(url, opts)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", redacted(url), bounded.Error(err))
	}
	return c, nil
}

func (d *Dialer) newClient(addr string, opts *rpcx.Options) (*Client, error) {
	u, socket, err := parseAddress(addr)
	if err == nil {
		err = errors.Join(duration.Check("Dialer", d), checkOptions(opts))
	}
	if err != nil {
		return nil, err
	}
	t := newTransport(d, u, opts)
	if t.client, err = d.httpClient(t.conns, socket); err != nil {
		return nil, err
	}
	if d.Meta {
		opts = withTraceHeaders(opts)
	}
	return &Client{Exchange: rpcx.NewExchange(t, opts)}, nil
}

// errOptionsValid is the error of checkOptions within DialMessageSession.
var errOptionsValid = errors.New("the options are valid")

// checkOptions returns why opts is invalid, where NewExchange panics.
func checkOptions(opts *rpcx.Options) error {
	_, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return nil, errOptionsValid }, opts)
	if err == errOptionsValid {
		return nil
	}
	return err
}

const wantedAddresses = "want http://host/path, https://host/path or unix:///path/of/socket:/path"

// parseAddress returns the URL of addr. If addr is a unix socket, parseAddress also returns
// the path of the socket.
func parseAddress(addr string) (u *url.URL, socket string, err error) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		return nil, "", errors.New("the address has no scheme: " + wantedAddresses)
	}
	switch strings.ToLower(scheme) {
	case "http", "https":
	case "unix":
		path := ""
		if socket, path, _ = strings.Cut(rest, ":/"); socket == "" {
			return nil, "", errors.New("the address names no socket: " + wantedAddresses)
		}
		addr = "http://localhost/" + path
	case "ws", "wss":
		return nil, "", errors.New("the address is a WebSocket's: see the package websocket")
	case "tcp", "tls", "ssl":
		return nil, "", errors.New("the address is no URL of HTTP: see rpcx.Dial")
	default:
		return nil, "", fmt.Errorf("the scheme %.20q is unknown: %s", scheme, wantedAddresses)
	}
	u, err = url.Parse(addr)
	if e, ok := errors.AsType[*url.Error](err); ok {
		return nil, "", e.Err // without the address, which may have a password
	}
	if err == nil && u.Hostname() == "" {
		err = errors.New("the address has no host: " + wantedAddresses)
	}
	return u, socket, err
}

// redacted returns addr without a password.
func redacted(addr string) string {
	u, err := url.Parse(addr)
	if err == nil && u.User != nil {
		return u.Redacted()
	}
	if strings.Contains(addr, "@") && !strings.Contains(addr, "unix://@") {
		return "(an address with a user)"
	}
	return addr
}

// idleConnections is the number of idle connections to a host that are kept.
const idleConnections = 100

// pingInterval is the longest silence of a connection of HTTP/2, and then the time for the
// answer to a ping. All calls share the connection: a dead one would fail them until TCP
// gives up, after a quarter of an hour.
const pingInterval = 15 * time.Second

// maxResponseHeader is the size of the largest header of a response, in bytes.
const maxResponseHeader = 64 << 10

// httpClient returns the client for the requests: a copy of d.Client, or a client with the
// connections of conns, over the given unix socket if it is not empty.
func (d *Dialer) httpClient(conns *clientConns, socket string) (*http.Client, error) {
	if d.Client != nil {
		switch {
		case d.SOCKS != nil || d.TLS != nil:
			return nil, errors.New("Dialer.Client is set, so that SOCKS and TLS have no effect: set DialContext and TLSClientConfig of its Transport")
		case socket != "":
			return nil, errors.New("Dialer.Client does not dial unix sockets: leave it nil, or set DialContext of its Transport and dial http://localhost/path")
		}
		client := *d.Client
		client.CheckRedirect = checkRedirect(client.CheckRedirect)
		return &client, nil
	}
	if socket != "" && d.SOCKS != nil {
		return nil, errors.New("a unix socket cannot be dialled through Dialer.SOCKS")
	}
	dial := new(net.Dialer).DialContext
	proxy := http.ProxyFromEnvironment
	switch {
	case socket != "":
		proxy = nil
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	case d.SOCKS != nil:
		proxy, dial = nil, d.SOCKS.DialContext
	}
	transport := &http.Transport{
		DialContext:            conns.dialling(dial, d.Timeout),
		Proxy:                  proxy,
		TLSClientConfig:        d.TLS.Clone(),                             // nil stays nil
		TLSHandshakeTimeout:    max(0, cmp.Or(d.Timeout, 30*time.Second)), // 0 means none
		ForceAttemptHTTP2:      true,                                      // also with TLS and DialContext
		MaxIdleConnsPerHost:    idleConnections,
		IdleConnTimeout:        max(0, cmp.Or(d.IdleTimeout, 50*time.Second)), // 0 means none
		MaxResponseHeaderBytes: maxResponseHeader,
		DisableCompression:     true, // readReply decompresses
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingInterval, PingTimeout: pingInterval},
	}
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect(nil)}, nil
}

// checkRedirect returns the CheckRedirect of a client. A redirect that would lose the
// message is not followed; the response becomes a StatusError. Another host gets only the
// headers that describe the message. Otherwise next decides. If next is nil, up to 10
// redirects are followed, and none from https to http.
func checkRedirect(next func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(r *http.Request, via []*http.Request) error {
		last := via[len(via)-1]
		if r.URL.Hostname() != via[0].URL.Hostname() {
			maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return !slices.Contains(headersOfMessage, name) })
		}
		switch {
		case r.Method != last.Method:
			return http.ErrUseLastResponse
		case next != nil:
			if err := next(r, via); err != nil {
				return err
			}
		case len(via) >= 10:
			return errors.New("stopped after 10 redirects")
		case last.URL.Scheme == "https" && r.URL.Scheme != "https":
			return http.ErrUseLastResponse
		}
		if b, ok := r.Body.(*messageBody); ok {
			b.delivery.sent.Store(false) // the server that redirects has not carried the message out
		}
		return nil
	}
}

// headersOfMessage are the headers for each host that a redirect leads to. The others may
// have secrets: those of Dialer.Header and Dialer.Auth, and Referer with the first URL.
var headersOfMessage = []string{"Accept", "Accept-Encoding", "Content-Encoding", "Content-Type", "User-Agent"}

// maxSize returns MaxSize with its default.
func (d *Dialer) maxSize() int {
	if d.MaxSize < 0 {
		return math.MaxInt - 1 // so that a byte more can be read
	}
	return cmp.Or(d.MaxSize, rpcx.DefaultMaxSize)
}

// retries returns Retries with its default.
func (d *Dialer) retries() int { return max(0, cmp.Or(d.Retries, 2)) }

// maxRetryWait returns MaxRetryWait with its default.
func (d *Dialer) maxRetryWait() time.Duration {
	if d.MaxRetryWait < 0 {
		return math.MaxInt64
	}
	return cmp.Or(d.MaxRetryWait, 30*time.Second)
}
