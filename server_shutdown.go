package rpcx

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// shutdownWithTimeout shuts the server down at the end of a context, for at most the sum of
// ShutdownNotice, ShutdownSpread and ShutdownTimeout.
func (srv *Server) shutdownWithTimeout() error {
	timeout := srv.ShutdownTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	var fields []string // which add up to timeout
	ctx := context.Background()
	if timeout > 0 {
		if srv.ShutdownNotice > 0 {
			timeout, fields = after(timeout, srv.ShutdownNotice), append(fields, "Server.ShutdownNotice")
		}
		if srv.ShutdownSpread > 0 {
			timeout, fields = after(timeout, srv.ShutdownSpread), append(fields, "Server.ShutdownSpread")
		}
		fields = append(fields, "Server.ShutdownTimeout")
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if srv.shutdownSessions(ctx) != nil {
		return &timeoutError{fmt.Sprintf("rpcx: sessions were not finished after %v, and are closed (%s)", timeout, strings.Join(fields, ", "))}
	}
	return nil
}

// shutdownSessions is Shutdown without the check for a handler's context.
func (srv *Server) shutdownSessions(ctx context.Context) error {
	srv.waitForNotice(ctx)
	srv.StopListening()
	quiet := time.Duration(0)
	if srv.ShutdownSpread > 0 {
		quiet = quietTime
	}
	var shutdowns errgroup.Group
	for s := range srv.sessionsInTurn(ctx) {
		// Owner: this call. End: the session's Shutdown returns.
		shutdowns.Go(func() error { return s.shutdownWith(ctx, ErrServerClosed, quiet) })
	}
	failed := shutdowns.Wait() != nil
	if err := ctx.Err(); err != nil && failed {
		return err
	}
	return srv.waitForUsers(ctx)
}

// waitForNotice makes the server unready, and returns after ShutdownNotice. There is only
// one notice: a second caller waits for its end. If ctx ends or the server is stopped,
// waitForNotice returns at once.
func (srv *Server) waitForNotice(ctx context.Context) {
	srv.mu.Lock()
	if srv.noticeEnd.IsZero() {
		srv.noticeEnd, srv.noticeOver = time.Now().Add(srv.ShutdownNotice), make(chan struct{})
	}
	end, over, stopped := srv.noticeEnd, srv.noticeOver, srv.stopped
	srv.mu.Unlock()
	if !stopped && srv.ShutdownNotice > 0 {
		waitUntil(ctx, over, end)
	}
}

// sessionsInTurn iterates over the live sessions of a stopped server. With ShutdownSpread,
// sessionsInTurn yields each session at its turn. There is only one spread: a second caller
// waits for the first, and has all turns afterwards. After the end of ctx, or when no
// session is left, sessionsInTurn does not wait.
func (srv *Server) sessionsInTurn(ctx context.Context) iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		spread := srv.ShutdownSpread
		var gone <-chan struct{}
		if spread > 0 {
			srv.mu.Lock()
			gone = srv.usersGoneLocked()
			done, first := srv.spreadDone, srv.spreadDone == nil
			if first {
				done = make(chan struct{})
				srv.spreadDone = done
			}
			srv.mu.Unlock()
			if first {
				defer close(done)
			} else {
				spread = 0
				select {
				case <-done:
				case <-gone:
				case <-ctx.Done():
				}
			}
		}
		live, begun, waits := srv.liveSessions(), time.Now(), spread > 0
		if waits {
			rand.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
		}
		for i, s := range live {
			if waits {
				turn := time.Duration((float64(i) + rand.Float64()) / float64(len(live)) * float64(spread))
				waits = waitUntil(ctx, gone, begun.Add(turn))
			}
			if !yield(s) {
				return
			}
		}
	}
}

// quietTime is how long a peer must have sent no request before its session ends, with
// ShutdownSpread.
const quietTime = 500 * time.Millisecond

// waitForQuiet waits until the peer has sent no request for the time quiet, for at most
// twice as long. A request that crosses the end of the session on the wire would have an
// uncertain end at the peer. A refused request tells the peer to go elsewhere: a Client
// then hangs up.
func (s *Session) waitForQuiet(ctx context.Context, quiet time.Duration) {
	for end := time.Now().Add(2 * quiet); ; {
		s.lock()
		last := s.requests.lastRequest
		s.unlock()
		at, now := s.startTime.Add(after(last, quiet)), time.Now()
		if quiet == 0 || last == 0 || !now.Before(at) || !now.Before(end) {
			return
		}
		if end.Before(at) {
			at = end
		}
		if !waitUntil(ctx, s.Done(), at) {
			return
		}
	}
}

// waitUntil waits until at, and reports success: false if ctx has ended or gone is closed
// before.
func waitUntil(ctx context.Context, gone <-chan struct{}, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
	case <-ctx.Done():
	}
	return false
}

// waitForUsers returns when the server has no user left, or with the error of ctx.
func (srv *Server) waitForUsers(ctx context.Context) error {
	srv.mu.Lock()
	gone := srv.usersGoneLocked()
	srv.mu.Unlock()
	select {
	case <-gone:
		return nil
	default:
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// usersGoneLocked returns a channel that is closed when the server has no user left.
// Callers must hold srv.mu.
func (srv *Server) usersGoneLocked() <-chan struct{} {
	if srv.usersGone == nil {
		srv.usersGone = make(chan struct{})
	}
	gone := srv.usersGone
	if srv.users == 0 {
		close(gone)
		srv.usersGone = nil
	}
	return gone
}
