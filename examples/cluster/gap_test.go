package main

import (
	"context"
	"net"
	"testing"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats.go"
)

// What docs/scaling.md says of publications: a gateway whose NATS node is killed ends its
// sessions when it has another node, so that OnGap tells the subscribers of a gap.
func TestGapOfAGatewayIsTold(t *testing.T) {
	c, err := startNodes(2)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	srv := new(rpcx.Server)
	urls := c[0].NATS.ClientURL() + "," + c[1].NATS.ClientURL()
	conn, err := natsrpcx.Connect(urls, nats.DontRandomize(), nats.ReconnectHandler(func(*nats.Conn) {
		for s := range srv.Sessions() {
			s.Close()
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hub := &rpcx.Hub{Broker: natsrpcx.Broker(natsrpcx.Config{Conn: conn})}
	router := rpcx.NewRouter()
	subscribe, unsubscribe := hub.Handlers(rpcx.EthSubscription, func(context.Context, *rpcx.Request) (string, error) { return "news", nil }, nil)
	router.Handle("eth_subscribe", subscribe)
	router.Handle("eth_unsubscribe", unsubscribe)
	srv.Options.Handler = router
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Owner: the test. End: Close of the server.
	go func() { _ = srv.Serve(l) }()
	client := rpcx.NewClient(&rpcx.ClientOptions{Addrs: []string{"tcp://" + l.Addr().String()}})
	defer func() {
		client.Close()
		<-client.Done()
		srv.Close()
		_ = srv.Wait(context.Background())
	}()
	gaps := make(chan *rpcx.GapError, 10)
	stream, err := rpcx.Subscribe[int](t.Context(), client, rpcx.Subscription{
		Method: "eth_subscribe", Params: rpcx.Args{"news"}, OnGap: func(gap *rpcx.GapError) { gaps <- gap },
	})
	if err != nil {
		t.Fatal(err)
	}
	// The publisher is at the node that lives, with a hub of its own.
	publisher := &rpcx.Hub{Broker: natsrpcx.Broker(natsrpcx.Config{Conn: c[1].Conn})}
	ctx, stop := context.WithCancel(t.Context())
	published := make(chan struct{})
	// Owner: the test. End: stop.
	go func() {
		defer close(published)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for n := 1; ctx.Err() == nil; n++ {
			if err := publisher.Publish(ctx, "news", n); err != nil && ctx.Err() == nil {
				t.Errorf("publication %d: %v", n, err)
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}()
	defer func() {
		stop()
		<-published
	}()
	next := func() int {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		value, err := stream.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	last := next()
	for range 10 {
		if value := next(); value != last+1 || len(gaps) > 0 {
			t.Fatalf("value %d follows %d, with %d gaps", value, last, len(gaps))
		}
		last++
	}
	c[0].NATS.Shutdown()
	missed := 0
	for len(gaps) == 0 { // it may be told after the first values behind the gap
		value := next()
		missed += value - last - 1
		last = value
	}
	t.Logf("%d values were missed before the gap was told", missed)
	if gap := <-gaps; !gap.From.Before(gap.To) {
		t.Errorf("the gap is from %v to %v", gap.From, gap.To)
	}
	if value := next(); value != last+1 {
		t.Errorf("after the gap, value %d follows %d", value, last)
	}
}
