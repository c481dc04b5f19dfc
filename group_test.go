package rpcx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// addressed is a connection with a remote address.
type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }

// text is an address as some connections have it.
type text string

func (text) Network() string  { return "text" }
func (a text) String() string { return string(a) }

func TestGroupBySubnet(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, c := range []struct {
		name         string
		bits4, bits6 int
		addr         net.Addr
		want         string
	}{
		{"IPv4", 24, 48, tcp("192.0.2.7:1000"), "192.0.2.0/24"},
		{"IPv4, another of the same", 24, 48, tcp("192.0.2.255:2000"), "192.0.2.0/24"},
		{"IPv4, one by one", 32, 64, tcp("192.0.2.7:1000"), "192.0.2.7/32"},
		{"IPv6 /48", 24, 48, tcp("[2001:db8:1:2::7]:1000"), "2001:db8:1::/48"},
		{"IPv6 /64", 24, 64, tcp("[2001:db8:1:2::7]:1000"), "2001:db8:1:2::/64"},
		{"IPv4 in IPv6", 24, 48, text("[::ffff:192.0.2.7]:1000"), "192.0.2.0/24"},
		{"IPv6 with a zone", 24, 64, tcp("[fe80::1%eth0]:1000"), "fe80::/64"},
		{"more bits than there are", 33, 129, tcp("192.0.2.7:1000"), "192.0.2.7"},
		{"no bits: all together", 0, 0, tcp("192.0.2.7:1000"), "0.0.0.0/0"},
		{"this machine", 24, 48, tcp("127.0.0.1:1000"), ""},
		{"this machine, another of its addresses", 32, 64, tcp("127.3.2.1:1000"), ""},
		{"this machine, IPv6", 24, 48, tcp("[::1]:1000"), ""},
		{"this machine, IPv4 in IPv6", 24, 48, text("[::ffff:127.0.0.1]:1000"), ""},
		{"this machine, no bits", 0, 0, tcp("127.0.0.1:1000"), ""},
		{"this machine, more bits than there are", 33, 129, tcp("[::1]:1000"), ""},
		{"a neighbour of this machine's addresses", 24, 48, tcp("128.0.0.1:1000"), "128.0.0.0/24"},
		{"a neighbour of this machine's, IPv6", 24, 128, tcp("[::2]:1000"), "::2/128"},
		{"a unix socket", 24, 48, &net.UnixAddr{Net: "unix"}, ""},
		{"a unix socket with a name", 24, 48, &net.UnixAddr{Net: "unix", Name: "@name"}, ""},
		{"a name", 24, 48, text("localhost:1000"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := addressed{addr: c.addr}
			s := newSession(newStream(conn, NewlineFramer{}), options(nil), RoleServer, &pool{}, &load{})
			if got := GroupBySubnet(c.bits4, c.bits6)(s); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	s := newSession(&messages{conn: nowhere{}}, options(nil), RoleServer, &pool{}, &load{})
	if got := GroupBySubnet(24, 48)(s); got != "" {
		t.Errorf("without an address it is in group %q", got)
	}
}

func TestAccountsOfGroupsArePruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g groups
		l := &Limits{CostDecay: 1, CostHard: 100000}
		kept := g.join("with a session", l)
		kept.charge(50)
		g.join("with a cost", l).charge(100000)
		g.accounts["with a cost"].sessions--
		for i := range 100000 {
			a := g.join(fmt.Sprint(i), l)
			a.charge(1)
			a.sessions--
			if i%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		if n := len(g.accounts); n > 2100 {
			t.Errorf("%d accounts are kept", n)
		}
		if g.join("with a session", l) != kept || g.accounts["with a cost"] == nil {
			t.Error("an account that was needed is gone")
		}
		if g.size("with a session") != 2 || g.size("with a cost") != 0 || g.size("none") != 0 {
			t.Error("the sessions are not counted")
		}
	})
}

// One line after the other that is no JSON, all in one piece, are not an hour's
// but ten days' worth of decay.
func TestGroupIsNotLockedOutForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{Options: Options{Limits: Limits{Group: func(*Session) string { return "one" }}}}
		near, far := net.Pipe()
		s := srv.ServeConn(near)
		go far.Write([]byte(strings.Repeat("x\n", 2000)))
		io.Copy(io.Discard, far)
		<-s.Done()

		time.Sleep(time.Hour + time.Second) // what is above CostHard has decayed
		near, far = net.Pipe()
		s = srv.ServeConn(near)
		if got := s.Cost(); got > 10000 || s.Stats().Concurrency == 0 {
			t.Errorf("the cost is %v, with a concurrency of %d", got, s.Stats().Concurrency)
		}
		far.Close()
		srv.Close()
		srv.Wait(context.Background())
	})
}

