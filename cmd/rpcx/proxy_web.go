package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
)

// serveWeb passes requests of HTTP on, and WebSockets. base is the path of LISTEN.
func (p *proxyCall) serveWeb(ctx context.Context, l net.Listener, base string) error {
	d, err := p.conn.newDialer(p.e, p.target)
	if err != nil {
		return err
	}
	to, err := url.Parse(p.target.addr)
	if err != nil {
		return usagef("%w", withoutURL(err))
	}
	to.Scheme = strings.Replace(to.Scheme, "ws", "http", 1)
	transport := &http.Transport{
		TLSClientConfig: d.TLS, DisableCompression: true, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: p.conn.timeout, MaxResponseHeaderBytes: 1 << 20,
	}
	if d.SOCKS != nil {
		transport.DialContext = d.SOCKS.DialContext
	}
	defer transport.CloseIdleConnections()
	passer := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		ErrorLog: log.New(io.Discard, "", 0), // ErrorHandler reports
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = joinTarget(to, base, r.In.URL)
			r.Out.Host = ""
			r.Out.Header.Del("Accept-Encoding")
			r.Out.Header.Del("Sec-WebSocket-Extensions")
			maps.Copy(r.Out.Header, d.Header)
		},
		ModifyResponse: p.tapResponse,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if ctx.Err() == nil {
				p.log.tell(exchangeOf(r.Context()).conn, "no answer: %s", p.conn.explain(err, heardUnknown))
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	web := &http.Server{
		Handler:           p.tapRequest(passer),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, int(p.links.Add(1)))
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { web.Close() })
	defer stop()
	err = web.Serve(&admittingListener{l, p})
	if ctx.Err() != nil {
		return nil
	}
	return connectionError(err)
}

// admittingListener accepts as many connections as --max-conns says.
type admittingListener struct {
	net.Listener
	p *proxyCall
}

func (l *admittingListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.p.admit(conn) {
			return &admittedConn{Conn: conn, leave: sync.OnceFunc(func() { <-l.p.open })}, nil
		}
	}
}

type admittedConn struct {
	net.Conn
	leave func()
}

func (c *admittedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// webPath returns the path of a web address, without a slash at its end.
func webPath(t target) string {
	u, err := url.Parse(t.addr)
	if err != nil || t.kind == kindStream {
		return ""
	}
	return strings.TrimSuffix(u.EscapedPath(), "/")
}

// webAddr returns the address of a stream as clients of HTTP or WebSockets write it. A unix
// socket keeps its address.
func webAddr(addr, kind string) string {
	switch scheme, rest, _ := strings.Cut(addr, "://"); scheme {
	case "tcp":
		return kind + "://" + rest
	case "tls":
		return kind + "s://" + rest
	}
	return addr
}

// joinTarget returns where a request for in goes: to the target's own path for / and for
// base, the path of LISTEN, and below the target's path for others.
func joinTarget(to *url.URL, base string, in *url.URL) *url.URL {
	out := *to
	path := in.EscapedPath()
	if rest, ok := strings.CutPrefix(path, base); ok && (rest == "" || rest[0] == '/') {
		path = rest
	}
	if out.Path == "" {
		out.Path = "/" // JoinPath keeps a path without a slash
	}
	if path != "" && path != "/" {
		out = *out.JoinPath(path)
	}
	switch {
	case out.RawQuery == "":
		out.RawQuery = in.RawQuery
	case in.RawQuery != "":
		out.RawQuery += "&" + in.RawQuery
	}
	return &out
}

type (
	connKey     struct{}
	exchangeKey struct{}
)

// exchange is a request of HTTP with its response, or a WebSocket.
type exchange struct {
	conn  int
	calls *callTable
}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// shownLimit returns the size of the largest message that is shown.
func (p *proxyCall) shownLimit() int {
	if p.conn.maxSize == 0 {
		return math.MaxInt / 2
	}
	return p.conn.maxSize
}

// tapRequest shows the body of a request before the request goes on.
func (p *proxyCall) tapRequest(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.running.Add(1)
		defer p.running.Done()
		n, _ := r.Context().Value(connKey{}).(int)
		x := &exchange{conn: n, calls: newCallTable()}
		limit := p.shownLimit()
		start, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if len(start) > 0 {
			body := newTap(wholeSplitter(limit), func(m tapped) { p.log.show(n, fromClient, m, x.calls) })
			body.feed(start)
			body.end()
		}
		r.Body = &readCloser{io.MultiReader(bytes.NewReader(start), r.Body), r.Body}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
	})
}

type readCloser struct {
	io.Reader
	io.Closer
}

// tapResponse shows the body of a response, or the messages of a WebSocket.
func (p *proxyCall) tapResponse(r *http.Response) error {
	x := exchangeOf(r.Request.Context())
	show := func(from direction) func(tapped) {
		return func(m tapped) { p.log.show(x.conn, from, m, x.calls) }
	}
	if r.StatusCode == http.StatusSwitchingProtocols {
		stream, ok := r.Body.(io.ReadWriteCloser)
		if !ok {
			return errors.New("the WebSocket cannot be passed on")
		}
		p.log.tell(x.conn, "a WebSocket is open")
		r.Body = &tappedSocket{
			ReadWriteCloser: stream,
			up:              newTap(webSocketSplitter(p.shownLimit(), show(fromClient)), show(fromClient)),
			down:            newTap(webSocketSplitter(p.shownLimit(), show(fromServer)), show(fromServer)),
			closed:          sync.OnceFunc(func() { p.log.tell(x.conn, "the WebSocket is closed") }),
		}
		return nil
	}
	if r.StatusCode != http.StatusOK {
		p.log.tell(x.conn, "%s%s", fromServer.arrow(), r.Status)
	}
	split := wholeSplitter(p.shownLimit())
	if strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream") {
		split = eventSplitter(p.shownLimit())
	}
	r.Body = &tappedBody{r.Body, newTap(split, show(fromServer))}
	return nil
}

