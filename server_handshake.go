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
	"example.com/rpcx/internal/duration"
	"example.com/rpcx/internal/sockstate"
)

// handshake is work before a session, or before OnSession, that may wait for the peer.
type handshake struct {
	startedAt time.Time
	// cancel ends any wait of the handshake, for the peer or for a certificate. Closing
	// the connection would end only a wait for the peer, and might wait as well.
	cancel context.CancelCauseFunc
	ended  atomic.Bool
	// pendingAddr is the peer's newly known address, until the table takes the address
	// over.
	pendingAddr atomic.Pointer[net.Addr]
	// Guarded by the server's lock.
	addr                      net.Addr        // of the peer; nil until known
	subnetGroup, addressGroup *handshakeGroup // of the peer
	hasIP                     bool            // the peer has an IP address
	rawConn                   syscall.RawConn // descriptor under the connection; nil if there is none
	peerHasSent               bool            // the peer has sent something
	// For the log; handshake goroutine only.
	peerAddr    net.Addr // nil until known
	failureText string   // log message for a failure
}

// Reasons for giving a handshake up, except that the server was stopped.
var (
	errHandshakeTimeout  error = &timeoutError{"rpcx: handshake timed out (Server.HandshakeTimeout)"}
	errTooManyHandshakes       = errors.New("rpcx: handshake given up, since there are too many (Server.MaxHandshakes)")
)

// runHandshake runs shake on the caller's goroutine, within MaxHandshakes and
// HandshakeTimeout. The address of the peer is the address of conn until shake calls
// locatePeer; conn may be nil. If the server gives the handshake up, the context of shake
// ends. Then abort is called on another goroutine, to close the connection. The result is
// the error of shake, or the reason why the handshake was given up or refused.
func (srv *Server) runHandshake(conn net.Conn, abort func(error), shake func(context.Context, *handshake) error) error {
	ctx, giveUp := context.WithCancelCause(context.Background())
	defer giveUp(nil)
	h := &handshake{startedAt: time.Now(), cancel: giveUp, failureText: "connection setup failed"}
	if err := srv.beginHandshake(h, conn); err != nil {
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
	srv.endHandshake(h)
	if !stop() || ctx.Err() != nil { // the handshake was given up; abort may not have begun
		err = context.Cause(ctx)
	}
	if err != nil && err != errClosedQuietly {
		srv.logFailedHandshake(h, err)
	}
	return err
}

func init() {
	bounded.OfServer = func(server any) *bounded.Rate { return &server.(*Server).failureLogRate }
	duration.CheckServer = func(server any) error { return server.(*Server).checkOptions() }
}

// logFailedHandshake logs a failed handshake, within the rate failureLogRate. Any peer
// can make handshakes fail, and some errors repeat input of the peer.
func (srv *Server) logFailedHandshake(h *handshake, err error) {
	log := srv.options.Logger
	if !log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	ok, skipped := srv.failureLogRate.Allow()
	if !ok {
		return
	}
	attrs := []slog.Attr{errorAttr(err)}
	if h.peerAddr != nil {
		attrs = append(attrs, peerAttr(h.peerAddr))
	}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("records left out", skipped))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, h.failureText, attrs...)
}

// beginHandshake adds h to the table, with the address of conn if conn is not nil. If the
// table already has MaxHandshakes, either another handshake is given up or the result is
// an error.
func (srv *Server) beginHandshake(h *handshake, conn net.Conn) error {
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
	limit := bounded.LimitOr(srv.MaxHandshakes, 256)
	if len(srv.handshakes.list) >= limit {
		srv.handshakes.applyChanges()
	}
	srv.handshakes.addHandshake(h, addr, raw)
	if len(srv.handshakes.list) > limit {
		victim := srv.handshakes.chooseVictim()
		srv.countRefusalLocked("Server.MaxHandshakes", slog.Int("handshakes", limit), victim.addr)
		srv.handshakes.removeHandshake(victim)
		if victim == h {
			return errTooManyHandshakes
		}
		victim.cancel(errTooManyHandshakes)
	}
	return nil
}

