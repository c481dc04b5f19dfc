package rpchttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/duration"
)

// Handler is an [http.Handler] that answers the message, or the batch, of each POST. The
// package comment has the statuses. Server is required; the other fields have defaults. The
// fields must not be changed while serving.
type Handler struct {
	// Server handles the messages. Its Options, limits, budgets, Stats and Shutdown apply as
	// to its other sessions; see [rpcx.Server.ServeMessage]. Server need not listen itself.
	Server *rpcx.Server
	// MaxSize is the size of the largest message, in bytes: of a request body, after
	// decompression, and of a reply. 0 means [rpcx.DefaultMaxSize], a negative value no
	// limit. A larger body is refused with 413.
	MaxSize int
	// Origins lists the hosts whose pages may ask, besides the requested host. An element is
	// a pattern of [path.Match] for "host" or "host:port", or for "scheme://host". A request
	// without an origin comes from no browser, and is accepted. Other origins are refused
	// with 403.
	//
	// "null" is an origin hidden by the browser: of a file, of a sandboxed frame, or after
	// some redirections, from any page. "*" allows every page; the rights of a client must
	// not depend on addresses then. The browser sends cookies only if a middleware adds the
	// header Access-Control-Allow-Credentials.
	Origins []string
	// Hosts lists the hosts that the handler answers for: patterns of path.Match for "host"
	// or "host:port". "*" means every host. Other hosts are refused with 421.
	//
	// By default, every host is answered, with one exception. On a loopback address without
	// Client, a request must name a loopback address, localhost, or a name below .localhost.
	// Otherwise any page could reach the server, by a name that leads to this machine (DNS
	// rebinding). In a container, or for pages of a private network, set Hosts: the address
	// is no loopback address there. [CheckHosts] does the same for a whole mux.
	Hosts []string
	// Client returns the address whose budget the request uses, and which
	// [rpcx.Session.RemoteAddr] returns. Behind a proxy, set [XForwardedFor]. Default, and if
	// the result is not valid: the address of the connection.
	//
	// The group of a request is that of Limits.Group. If Limits.Group is nil or returns "",
	// the group is the address (a /64 of IPv6), also on a loopback address.
	Client func(*http.Request) netip.Addr
	// Admit decides whether a request is let in. If Admit returns an error, the answer is
	// 401, with the header "WWW-Authenticate: Bearer" unless a middleware has set another
	// value. The error is logged and not sent. A request that Admit lets in needs no
	// [rpcx.Session.Admit]. If Server has a Gate and Admit is nil, each request is refused
	// with 401.
	Admit func(*http.Request) error
	// Status returns the status of a reply that is a single error. p is the protocol of the
	// request. Default: 200. See [BitcoindStatus]. The status must be within 200 and 599, and
	// so must that of Empty.
	Status func(r *http.Request, e *rpcx.Error, p rpcx.Protocol) int
	// Empty returns the status where nothing is to be answered. Default: 204.
	Empty func(r *http.Request) int
	// ReadTimeout bounds the arrival of the body. 0 means 30 s, a negative value no limit. A
	// slower body is refused with 408. Handler sets and clears the deadlines of the
	// connection, in place of those of [http.Server]. (A middleware's http.ResponseWriter
	// needs a method Unwrap for that; see [http.ResponseController].)
	ReadTimeout time.Duration
	// SSE allows server-sent events: if a handler notifies, and the client accepts
	// text/event-stream, the notifications are sent while the handler runs.
	SSE bool
	// Compress is the size in bytes from which replies are compressed with gzip, if the
	// client accepts gzip. 0 means no compression.
	Compress int

	once     sync.Once
	settings settings
	held     atomic.Int64 // bytes of bodies, and of replies that are written; see largeBuffer
	spent    spentClients
	// forwardedLogged is set when an ignored X-Forwarded-For was logged.
	forwardedLogged atomic.Bool
}

// settings holds the fields of a Handler with defaults filled in.
type settings struct {
	err         error // of invalid fields
	maxSize     int
	maxHeld     int64
	maxBatch    int
	readTimeout time.Duration // 0 for none
	sendTimeout time.Duration // 0 for none
}

const (
	defaultReadTimeout = 30 * time.Second
	defaultSendTimeout = 20 * time.Second // of Limits.SendTimeout
	defaultMaxBatch    = 10000            // of Limits.Batch
	defaultMaxQueued   = 256 << 20        // of Server.MaxQueuedBytes
)

// resolve returns the settings. It panics if a field is invalid.
func (h *Handler) resolve() *settings {
	if h.Server == nil {
		panic("rpcx: rpchttp.Handler without a Server: set that field")
	}
	h.once.Do(func() { h.settings = h.newSettings() })
	if h.settings.err != nil {
		panic("rpcx: " + h.settings.err.Error())
	}
	return &h.settings
}