// tappedBody shows a body as it is read.
type tappedBody struct {
	io.ReadCloser
	tap *tap
}

func (b *tappedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.tap.feed(p[:n])
	if err != nil {
		b.tap.end()
	}
	return n, err
}

// tappedSocket shows what is read from the server's end of a WebSocket, and written there.
type tappedSocket struct {
	io.ReadWriteCloser
	up, down *tap
	closed   func()
}

func (s *tappedSocket) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	s.down.feed(p[:n])
	return n, err
}

func (s *tappedSocket) Write(p []byte) (int, error) {
	s.up.feed(p)
	return s.ReadWriteCloser.Write(p)
}

func (s *tappedSocket) Close() error {
	s.closed()
	return s.ReadWriteCloser.Close()
}

// wholeSplitter returns a splitter whose only message is all of the input.
func wholeSplitter(limit int) splitter {
	dropping := false
	return func(data []byte, atEOF bool) (int, []byte, error) {
		switch {
		case dropping:
			return len(data), nil, nil
		case len(data) > limit:
			dropping = true
			return len(data), nil, tooLarge(limit)
		case atEOF:
			return len(data), data, nil
		}
		return 0, nil, nil
	}
}

// eventSplitter returns a splitter of server-sent events; a message is the data of a line.
func eventSplitter(limit int) splitter {
	lines := rpcx.NewlineFramer{MaxSize: limit}.NewSplitter()
	return func(data []byte, atEOF bool) (int, []byte, error) {
		n, line, err := lines(data, atEOF)
		text, _ := bytes.CutPrefix(line, []byte("data:"))
		if len(text) == len(line) {
			text = nil // another field, or none
		}
		return n, bytes.TrimSpace(text), err
	}
}

func tooLarge(limit int) error {
	return &rpcx.FrameError{Recoverable: true, TooLarge: &rpcx.SizeError{Limit: limit}}
}

// opClose is the first opcode of control frames (RFC 6455, section 5.2).
const opClose = 8

// webSocketSplitter returns a splitter of one direction of a WebSocket. Control frames are
// no messages; show is told of a close.
func webSocketSplitter(limit int, show func(tapped)) splitter {
	s := &socketState{limit: limit, show: show}
	return s.split
}

// socketState is the state within the frames of a WebSocket.
type socketState struct {
	limit   int
	show    func(tapped)
	message []byte // of the frames so far
	control []byte // of the control frame
	large   bool   // the message is over limit

	inFrame bool // the following fields are of the current frame
	final   bool
	opcode  byte
	rest    uint64 // bytes to come
	mask    [4]byte
	masked  bool
	at      int // place in mask
}

func (s *socketState) split(data []byte, _ bool) (int, []byte, error) {
	if !s.inFrame {
		n := s.readHeader(data)
		if n == 0 || s.rest > 0 {
			return n, nil, nil
		}
		token, err := s.endFrame()
		return n, token, err
	}
	part := data[:min(uint64(len(data)), s.rest)]
	s.rest -= uint64(len(part))
	s.keep(part)
	if s.rest > 0 {
		return len(part), nil, nil
	}
	token, err := s.endFrame()
	return len(part), token, err
}

// readHeader reads the header of a frame, and returns its size, or 0 if it is not complete.
func (s *socketState) readHeader(data []byte) int {
	if len(data) < 2 {
		return 0
	}
	size := 2
	switch length := data[1] & 0x7f; {
	case length == 126:
		size += 2
	case length == 127:
		size += 8
	}
	end := size
	s.masked = data[1]&0x80 != 0
	if s.masked {
		size += 4
	}
	if len(data) < size {
		return 0
	}
	switch end {
	case 4:
		s.rest = uint64(binary.BigEndian.Uint16(data[2:]))
	case 10:
		s.rest = binary.BigEndian.Uint64(data[2:])
	default:
		s.rest = uint64(data[1] & 0x7f)
	}
	if s.masked {
		copy(s.mask[:], data[end:])
	}
	s.inFrame, s.at = true, 0
	s.final, s.opcode = data[0]&0x80 != 0, data[0]&0x0f
	s.control = s.control[:0]
	return size
}

// keep adds a part of a frame to the message, without its mask.
func (s *socketState) keep(part []byte) {
	to := &s.message
	if s.opcode >= opClose {
		to = &s.control
	}
	if len(*to)+len(part) > s.limit {
		s.large = s.large || s.opcode < opClose
		s.at += len(part)
		return
	}
	for _, b := range part {
		if s.masked {
			b ^= s.mask[s.at%4]
		}
		s.at++
		*to = append(*to, b)
	}
}

// endFrame returns the message that the frame completes.
func (s *socketState) endFrame() ([]byte, error) {
	s.inFrame = false
	switch {
	case s.opcode == opClose:
		text := "closes the WebSocket"
		if len(s.control) >= 2 {
			text = fmt.Sprintf("closes the WebSocket: %d %s", binary.BigEndian.Uint16(s.control), s.control[2:])
		}
		s.show(tapped{problem: strings.TrimSpace(text)})
		return nil, nil
	case s.opcode > opClose || !s.final:
		return nil, nil
	}
	message, large := s.message, s.large
	s.message, s.large = nil, false
	if large {
		return nil, tooLarge(s.limit)
	}
	return message, nil
}
