package rpcx

import (
	"fmt"
	"net/netip"
	"sync/atomic"
)

// GroupBySubnet returns a function for Limits.Group that puts sessions together
// whose peers have the first bits of their IP addresses in common: bits4 of
// IPv4 addresses (24, say), bits6 of IPv6 addresses (48 or 64). A number that
// is negative or too large puts each address in a group of its own.
//
// Peers without an IP address are in no group, and so are those on a loopback address:
// a proxy on this machine, or Tor, has all of its clients arrive from there, and one
// of them could use up the budget of all. The clients of a proxy on another machine
// are in one group. For both see the manual, "Behind a proxy".
func GroupBySubnet(bits4, bits6 int) func(*Session) string {
	return func(s *Session) string {
		addr := s.RemoteAddr()
		if addr == nil {
			return ""
		}
		peer, err := netip.ParseAddrPort(addr.String())
		if err != nil {
			return ""
		}
		ip := peer.Addr().Unmap().WithZone("")
		if ip.IsLoopback() {
			return ""
		}
		bits := bits6
		if ip.Is4() {
			bits = bits4
		}
		subnet, err := ip.Prefix(bits)
		if err != nil {
			return ip.String()
		}
		return subnet.String()
	}
}

// groups are the accounts of groups of sessions, by their names. An account is
// kept as long as the group has a session or a cost: it does no good to
// disconnect. They are guarded by the server's lock.
type groups struct {
	accounts map[string]*account
	most     int // there may be before those that are not needed are dropped
}

// join returns the account of a group, with one more session, whose limits are l.
func (g *groups) join(name string, l *Limits) *account {
	if g.accounts == nil {
		g.accounts = make(map[string]*account)
	}
	a := g.accounts[name]
	if a == nil {
		if len(g.accounts) >= max(g.most, 1024) {
			for name, a := range g.accounts {
				if a.sessions == 0 && a.settle(l.CostDecay) == 0 {
					delete(g.accounts, name)
				}
			}
			g.most = 2 * len(g.accounts)
		}
		a = newAccount()
		// What a peer sends at once can cost a thousand times the limit: that must
		// not lock its group out for weeks.
		a.most = 2 * l.CostHard
		g.accounts[name] = a
	}
	a.sessions++
	return a
}

// size returns how many live sessions a group has.
func (g *groups) size(name string) int {
	if a := g.accounts[name]; a != nil {
		return a.sessions
	}
	return 0
}

// load is what the sessions of a server hold together.
type load struct {
	limits   *Limits // of each, resolved; nil where each has its own
	limit    int     // of the bytes; 0 is none
	bytes    atomic.Int64
	sessions atomic.Int64
	warned   atomic.Bool // of a session that was ended for its cost
}

// lone is for sessions that are no server's. It has no limit.
var lone load

func (l *load) add(bytes int) {
	if bytes != 0 {
		l.bytes.Add(int64(bytes))
	}
}

// full reports whether the limit is reached, and by one that holds weight bytes,
// more than its share. So a few that hold much do not lock the others out, and
// all together hold twice the limit at most, and one message each; more if they
// were fewer when they took it, though never more than the sum of what were the
// shares of the first, the second and so on: ten times the limit with 10,000.
func (l *load) full(weight int) bool {
	return l.limit > 0 && l.bytes.Load() >= int64(l.limit) && int64(weight) >= int64(l.limit)/max(l.sessions.Load(), 1)
}

// weightStep is by how much what a session holds has to change before it is
// counted anew: an atomic addition for each message would be felt.
const weightStep = 4 << 10

// weigh counts what the session holds: requests that wait, messages to be written,
// the replies of batches that are not complete, and what has come of a message that
// is not complete. It is called under the lock, when that has changed. The end of the
// session takes all off: a batch whose last member is refused later changes nothing.
func (s *Session) weigh() {
	if s.load.limit == 0 || s.state == stateDone {
		return
	}
	if d := s.in.bytes + s.out.size() + s.partial + s.assembled - s.weight; d >= weightStep || d <= -weightStep {
		s.weight += d
		s.load.add(d)
	}
}

// partStep is how much of a message may come before it is charged for: one that is
// dropped need never end.
const partStep = 1 << 20

// receivePart is called by the reader before it reads more of a message of which a
// part has come, for which it takes size bytes; with less when it has given them back.
func (s *Session) receivePart(size int) error {
	if s.reader.ignoring && !s.reader.ignores(s.conn.received()) {
		return errIgnored
	}
	endless := s.conn.received()-s.stats.BytesReceived >= partStep
	if size == s.partial && !endless && !s.vigil.on {
		return nil // only the reader changes the first two, and nobody the third
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.markAlive()
	if endless {
		s.meter()
		if s.overdrawn() {
			s.pool.run(s.dismiss)
		}
	}
	more := size > s.partial
	s.partial = size
	s.weigh()
	if more && s.load.full(s.weight) {
		return &FrameError{Message: fmt.Sprintf("no room for a message of more than %d bytes: over %d bytes on this server (Server.MaxQueuedBytes)", size/2, s.load.limit)}
	}
	return nil
}