// locatePeer asks conn for the address of the peer of h, and waits if conn does.
// locatePeer does not take the server's lock. When thousands of connections come at once,
// the lock has a queue, and each queued handshake would count meanwhile.
func (h *handshake) locatePeer(conn net.Conn) {
	h.peerAddr = conn.RemoteAddr() // may read a header
	h.pendingAddr.Store(&h.peerAddr)
}

// endHandshake removes h from the table. Before taking the server's lock, endHandshake
// marks h as ended, for the same reason as in locatePeer.
func (srv *Server) endHandshake(h *handshake) {
	h.ended.Store(true)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.handshakes.removeHandshake(h)
}

// handshaker is [tls.Conn], or a TLS connection of another package.
type handshaker interface {
	HandshakeContext(context.Context) error
}

var (
	handshakerType = reflect.TypeFor[handshaker]()
	netConnType    = reflect.TypeFor[net.Conn]()
)

// foundTLS is TLS within a connection. If the TLS is in an unexported field, handshaker
// is nil.
type foundTLS struct{ handshaker }

// runTLSHandshake runs the handshake of TLS found in conn.
func (t foundTLS) runTLSHandshake(ctx context.Context, conn net.Conn) error {
	if t.handshaker != nil {
		return t.HandshakeContext(ctx)
	}
	// Reading zero bytes runs the handshake (see crypto/tls), provided that each wrapper
	// passes the read on. Otherwise the first read of the session runs the handshake.
	_, err := conn.Read(nil)
	return err
}

// findTLS finds the TLS that conn is or contains. A listener that counts, limits or logs
// connections wraps accepted connections, and hides most of their methods.
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

// maxWrappers is the maximum number of nested connections that a search looks through.
const maxWrappers = 8

// findTLSIn finds TLS in v and in the fields of v that are connections.
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

// pendingTLS returns the TLS in conn. If there is no TLS, or if a *tls.Conn has completed
// the handshake, the result is nil.
func pendingTLS(conn io.ReadWriteCloser) handshaker {
	c, ok := conn.(net.Conn)
	if !ok || isPlainNetConn(conn) {
		return nil
	}
	found, _ := findTLS(c)
	if t, ok := found.handshaker.(*tls.Conn); ok && t.ConnectionState().HandshakeComplete {
		return nil
	}
	return found.handshaker
}

// runSessionHandshake runs the TLS handshake of a session that has not started, and
// reports success. If the handshake fails, runSessionHandshake ends the session.
func (srv *Server) runSessionHandshake(s *Session, secure handshaker) bool {
	abort := func(cause error) { s.closeWith(cause, 0) }
	err := srv.runHandshake(s.NetConn(), abort, func(ctx context.Context, h *handshake) error {
		h.peerAddr, h.failureText = s.RemoteAddr(), "TLS handshake failed"
		return secure.HandshakeContext(ctx)
	})
	if err != nil {
		abort(err)
	}
	return err == nil
}

// handshakeTable holds the handshakes in progress, the oldest first. The lock of the
// server guards the table.
//
// A full table gives up a handshake of the busiest address in the busiest subnet: a peer
// that holds many connections open displaces its own. If the operating system can tell, a
// handshake whose peer has sent nothing goes first: an honest client's first TLS message
// follows the connection at once.
type handshakeTable struct {
	list   []*handshake
	groups map[handshakeKey]*handshakeGroup
}

// handshakeKey names an address or a subnet. The zero prefix stands for peers without a
// known address.
type handshakeKey struct {
	prefix netip.Prefix
	subnet bool
}

// handshakeGroup counts the handshakes of an address or a subnet.
type handshakeGroup struct {
	key   handshakeKey
	count int
}

// minHandshakeTime is the minimum time of a handshake whose peer has sent something,
// unless the new handshake belongs to a peer with fewer handshakes. When many clients
// connect at once, each would otherwise displace another, and no handshake would
// complete.
const minHandshakeTime = 250 * time.Millisecond

