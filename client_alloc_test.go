package rpcx_test

import (
	"context"
	"net"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// clientPair returns a client and a session of the same kind, connected over TCP to servers
// with the same handler.
func clientPair(t testing.TB) (*rpcx.Client, *rpcx.Session) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods{"echo": reply}}}
	go srv.Serve(ln)
	addr := "tcp://" + ln.Addr().String()
	c := rpcx.NewClient(&rpcx.ClientOptions{Addrs: []string{addr}})
	s, err := rpcx.Dial(context.Background(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		c.Close()
		srv.Close()
		<-c.Done()
		<-s.Done()
	})
	return c, s
}

// A call through a Client allocates at most twice more than one on its session, and so does a
// future.
func TestClientCallAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the allocations of a build with checks are others")
	}
	c, s := clientPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	args := rpcx.Args{"text"}
	call := func(c rpcx.Caller) float64 {
		var result string
		return testing.AllocsPerRun(2000, func() {
			if err := c.Call(ctx, "echo", args, &result); err != nil {
				t.Fatal(err)
			}
		})
	}
	future := func(c rpcx.Caller) float64 {
		var result string
		return testing.AllocsPerRun(2000, func() {
			if err := c.Go(ctx, "echo", args).Wait(ctx, &result); err != nil {
				t.Fatal(err)
			}
		})
	}
	notify := func(c rpcx.Caller) float64 {
		return testing.AllocsPerRun(2000, func() {
			if err := c.Notify(ctx, "echo", args); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, test := range []struct {
		name    string
		measure func(rpcx.Caller) float64
	}{{"a call", call}, {"a future", future}, {"a notification", notify}} {
		own, more := test.measure(s), test.measure(c)
		t.Logf("%s allocates %v times on a session, %v times on a client", test.name, own, more)
		if more > own+2 {
			t.Errorf("%s allocates %v times on a client, %v on a session", test.name, more, own)
		}
	}
}

func BenchmarkClientCall(b *testing.B) {
	c, s := clientPair(b)
	ctx := context.Background()
	for _, test := range []struct {
		name   string
		caller rpcx.Caller
	}{{"session", s}, {"client", c}} {
		b.Run(test.name, func(b *testing.B) {
			for range b.N {
				var result string
				if err := test.caller.Call(ctx, "echo", rpcx.Args{"text"}, &result); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(test.name+"/parallel", func(b *testing.B) {
			b.SetParallelism(64)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					var result string
					if err := test.caller.Call(ctx, "echo", rpcx.Args{"text"}, &result); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
