package rpcx

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
		ip := peerIP(s.RemoteAddr())
		if !ip.IsValid() || ip.IsLoopback() {
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
