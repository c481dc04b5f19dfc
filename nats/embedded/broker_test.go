package embedded_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// hubRouter returns a router whose clients subscribe to topics of hub by eth_subscribe.
func hubRouter(hub *rpcx.Hub) *rpcx.Router {
	r := rpcx.NewRouter()
	subscribe, unsubscribe := hub.Handlers(rpcx.EthSubscription, func(_ context.Context, req *rpcx.Request) (string, error) {
		var args []string
		if err := req.Bind(&args); err != nil || len(args) != 1 {
			return "", rpcx.InvalidParams("a topic is needed")
		}
		return args[0], nil
	}, nil)
	r.Handle("eth_subscribe", subscribe)
	r.Handle("eth_unsubscribe", unsubscribe)
	return r
}

// published is a value of the tests.
type published struct{ Publisher, N int }

// subscribe returns a stream of the topic.
func subscribe(t testing.TB, s *rpcx.Session, topic string) *rpcx.Stream[published] {
	t.Helper()
	st, err := rpcx.Subscribe[published](t.Context(), s, rpcx.Subscription{Method: "eth_subscribe", Params: rpcx.Args{topic}, Queue: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func TestHubsOfThreeNodes(t *testing.T) {
	const publishers, values = 3, 200
	c := newCluster(t)
	var hubs []*rpcx.Hub
	var streams, others []*rpcx.Stream[published]
	for i := range c.nodes {
		hub := &rpcx.Hub{Broker: natsrpcx.Broker(natsrpcx.Config{Conn: c.connect(t, i)}), Queue: 10_000}
		hubs = append(hubs, hub)
		for range 2 {
			s := gateway(t, natsrpcx.Config{}, rpcx.Options{Handler: hubRouter(hub), Limits: rpcx.Limits{CostOff: true}}, nil)
			streams = append(streams, subscribe(t, s, "topic.>*"))
			others = append(others, subscribe(t, s, "topic.>"))
		}
	}
	// Each node has heard of the subscriptions of the others when a value has arrived
	// everywhere.
	for i, hub := range hubs {
		waitForValue(t, streams, func() error { return hub.Publish(t.Context(), "topic.>*", published{100 + i, 0}) }, 100+i)
	}
	var wg sync.WaitGroup
	for i, hub := range hubs {
		wg.Go(func() {
			for n := range values {
				if err := hub.Publish(t.Context(), "topic.>*", published{i, n}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	perNode := make(map[int]string)
	for k, st := range streams {
		next := make([]int, publishers)
		var order strings.Builder
		for got := 0; got < publishers*values; {
			v, err := st.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if v.Publisher >= 100 {
				continue
			}
			if v.N != next[v.Publisher] {
				t.Fatalf("stream %d: value %d of publisher %d, want %d", k, v.N, v.Publisher, next[v.Publisher])
			}
			next[v.Publisher]++
			fmt.Fprint(&order, v.Publisher)
			got++
		}
		if first, ok := perNode[k/2]; ok && first != order.String() {
			t.Errorf("two sessions of node %d have received the values in different orders", k/2)
		}
		perNode[k/2] = order.String()
	}
	// The other topic has received nothing.
	for i, st := range others {
		skipped := waitForValue(t, others[i:i+1], func() error { return hubs[0].Publish(t.Context(), "topic.>", published{200 + i, 0}) }, 200+i)
		if i := slices.IndexFunc(skipped, func(v published) bool { return v.Publisher < 200 }); i >= 0 || st.Dropped() > 0 {
			t.Errorf("values of another topic: %v, %d dropped", skipped, st.Dropped())
		}
	}

	// A node is gone. Its hub goes to another node, and receives what is published from
	// then on.
	c.nodes[1].NATS.Shutdown()
	waitForValue(t, streams, func() error { return hubs[0].Publish(t.Context(), "topic.>*", published{300, 0}) }, 300)
	waitForValue(t, streams, func() error {
		err := hubs[1].Publish(t.Context(), "topic.>*", published{400, 0})
		if err != nil && !strings.Contains(err.Error(), "not connected to NATS") {
			return err
		}
		return nil
	}, 400)
}

// waitForValue publishes until each stream has received a value of the publisher. It
// returns the values that the streams have received before.
func waitForValue(t *testing.T, streams []*rpcx.Stream[published], publish func() error, publisher int) (skipped []published) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i, st := range streams {
		found := false
		for !found {
			if err := publish(); err != nil {
				t.Fatal(err)
			}
			wait, stop := context.WithTimeout(ctx, 50*time.Millisecond)
			v, err := st.Next(wait)
			for ; err == nil && v.Publisher != publisher; v, err = st.Next(wait) {
				skipped = append(skipped, v)
			}
			stop()
			if found = err == nil; !found && ctx.Err() != nil {
				t.Fatalf("stream %d has no value of publisher %d: %v", i, publisher, err)
			}
		}
	}
	return skipped
}

func TestBrokerErrors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bus := newBus(t, func(o *server.Options) { o.MaxPayload = 1000 })
		conn, err := bus.Connect()
		if err != nil {
			t.Fatal(err)
		}
		hub := &rpcx.Hub{Broker: natsrpcx.Broker(natsrpcx.Config{Conn: conn})}
		err = hub.Publish(t.Context(), "topic", strings.Repeat("x", 999))
		if size, ok := errors.AsType[*rpcx.SizeError](err); !ok || size.Limit != 1000 || !strings.Contains(err.Error(), "max_payload") {
			t.Errorf("a value over max_payload: %v", err)
		}
		if err := hub.Publish(t.Context(), strings.Repeat("long", 1000), 1); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := natsrpcx.Broker(natsrpcx.Config{Conn: conn}).Publish(ctx, "topic", nil); err != context.Canceled {
			t.Error(err)
		}
		conn.Close()
		if err := hub.Publish(t.Context(), "topic", 1); err == nil || !strings.Contains(err.Error(), "not connected to NATS") {
			t.Errorf("without a connection: %v", err)
		}
		s := pipeGateway(t, natsrpcx.Config{}, rpcx.Options{Handler: hubRouter(hub)}, nil)
		if err := s.Call(t.Context(), "eth_subscribe", rpcx.Args{"topic"}, nil); err == nil {
			t.Error("a subscription without a connection has no error")
		}
	})
}

// A program without sessions publishes, in this case one that knows nothing of hubs.
func TestAPlainPublicationOfNATS(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		c.Prefix = "app.v1"
		hub := &rpcx.Hub{Broker: natsrpcx.Broker(c)}
		s := pipeGateway(t, c, rpcx.Options{Handler: hubRouter(hub)}, nil)
		st := subscribe(t, s, "news")
		value, _ := json.Marshal(published{7, 8})
		if err := c.Conn.PublishMsg(&nats.Msg{Subject: "app.v1.%topic.news", Data: value}); err != nil {
			t.Fatal(err)
		}
		if v, err := st.Next(t.Context()); err != nil || v != (published{7, 8}) {
			t.Errorf("%v, %v", v, err)
		}
	})
}
