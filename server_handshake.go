package rpcx

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/rpcx/internal/bounded"
)

// handshake is what comes before a session, or before OnSession, and may wait for
// the peer.
type handshake struct {
	began time.Time
	// giveUp ends the handshake, whatever it waits for: the peer, or a certificate.
	// To close the connection would end the former only, and may wait itself.
	giveUp context.CancelCauseFunc
	ended  atomic.Bool
	// located is the peer's address once it is known, for the table to take over.
	located atomic.Pointer[net.Addr]
	// Guarded by the server's lock.
	subnet, single *handshakeGroup // of the peer
	known          bool            // the peer has an IP address
	raw            syscall.RawConn // under the connection; nil if there is none
	heard          bool            // the peer has sent something
	// For the log, and for the handshake's goroutine only.
	peer    net.Addr // nil until it is known
	failure string   // what it means that the handshake failed
}

// Why a handshake was given up, if not because the server was stopped.
var (
	errHandshakeTimeout  error = &timeoutError{"rpcx: handshake timed out (Server.HandshakeTimeout)"}
	errTooManyHandshakes       = errors.New("rpcx: handshake given up, since there are too many (Server.MaxHandshakes)")
)

// runHandshake runs shake on the caller's goroutine, within MaxHandshakes and
// HandshakeTimeout. The peer's address is that of conn until shake calls
// locate; conn may be nil. If the handshake is given up, its context ends, and abort is
// called on another goroutine, to close the connection. The error is shake's, or the
// reason why the handshake was given up or never begun.
func (srv *Server) runHandshake(conn net.Conn, abort func(error), shake func(context.Context, *handshake) error) error {
	ctx, giveUp := context.WithCancelCause(context.Background())
	defer giveUp(nil)
	h := &handshake{began: time.Now(), giveUp: giveUp, failure: "connection setup failed"}
	if err := srv.addHandshake(h, conn); err != nil {
		return err
	}
	if timeout := srv.HandshakeTimeout; timeout >= 0 {
		if timeout == 0 {
			timeout = 10 * time.Second
		}
		defer time.AfterFunc(timeout, func() { giveUp(errHandshakeTimeout) }).Stop()
	}
	stop := context.AfterFunc(ctx, func() { abort(context.Cause(ctx)) })
	err := shake(ctx, h)
	srv.removeHandshake(h)
	if !stop() { // it was given up, and the connection is closed
		err = context.Cause(ctx)
	}
	if err != nil {
		srv.logHandshake(h, err)
	}
	return err
}

func init() {
	bounded.OfServer = func(server any) *bounded.Rate { return &server.(*Server).failed }
}

// logHandshake logs that a handshake failed, unless many others did. Any peer can make
// handshakes fail, and some of the errors repeat what the peer has sent.
func (srv *Server) logHandshake(h *handshake, err error) {
	log := srv.options.Logger
	if !log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	ok, skipped := srv.failed.Allow()
	if !ok {
		return
	}
	attrs := []slog.Attr{errorAttr(err)}
	if h.peer != nil {
		attrs = append(attrs, peerAttr(h.peer))
	}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("records left out", skipped))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, h.failure, attrs...)
}