// addHandshake adds h. addr is the address of the peer, or nil if unknown. raw is the
// descriptor under the connection, or nil if there is none.
func (t *handshakeTable) addHandshake(h *handshake, addr net.Addr, raw syscall.RawConn) {
	t.list = append(t.list, h)
	t.joinGroups(h, addr)
	h.rawConn = raw
}

// joinGroups counts h in the groups of addr. An unknown address is nil.
func (t *handshakeTable) joinGroups(h *handshake, addr net.Addr) {
	ip := peerIP(addr)
	h.addr, h.hasIP = addr, ip.IsValid()
	subnet, single := peerPrefixes(ip)
	h.subnetGroup = t.countInGroup(handshakeKey{subnet, true})
	h.addressGroup = t.countInGroup(handshakeKey{single, false})
}

func (t *handshakeTable) countInGroup(key handshakeKey) *handshakeGroup {
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

// leaveGroups undoes joinGroups, and drops empty groups.
func (t *handshakeTable) leaveGroups(h *handshake) {
	for _, g := range []*handshakeGroup{h.subnetGroup, h.addressGroup} {
		if g.count--; g.count == 0 {
			delete(t.groups, g.key)
		}
	}
	h.subnetGroup, h.addressGroup = nil, nil
}

// removeHandshake removes h if the table has h.
func (t *handshakeTable) removeHandshake(h *handshake) {
	if i := slices.Index(t.list, h); i >= 0 {
		t.list = slices.Delete(t.list, i, i+1)
		t.leaveGroups(h)
	}
}

// applyChanges removes ended handshakes, and takes over the newly known addresses of
// peers.
func (t *handshakeTable) applyChanges() {
	t.list = slices.DeleteFunc(t.list, func(h *handshake) bool {
		ended := h.ended.Load()
		if ended {
			t.leaveGroups(h)
		} else if addr := h.pendingAddr.Swap(nil); addr != nil {
			t.leaveGroups(h)
			t.joinGroups(h, *addr)
		}
		return ended
	})
}

// chooseVictim returns the handshake to give up, at worst the newest. Before adding the
// newest handshake, callers must have called applyChanges.
func (t *handshakeTable) chooseVictim() *handshake {
	newest := t.list[len(t.list)-1]
	oldest := slices.MaxFunc(t.list, compareGroups) // the first of the handshakes with the largest groups
	for _, h := range t.list[:len(t.list)-1] {
		if compareGroups(h, oldest) == 0 && h.isSilent() {
			return h
		}
	}
	alike := !newest.hasIP || compareGroups(newest, oldest) == 0
	if alike && newest.startedAt.Sub(oldest.startedAt) < minHandshakeTime {
		return newest
	}
	return oldest
}

// compareGroups compares the number of handshakes in the subnets, then in the addresses.
func compareGroups(a, b *handshake) int {
	if n := a.subnetGroup.count - b.subnetGroup.count; n != 0 {
		return n
	}
	return a.addressGroup.count - b.addressGroup.count
}

// isSilent reports whether, by the operating system's account, the peer has sent nothing
// yet.
func (h *handshake) isSilent() bool {
	if !h.peerHasSent && h.rawConn != nil {
		h.peerHasSent = !sockstate.HasSentNothing(h.rawConn)
	}
	return !h.peerHasSent && h.rawConn != nil
}

// peerPrefixes returns the subnet of an address, and the prefix that a single peer
// controls.
func peerPrefixes(addr netip.Addr) (subnet, single netip.Prefix) {
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

// peerIP returns the IP address in addr, or the invalid address if there is none.
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

// findPlainNetConn returns the connection of package net under conn, or nil if not found.
// The address of the result is available without waiting.
func findPlainNetConn(conn net.Conn) net.Conn {
	for range maxWrappers {
		if conn == nil || isPlainNetConn(conn) {
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
