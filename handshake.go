package rpcx

import (
	"crypto/tls"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"syscall"
	"time"
)

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
