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

// ServeContext is [http.Server.Serve] of web on l until ctx ends, for a web server whose
// Handler accepts WebSockets for srv. Then it shuts down both, for at most
// srv.ShutdownTimeout together: the sessions finish what is under way, as by
// [rpcx.Server.Shutdown], and the HTTP requests, as by [http.Server.Shutdown], which
// leaves WebSockets alone. After that it returns: nil if all had ended in time, otherwise
// an error that matches context.DeadlineExceeded, with what was left closed. If the
// program exits at once then, clients may see the connection end without the close code
// 1001, and OnClose may not have been called. Before log.Fatal, srv.Wait with a context of
// a second or two lets both happen. So
//
//	if err := websocket.ServeContext(ctx, srv, web, l); err != nil {
//		log.Fatal(err)
//	}
//
// is right where nobody else stops one of the two. If somebody does, it returns
// [rpcx.ErrServerClosed] or [http.ErrServerClosed], and leaves the other as it is. Options
// of srv that are wrong are an error. For wss://, l is of [rpcx.Listen] with tls://.
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
		web.Close() // there is no time left
	}
	return errors.Join(err, <-w.drained)
}

// webListener is the listener of a web server, as one that an rpcx.Server can serve and
// close. It accepts nothing itself.
type webListener struct {
	net.Listener
	ctx     context.Context
	web     *http.Server
	timeout time.Duration // as Server.ShutdownTimeout has it

	once     sync.Once // Close
	draining bool
	drained  chan error // what has become of the web server
}

// Accept serves the web, and fails when that has ended.
func (l *webListener) Accept() (net.Conn, error) { return nil, l.web.Serve(l.Listener) }

// Close has the web server stop to accept connections, and shuts it down if that is for
// the end of the context. It does not wait.
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
		timeout = 30 * time.Second // as rpcx.Server has it
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	err := l.web.Shutdown(ctx)
	l.Listener.Close() // if web had not served it yet; before, Shutdown would return an error of its own Close
	if err != nil && err == ctx.Err() {
		l.web.Close()
		return fmt.Errorf("HTTP requests were not finished after %v, and are closed (Server.ShutdownTimeout): %w", timeout, err)
	}
	return err
}