// What has come of a message that the peer does not complete has been received all
// the same: to connect again and again for it is not to be had for nothing.
func TestGroupPaysForMessagesThatAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{Options: Options{Limits: Limits{Group: func(*Session) string { return "one" }, CostPerByte: 1}}}
		const size, times = 300, 3
		for range times {
			near, far := net.Pipe()
			s := srv.ServeConn(near)
			far.Write([]byte(strings.Repeat("x", size)))
			far.Close()
			<-s.Done()
			if got := s.Stats().BytesReceived; got != size {
				t.Errorf("%d bytes were received, want %d", got, size)
			}
		}
		near, far := net.Pipe()
		if got := srv.ServeConn(near).Cost(); got != times*size {
			t.Errorf("the cost is %v, want %v", got, times*size)
		}
		far.Close()
		srv.Close()
		srv.Wait(context.Background())
	})
}

// Behind a proxy on this machine, one client must not use up the budget of all.
func TestClientsOfALocalProxyShareNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{MaxGroup: 1, Options: Options{Limits: Limits{Group: GroupBySubnet(24, 64)}}}
		for _, addr := range []net.Addr{text("127.0.0.1:1000"), text("[::1]:1000"), &net.UnixAddr{Net: "unix"}} {
			var sessions []*Session
			for range 2 {
				near, far := net.Pipe()
				defer far.Close()
				s := srv.ServeConn(addressed{near, addr})
				if s == nil {
					t.Fatalf("a second client from %v is refused", addr)
				}
				sessions = append(sessions, s)
			}
			sessions[0].BumpCost(6000)
			if got := sessions[1].Cost(); got != 0 {
				t.Errorf("what a client from %v costs counts for another: %v", addr, got)
			}
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}

// A group's budget is the sum of what its members use, and outlives them.
func TestGroupSharesItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{Options: Options{Limits: Limits{Group: func(s *Session) string { return s.RemoteAddr().String() }}}}
		serve := func(group string) (*Session, net.Conn) {
			near, far := net.Pipe()
			go func() { // what is written is not looked at
				for buf := make([]byte, 1000); ; {
					if _, err := far.Read(buf); err != nil {
						return
					}
				}
			}()
			s := srv.ServeConn(addressed{near, text(group)})
			t.Cleanup(func() { far.Close() })
			return s, far
		}
		say := func(conn net.Conn) {
			conn.Write([]byte(`{"jsonrpc":"2.0","method":"m"}` + "\n"))
			synctest.Wait()
		}
		a, _ := serve("one")
		b, farB := serve("one")
		other, _ := serve("two")
		alone, _ := serve("")
		a.BumpCost(6000)
		if a.Cost() != 6000 || b.Cost() != 6000 || other.Cost() != 0 || alone.Cost() != 0 {
			t.Errorf("the costs are %v, %v, %v, %v", a.Cost(), b.Cost(), other.Cost(), alone.Cost())
		}
		b.BumpCost(2000) // too much to be held to its own cost alone
		a.BumpCost(-2000)
		say(farB)
		if n := b.Stats().Concurrency; n != 10 {
			t.Errorf("another member's concurrency is %d", n)
		}
		a.BumpCost(10000)
		say(farB) // it learns it when it next does something
		<-b.Done()
		a.Close()
		<-a.Done()

		time.Sleep(time.Minute)
		c, farC := serve("one") // a reconnect does not help
		if got := c.Cost(); got < 15000 || c.Stats().Concurrency != 0 {
			t.Errorf("the cost after a reconnect is %v, with a concurrency of %d", got, c.Stats().Concurrency)
		}
		say(farC)
		<-c.Done()
		if _, ok := c.Err().(*CostError); !ok {
			t.Errorf("it ended with %v", c.Err())
		}
		time.Sleep(2 * time.Hour)
		d, farD := serve("one") // time does
		say(farD)
		if d.Stats().Concurrency != 20 || d.Err() != nil {
			t.Errorf("after two hours: %+v, %v", d.Stats(), d.Err())
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}

