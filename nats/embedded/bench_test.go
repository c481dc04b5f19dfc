//go:build unix

package embedded_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats.go"
)

// benchConns returns a connection of a caller and one of a worker: in the process, or over
// TCP at different nodes of a cluster.
var benchConns = map[string]func(b *testing.B) (caller, worker *nats.Conn){
	"embedded": func(b *testing.B) (caller, worker *nats.Conn) {
		bus := newBus(b)
		worker, err := bus.Connect()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(worker.Close)
		return bus.Conn, worker
	},
	"cluster": func(b *testing.B) (caller, worker *nats.Conn) {
		c := newCluster(b)
		return c.connect(b, 0), c.connect(b, 1)
	},
}

// echoRouter has the method "echo".
func echoRouter() *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("echo", rpcx.Func(func(_ context.Context, v string) (string, error) { return v, nil }))
	return r
}

// BenchmarkCall compares a call through a gateway, from a client over TCP to a worker,
// with a request of package nats, with the same bytes. The gateway is also measured
// without the session of a client.
func BenchmarkCall(b *testing.B) {
	ctx := context.Background()
	text := "a text of some length"
	ways := map[string]func(b *testing.B, caller, worker *nats.Conn) func() error{
		"nats": func(b *testing.B, caller, worker *nats.Conn) func() error {
			sub, err := worker.QueueSubscribe("rpc.echo", "rpcx", func(m *nats.Msg) { _ = m.Respond(m.Data) })
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = sub.Unsubscribe() })
			msg := []byte(`{"jsonrpc":"2.0","method":"echo","params":["` + text + `"],"id":0}`)
			return func() error {
				_, err := caller.RequestWithContext(ctx, "rpc.echo", msg)
				return err
			}
		},
		"gateway": func(b *testing.B, caller, worker *nats.Conn) func() error {
			work(b, serverOf(echoRouter()), natsrpcx.Config{Conn: worker, MaxInFlight: -1})
			s := gateway(b, natsrpcx.Config{Conn: caller}, rpcx.Options{Limits: rpcx.Limits{CostOff: true, Concurrency: 1000}},
				&rpcx.Options{Limits: rpcx.Limits{Outgoing: 1000, OutgoingMax: 1000}})
			return func() error {
				_, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{text})
				return err
			}
		},
		"session": func(b *testing.B, _, _ *nats.Conn) func() error { // without NATS
			s := gateway(b, natsrpcx.Config{}, rpcx.Options{Handler: echoRouter(), Limits: rpcx.Limits{CostOff: true, Concurrency: 1000}},
				&rpcx.Options{Limits: rpcx.Limits{Outgoing: 1000, OutgoingMax: 1000}})
			return func() error {
				_, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{text})
				return err
			}
		},
		"client": func(b *testing.B, caller, worker *nats.Conn) func() error {
			work(b, serverOf(echoRouter()), natsrpcx.Config{Conn: worker, MaxInFlight: -1})
			client := dial(b, natsrpcx.Config{Conn: caller}, &rpcx.Options{Limits: rpcx.Limits{Outgoing: 1000}})
			return func() error {
				_, err := rpcx.Call[string](ctx, client, "echo", rpcx.Args{text})
				return err
			}
		},
	}
	for _, place := range []string{"embedded", "cluster"} {
		for _, inFlight := range []int{1, 128} {
			for _, way := range []string{"nats", "session", "gateway", "client"} {
				b.Run(fmt.Sprintf("%s/%d/%s", place, inFlight, way), func(b *testing.B) {
					caller, worker := benchConns[place](b)
					call := ways[way](b, caller, worker)
					until(b, "calls are answered", func() bool { return call() == nil })
					b.ReportAllocs()
					cpu := cpuTime()
					b.ResetTimer()
					var left atomic.Int64
					left.Store(int64(b.N))
					var wg sync.WaitGroup
					for range inFlight {
						wg.Go(func() {
							for left.Add(-1) >= 0 {
								if err := call(); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
					b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N), "cpu-ns/op") // on a busy machine, this is steadier
				})
			}
		}
	}
}

// cpuTime returns the processor time of this process.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkPublish publishes a value to 1,000 sessions at hubs of three nodes, and waits
// until each has received it.
func BenchmarkPublish(b *testing.B) {
	const sessions = 1000
	c := newCluster(b)
	var received atomic.Int64
	var hubs []*rpcx.Hub
	counter := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
		received.Add(1)
		return nil, nil
	})
	for i := range c.nodes {
		hub := &rpcx.Hub{Broker: natsrpcx.Broker(natsrpcx.Config{Conn: c.connect(b, i)})}
		hubs = append(hubs, hub)
		for k := range sessions {
			if k%len(c.nodes) != i {
				continue
			}
			s, server := rpcx.Pipe(&rpcx.Options{Handler: counter}, &rpcx.Options{Handler: hubRouter(hub), Limits: rpcx.Limits{CostOff: true}})
			b.Cleanup(func() {
				s.Close()
				server.Close()
				<-s.Done()
				<-server.Done()
			})
			if err := s.Call(context.Background(), "eth_subscribe", rpcx.Args{"news"}, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	publish := func(n int) {
		if err := hubs[n%len(hubs)].Publish(context.Background(), "news", published{1, n}); err != nil {
			b.Error(err)
		}
	}
	until(b, "a value reaches all nodes", func() bool {
		before := received.Load()
		publish(0)
		for range 100 {
			if received.Load() == before+sessions {
				return true
			}
			time.Sleep(time.Millisecond)
		}
		return false
	})
	b.ResetTimer()
	for n := range b.N {
		target := received.Load() + sessions
		publish(n)
		for received.Load() < target {
			time.Sleep(10 * time.Microsecond)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sessions, "ns/session")
}
