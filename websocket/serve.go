package websocket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"example.com/rpcx"
)

// ServeContext serves web on l, like [http.Server.Serve], until ctx ends; then it shuts
// down web and srv. web is a server whose Handler accepts WebSockets for srv. Both
// shutdowns together take at most srv.ShutdownSpread and srv.ShutdownTimeout, after
// srv.ShutdownNotice, during which both serve on. Sessions finish as in
// [rpcx.Server.Shutdown], and HTTP requests as in [http.Server.Shutdown], which ignores
// WebSockets.
//
// If both servers finish in time, the result is nil. Otherwise the remaining sessions and
// requests are closed, and the error matches context.DeadlineExceeded. If the program then
// exits at once, clients may miss the close code 1001, and OnClose may not be called. To
// give both a chance, call srv.Wait with a context of a second or two before log.Fatal. If
// only ctx stops the servers, this code is right:
//
//	if err := websocket.ServeContext(ctx, srv, web, l); err != nil {
//		log.Fatal(err)
//	}
//
// If other code stops a server, ServeContext returns [rpcx.ErrServerClosed] or
// [http.ErrServerClosed], and leaves the other server running. Invalid options of srv are
// an error. For wss://, make l with [rpcx.Listen] and tls://.
func ServeContext(ctx context.Context, srv *rpcx.Server, web *http.Server, l net.Listener) error {
	if srv == nil || web == nil || l == nil {
		panic("websocket: ServeContext with a nil *rpcx.Server, *http.Server or listener")
	}
	w := &webListener{Listener: l, ctx: ctx, web: web, timeout: srv.ShutdownTimeout, drained: make(chan error, 1)}
	err := srv.ServeContext(ctx, w)
	if !w.draining {
		return err
	}
	if err != nil {
		web.Close() // no time is left
	}
	return errors.Join(err, <-w.drained)
}

// ListenAndServe listens on the TCP address web.Addr (host:port), and serves as
// [ServeContext] does. If listening fails, ListenAndServe returns the error.
func ListenAndServe(ctx context.Context, srv *rpcx.Server, web *http.Server) error {
	if srv == nil || web == nil {
		panic("websocket: ListenAndServe with a nil *rpcx.Server or *http.Server")
	}
	l, err := rpcx.Listen(ctx, "tcp://"+web.Addr, nil)
	if err != nil {
		return err
	}
	return ServeContext(ctx, srv, web, l)
}

// webListener presents a web server as a listener for an rpcx.Server to serve and close. It
// never returns a connection.
type webListener struct {
	net.Listener
	ctx     context.Context
	web     *http.Server
	timeout time.Duration // see Server.ShutdownTimeout

	once     sync.Once // for Close
	draining bool
	drained  chan error // result of the web server's shutdown
}

// Accept serves the web server, and returns its final error.
func (l *webListener) Accept() (net.Conn, error) { return nil, l.web.Serve(l.Listener) }

// Close makes the web server stop accepting connections. If the context has ended, Close
// also starts a shutdown of the web server. Close does not wait.
func (l *webListener) Close() error {
	l.once.Do(func() {
		if l.draining = l.ctx.Err() != nil; !l.draining {
			l.Listener.Close()
			return
		}
		// Owner: ServeContext. End: the web server has ended, or is closed.
		go func() { l.drained <- l.drain() }()
	})
	return nil
}

// drain shuts the web server down.
func (l *webListener) drain() error {
	ctx, timeout := context.Background(), l.timeout
	if timeout == 0 {
		timeout = 30 * time.Second // default of rpcx.Server
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err := l.web.Shutdown(ctx)
	l.Listener.Close() // if web has not served it yet; an earlier Close would make Shutdown return its error
	if err != nil && err == ctx.Err() {
		l.web.Close()
		return fmt.Errorf("HTTP requests were not finished after %v, and are closed (Server.ShutdownTimeout): %w", timeout, err)
	}
	return err
}