// addHandshake counts h in, with the address of conn if that is not nil. If there are
// MaxHandshakes already, another one is given up, or h must not begin.
func (srv *Server) addHandshake(h *handshake, conn net.Conn) error {
	var addr net.Addr
	var raw syscall.RawConn
	if conn != nil {
		addr, raw = conn.RemoteAddr(), rawConn(conn)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.stopped {
		return ErrServerClosed
	}
	limit := limitOr(srv.MaxHandshakes, 256)
	if len(srv.shaking.list) >= limit {
		srv.shaking.update()
	}
	srv.shaking.add(h, addr, raw)
	if len(srv.shaking.list) > limit {
		srv.refuse("Server.MaxHandshakes", slog.Int("handshakes", limit))
		victim := srv.shaking.victim()
		srv.shaking.remove(victim)
		if victim == h {
			return errTooManyHandshakes
		}
		victim.giveUp(errTooManyHandshakes)
	}
	return nil
}

// locate asks conn for the address of the peer of h, and waits if conn does. It does not
// take the server's lock: when thousands of connections come at once, the lock has a
// queue, and each handshake that waited in it would count meanwhile.
func (h *handshake) locate(conn net.Conn) {
	h.peer = conn.RemoteAddr() // may read a header
	h.located.Store(&h.peer)
}

// removeHandshake counts h out, and first of all without the lock, for the same reason
// as locate.
func (srv *Server) removeHandshake(h *handshake) {
	h.ended.Store(true)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.shaking.remove(h)
}

// handshaker is [tls.Conn], or a connection of another package for TLS.
type handshaker interface {
	HandshakeContext(context.Context) error
}

var (
	handshakerType = reflect.TypeFor[handshaker]()
	netConnType    = reflect.TypeFor[net.Conn]()
)

// foundTLS is TLS within a connection: nil if its place is closed to other packages.
type foundTLS struct{ handshaker }

// shake makes the handshake of what was found in conn.
func (t foundTLS) shake(ctx context.Context, conn net.Conn) error {
	if t.handshaker != nil {
		return t.HandshakeContext(ctx)
	}
	// To read nothing makes the handshake (see crypto/tls), as long as whoever
	// stands between passes it on. If not, the first read of the session makes it.
	_, err := conn.Read(nil)
	return err
}

// findTLS finds the TLS that conn is or has inside. A listener that counts, limits or
// logs connections wraps those that it accepts, and hides most of their methods.
func findTLS(conn net.Conn) (foundTLS, bool) {
	for range maxWrappers {
		if found, ok := findTLSIn(reflect.ValueOf(conn), maxWrappers); ok {
			return found, true
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		if conn = wrapper.NetConn(); conn == nil {
			break
		}
	}
	return foundTLS{}, false
}

// maxWrappers is how many connections may be wrapped in each other.
const maxWrappers = 8

// findTLSIn finds TLS in v and in those of its fields that are connections.
func findTLSIn(v reflect.Value, depth int) (foundTLS, bool) {
	if depth == 0 || v.Kind() == reflect.Pointer && v.IsNil() {
		return foundTLS{}, false
	}
	if v.Type().Implements(handshakerType) {
		if v.CanInterface() {
			return foundTLS{v.Interface().(handshaker)}, true
		}
		return foundTLS{}, true
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return foundTLS{}, false
	}
	for _, field := range v.Fields() {
		if field.Kind() == reflect.Interface {
			field = field.Elem()
		}
		if field.IsValid() && field.Type().Implements(netConnType) {
			if found, ok := findTLSIn(field, depth-1); ok {
				return found, true
			}
		}
	}
	return foundTLS{}, false
}

// pendingTLS returns the TLS that conn has inside, nil if there is none, or none whose
// handshake is to be made.
func pendingTLS(conn io.ReadWriteCloser) handshaker {
	c, ok := conn.(net.Conn)
	if !ok || isPlain(conn) {
		return nil
	}
	found, _ := findTLS(c)
	if t, ok := found.handshaker.(*tls.Conn); ok && t.ConnectionState().HandshakeComplete {
		return nil
	}
	return found.handshaker
}

// shakeSession makes the handshake of a session that has not started yet. If the
// handshake fails, shakeSession ends the session.
func (srv *Server) shakeSession(s *Session, secure handshaker) bool {
	abort := func(cause error) { s.end(cause, 0) }
	err := srv.runHandshake(s.NetConn(), abort, func(ctx context.Context, h *handshake) error {
		h.peer, h.failure = s.RemoteAddr(), "TLS handshake failed"
		return secure.HandshakeContext(ctx)
	})
	if err != nil {
		abort(err)
	}
	return err == nil
}

// handshakeTable holds the handshakes in progress, the oldest first. It is guarded by the
// server's lock.
//
// A full table gives up one of the subnet with the most, and there of the address with
// the most: a peer that holds many connections open displaces its own. Where the
// operating system can tell, a handshake whose peer has sent nothing at all goes first:
// the first message of TLS follows the connection at once.
type handshakeTable struct {
	list   []*handshake
	groups map[handshakeKey]*handshakeGroup
}

// handshakeKey names an address or a subnet; the zero prefix is for peers whose address
// is not known, or not yet.
type handshakeKey struct {
	prefix netip.Prefix
	subnet bool
}

// handshakeGroup counts the handshakes of an address or of a subnet.
type handshakeGroup struct {
	key   handshakeKey
	count int
}

// minHandshakeTime is how long a handshake may go on whose peer has sent something,
// if no address is known to have more handshakes than that of the new one. When many
// clients connect at once, each would otherwise make way for the next, and none would
// get through.
const minHandshakeTime = 250 * time.Millisecond

// add adds h, for a peer with the given address, nil if it is not known. raw is the
// descriptor under its connection, nil if there is none.
func (t *handshakeTable) add(h *handshake, addr net.Addr, raw syscall.RawConn) {
	t.list = append(t.list, h)
	t.join(h, peerIP(addr))
	h.raw = raw
}

// join counts h in the groups of addr, which is invalid if it is not known.
func (t *handshakeTable) join(h *handshake, addr netip.Addr) {
	h.known = addr.IsValid()
	subnet, single := prefixes(addr)
	h.subnet = t.count(handshakeKey{subnet, true})
	h.single = t.count(handshakeKey{single, false})
}

func (t *handshakeTable) count(key handshakeKey) *handshakeGroup {
	g := t.groups[key]
	if g == nil {
		if t.groups == nil {
			t.groups = make(map[handshakeKey]*handshakeGroup)
		}
		g = &handshakeGroup{key: key}
		t.groups[key] = g
	}
	g.count++
	return g
}

// leave ends what join has begun.
func (t *handshakeTable) leave(h *handshake) {
	for _, g := range []*handshakeGroup{h.subnet, h.single} {
		if g.count--; g.count == 0 {
			delete(t.groups, g.key)
		}
	}
	h.subnet, h.single = nil, nil
}

// remove takes h out if it is in.
func (t *handshakeTable) remove(h *handshake) {
	if i := slices.Index(t.list, h); i >= 0 {
		t.list = slices.Delete(t.list, i, i+1)
		t.leave(h)
	}
}

// update removes handshakes that have ended, and takes over the addresses of peers that
// have become known.
func (t *handshakeTable) update() {
	t.list = slices.DeleteFunc(t.list, func(h *handshake) bool {
		ended := h.ended.Load()
		if ended {
			t.leave(h)
		} else if addr := h.located.Swap(nil); addr != nil {
			t.leave(h)
			t.join(h, peerIP(*addr))
		}
		return ended
	})
}

// victim returns the handshake to be given up, which is the last one added at worst.
// Callers must have called update before they added it.
func (t *handshakeTable) victim() *handshake {
	newest := t.list[len(t.list)-1]
	oldest := slices.MaxFunc(t.list, compareGroups) // the first of those with the most
	for _, h := range t.list[:len(t.list)-1] {
		if compareGroups(h, oldest) == 0 && h.isSilent() {
			return h
		}
	}
	alike := !newest.known || compareGroups(newest, oldest) == 0
	if alike && newest.began.Sub(oldest.began) < minHandshakeTime {
		return newest
	}
	return oldest
}

// compareGroups compares how many handshakes the subnets have, then the addresses.
func compareGroups(a, b *handshake) int {
	if n := a.subnet.count - b.subnet.count; n != 0 {
		return n
	}
	return a.single.count - b.single.count
}

// isSilent reports whether the operating system says that the peer has sent nothing yet.
func (h *handshake) isSilent() bool {
	if !h.heard && h.raw != nil {
		h.heard = !hasSentNothing(h.raw)
	}
	return !h.heard && h.raw != nil
}

// prefixes returns the subnet of an address, and the part of it that one peer has to
// itself.
func prefixes(addr netip.Addr) (subnet, single netip.Prefix) {
	switch {
	case addr.Is4():
		subnet, _ = addr.Prefix(24)
		single, _ = addr.Prefix(32)
	case addr.IsValid():
		subnet, _ = addr.Prefix(48)
		single, _ = addr.Prefix(64)
	}
	return subnet, single
}

// peerIP returns the IP address in addr, an invalid one if there is none.
func peerIP(addr net.Addr) netip.Addr {
	if addr == nil {
		return netip.Addr{}
	}
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	peer, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// plainUnder returns the connection of package net under conn, whose address can be
// asked for without waiting; nil if it cannot be found.
func plainUnder(conn net.Conn) net.Conn {
	for range maxWrappers {
		if conn == nil || isPlain(conn) {
			return conn
		}
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn()
			continue
		}
		v := reflect.ValueOf(conn)
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if conn = nil; v.Kind() != reflect.Struct {
			break
		}
		for _, field := range v.Fields() {
			if field.CanInterface() && field.Type().Implements(netConnType) {
				conn, _ = field.Interface().(net.Conn)
				break
			}
		}
	}
	return nil
}

// serverLogs are what the sessions of a server have together, beside a byte for each byte
// that was received: many short sessions could each use what is a session's own. Errors and
// notices have budgets of their own, so that bad messages cannot hide them.
type serverLogs struct{ errors, others, notices bounded.Budget }

// What the server has for each of its budgets, in bytes.
const (
	serverLogBurst     = 256 << 10
	serverLogPerSecond = 8 << 10
)

func newServerLogs() *serverLogs {
	l := new(serverLogs)
	for _, b := range l.all() {
		b.Burst, b.PerSecond, b.Run = serverLogBurst, serverLogPerSecond, logRun
	}
	return l
}

func (l *serverLogs) all() []*bounded.Budget {
	return []*bounded.Budget{&l.errors, &l.others, &l.notices}
}
