package rpcx

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// What goes when there are too many handshakes is of whoever has the most.
func TestHandshakesOfWhoeverHasTheMostMakeWay(t *testing.T) {
	const limit, wait = 4, "wait"
	for name, c := range map[string]struct {
		peers []string // addresses, in order, and pauses of minHandshakeTime
		lost  []int    // which of the handshakes are given up
	}{
		"an address, for another":                  {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "198.51.100.1:1"}, []int{0}},
		"an address, for several others":           {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "198.51.100.1:1", "203.0.113.1:1"}, []int{0, 1}},
		"not those before it":                      {[]string{"198.51.100.1:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "203.0.113.1:1"}, []int{1}},
		"an address, for its own":                  {[]string{"192.0.2.1:1", "198.51.100.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4"}, []int{4}},
		"an address, for its own, later":           {[]string{"198.51.100.1:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", wait, "192.0.2.1:4"}, []int{1}},
		"a flood, the oldest of it first":          {[]string{"198.51.100.1:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", wait, "192.0.2.1:4", "192.0.2.1:5"}, []int{1, 2}},
		"a subnet of IPv4":                         {[]string{"203.0.113.1:1", "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "198.51.100.1:1"}, []int{1}},
		"an address within the subnet":             {[]string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.2:2", "203.0.113.1:1", "198.51.100.1:1"}, []int{1}},
		"a subnet of IPv6":                         {[]string{"[2001:db8:9::1]:1", "[2001:db8:1:1::1]:1", "[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", "198.51.100.1:1"}, []int{1}},
		"a /64 within the subnet":                  {[]string{"[2001:db8:1:1::1]:1", "[2001:db8:1:2::1]:1", "[2001:db8:1:2::2]:1", "203.0.113.1:1", "198.51.100.1:1"}, []int{1}},
		"IPv4 in IPv6 is IPv4":                     {[]string{"203.0.113.1:1", "192.0.2.1:1", "[::ffff:192.0.2.2]:1", "198.51.100.1:1", "198.51.99.1:1"}, []int{1}},
		"those without an IP address":              {[]string{"203.0.113.1:1", "one", "two", "three", "198.51.100.1:1"}, []int{1}},
		"the new one, if its address is not known": {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "one"}, []int{4}},
		"its address is not known, later":          {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", wait, "one"}, []int{0}},
		"all are alike: the new one":               {[]string{"192.0.2.1:1", "198.51.100.1:1", "203.0.113.1:1", "198.51.99.1:1", "198.51.98.1:1"}, []int{4}},
		"all are alike: the oldest, later":         {[]string{"192.0.2.1:1", "198.51.100.1:1", "203.0.113.1:1", "198.51.99.1:1", wait, "198.51.98.1:1"}, []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &Server{MaxHandshakes: limit}
				srv.init()
				var handshakes []*handshake
				var lost []int
				for _, peer := range c.peers {
					if peer == wait {
						time.Sleep(minHandshakeTime)
						continue
					}
					i, h := len(handshakes), &handshake{began: time.Now()}
					h.giveUp = func(error) { lost = append(lost, i) }
					handshakes = append(handshakes, h)
					if srv.addHandshake(h, addressed{addr: text(peer)}) != nil {
						lost = append(lost, i)
					}
				}
				if !slices.Equal(lost, c.lost) {
					t.Errorf("given up were %v, want %v", lost, c.lost)
				}
				if got := srv.Stats(); got.Handshakes != limit || got.Refused["Server.MaxHandshakes"] != uint64(len(c.lost)) {
					t.Errorf("stats are %+v", got)
				}
				for _, h := range handshakes {
					srv.removeHandshake(h)
				}
				if n := len(srv.shaking.list) + len(srv.shaking.groups); n != 0 {
					t.Errorf("%d are left in the table", n)
				}
			})
		})
	}
}