func (h *Handler) newSettings() settings {
	limits := &h.Server.Options.Limits
	s := settings{
		maxSize:     bounded.LimitOr(h.MaxSize, rpcx.DefaultMaxSize),
		maxHeld:     int64(bounded.LimitOr(h.Server.MaxQueuedBytes, defaultMaxQueued)),
		maxBatch:    bounded.LimitOr(limits.Batch, defaultMaxBatch),
		readTimeout: timeoutOr(h.ReadTimeout, defaultReadTimeout),
		sendTimeout: timeoutOr(limits.SendTimeout, defaultSendTimeout),
	}
	if s.err = duration.Check("rpchttp.Handler", h); s.err == nil {
		s.err = duration.CheckServer(h.Server)
	}
	for name, patterns := range map[string][]string{"Origins": h.Origins, "Hosts": h.Hosts} {
		if err := checkPatterns(patterns); err != nil {
			s.err = fmt.Errorf("rpchttp.Handler.%s has the %w", name, err)
		}
	}
	return s
}

// checkPatterns returns an error that names the last bad pattern, or nil.
func checkPatterns(patterns []string) (bad error) {
	for _, pattern := range patterns {
		if _, err := path.Match(pattern, ""); err != nil && net.ParseIP(trimBrackets(pattern)) == nil {
			bad = fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	return bad
}

// timeoutOr resolves a timeout: 0 means the default, a negative value none, which is 0.
func timeoutOr(d, byDefault time.Duration) time.Duration {
	if d == 0 {
		return byDefault
	}
	return max(d, 0)
}

// ServeHTTP answers a request. The package comment has the statuses.
//
// If Server is nil, or a field or an option of Server is invalid, ServeHTTP panics, and
// package http logs the panic.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := h.resolve()
	deadline := http.NewResponseController(w)
	if s.readTimeout > 0 {
		_ = deadline.SetReadDeadline(time.Now().Add(s.readTimeout)) // not every writer can
	}
	if h.answerPreflight(w, r) {
		return
	}
	no := h.checkRequest(w, r)
	var x *exchange
	var in body
	defer in.release(h)
	if no == nil {
		x = newExchange(h, r, s)
		if no = h.checkSpent(w, r, x); no == nil {
			no = in.read(h, r, s)
		}
	}
	// Without a whole message, the deadline stays, because package http reads the rest of
	// the body.
	if no != nil {
		h.refuse(w, r, no)
		return
	}
	if s.readTimeout > 0 && in.dropped == nil {
		_ = deadline.SetReadDeadline(time.Time{})
	}
	x.dropped = in.dropped
	out := responder{h: h, w: w, r: r, x: x, settings: s}
	var notify func(msg []byte) error
	if h.SSE && acceptsEvents(r) && canFlush(w) {
		stream := &eventStream{out: newDeadlineWriter(h, w)}
		defer stream.end()
		out.stream, notify = stream, stream.notify
	}
	reply, err := h.Server.ServeMessage(r.Context(), x, in.message(), notify)
	out.answer(&in, reply, err)
}

// refusal is why a request is refused before its message is handled.
type refusal struct {
	status int
	text   string // for the client
	err    error  // for the log, in place of text; may be nil
	quiet  bool   // not logged
	unread bool   // the rest of the body is not wanted
}

func (e *refusal) reason() error {
	if e.err != nil {
		return e.err
	}
	return errors.New(e.text)
}

// refuse answers a refused request, and logs the refusal.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, e *refusal) {
	if e.unread {
		closeConnection(w, r)
	}
	if e.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	h.boundAnswer(w, h.settings.readTimeout)
	http.Error(w, e.text, e.status)
	if !e.quiet {
		h.logRefusal(r, e)
	}
}

// closeConnection makes package http close the connection after the answer. In HTTP/2 the
// other requests of the connection go on.
func closeConnection(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

// logRefusal logs a refused request. Anybody can cause refusals, so the number of records
// is bounded.
func (h *Handler) logRefusal(r *http.Request, e *refusal) {
	log, level := h.Server.Options.Logger, slog.LevelWarn
	if e.status == http.StatusInternalServerError {
		level = slog.LevelError // the server's fault
	}
	if log == nil || !log.Enabled(r.Context(), level) {
		return
	}
	ok, skipped := bounded.OfServer(h.Server).Allow()
	if !ok {
		return
	}
	peer := r.RemoteAddr
	if h.Client != nil {
		if client := h.Client(r); client.IsValid() {
			peer = client.String()
		}
	}
	attrs := []slog.Attr{slog.String("peer", peer), slog.Int("status", e.status), slog.Any("error", bounded.Error(e.reason()))}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("records left out", skipped))
	}
	log.LogAttrs(context.Background(), level, "HTTP request refused", attrs...)
}