// One peer's mistakes do not end the sessions of its neighbours: those that were good go
// on, and the new are refused.
func TestGroupOverItsBudgetLetsTheGoodGoOn(t *testing.T) {
	const request = `{"jsonrpc":"2.0","method":"m","id":1}` + "\n"
	const good, refused = `{"jsonrpc":"2.0","result":"fine","id":1}`, `{"jsonrpc":"2.0","error":{"code":-101,`
	for name, c := range map[string]struct {
		limits  Limits
		before  float64       // what the neighbour had used when the group's budget was used up
		after   float64       // what it uses then
		late    bool          // it begins then
		wait    time.Duration // before it asks
		answers string
	}{
		"one that has used nothing":                 {answers: good},
		"one that has used a little":                {before: 900, after: 900, answers: good},
		"one that has used no more than CostSoft":   {before: 1990, answers: good},
		"one that has used more":                    {before: 2100, answers: refused},
		"one that has used more, and then waits":    {before: 2100, wait: 10 * time.Minute, answers: good},
		"one that uses more then":                   {before: 900, after: 1200, answers: refused},
		"one that begins then":                      {late: true, answers: refused},
		"one that begins then, and waits":           {late: true, wait: 2 * time.Hour, answers: good},
		"one that begins then, and waits too short": {late: true, wait: 10 * time.Minute, answers: refused},
		"without a soft limit, a good one":          {limits: Limits{CostSoft: -1}, before: 1900, answers: good},
		"without a soft limit, another":             {limits: Limits{CostSoft: -1}, before: 2100, answers: refused},
		"with a low hard limit, a good one":         {limits: Limits{CostHard: 1000}, before: 190, answers: good},
		"with a low hard limit, another":            {limits: Limits{CostHard: 1000}, before: 250, answers: refused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.limits.Group = func(*Session) string { return "one" }
				srv := &Server{Options: Options{Limits: c.limits, Handler: HandlerFunc(func(context.Context, *Request) (any, error) { return "fine", nil })}}
				defer srv.Wait(context.Background())
				defer srv.Close()
				serve := func() (*Session, net.Conn) {
					near, far := net.Pipe()
					t.Cleanup(func() { far.Close() })
					return srv.ServeConn(near), far
				}
				spoil := func() {
					near, far := net.Pipe()
					abuser := srv.ServeConn(near)
					go far.Write([]byte(strings.Repeat("x\n", 2000))) // the cost of a tenth of it would suffice
					go io.Copy(io.Discard, far)
					<-abuser.Done()
					far.Close()
				}
				if c.late {
					spoil()
				}
				s, far := serve()
				s.BumpCost(c.before)
				if !c.late {
					spoil()
				}
				if got := s.Cost(); got < s.limits.CostHard {
					t.Fatalf("the group's cost is %v", got)
				}
				s.BumpCost(c.after)
				time.Sleep(c.wait)
				start := time.Now()
				go far.Write([]byte(request))
				line := make([]byte, 1000)
				n, err := far.Read(line)
				if got := string(line[:n]); err != nil || !strings.HasPrefix(got, c.answers) {
					t.Errorf("the answer is %s, %v; want %s", got, err, c.answers)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("it came after %v", took)
				}
				synctest.Wait()
				if err := s.Err(); c.answers == good && err != nil {
					t.Errorf("the session has ended with %v", err)
				}
			})
		})
	}
}

// A message is counted that a sender writes itself, until it is written.
func TestLentWriteIsNotCountedForEver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &Server{}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	c, err := Dial(t.Context(), "tcp://"+l.Addr().String(), &Options{
		Handler: HandlerFunc(func(context.Context, *Request) (any, error) { return "thanks", nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "m", nil, nil); !errors.Is(err, ErrMethodNotFound) { // now the server has the session
		t.Fatal(err)
	}
	for s := range srv.Sessions() {
		for idle := false; !idle; runtime.Gosched() {
			s.lock()
			idle = s.out.idle
			s.unlock()
		}
		if err := s.Call(t.Context(), "m", Args{strings.Repeat("x", 20000)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for srv.Stats().QueuedBytes != 0 { // the reply can be faster than the end of the write
		runtime.Gosched()
	}
	c.Close()
	<-c.Done()
	srv.Close()
	srv.Wait(context.Background())
	<-served
}
