package interop

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"example.com/rpcx/websocket"
	"github.com/ethereum/go-ethereum/rpc"
)

// socketPath returns a path for a unix socket, which must fit into 104 bytes.
func socketPath(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "rpcx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return filepath.Join(folder, "ipc")
}

// publisher publishes numbers, one after the other.
type publisher struct {
	hub    rpcx.Hub
	mu     sync.Mutex
	number uint64            // the last one
	first  map[string]uint64 // by the name of the subscriber, the number that it must learn first
}

// newPublisher returns a publisher whose hub drops nothing while the machine is busy for a
// few seconds.
func newPublisher() *publisher {
	return &publisher{hub: rpcx.Hub{Queue: 1 << 16, Bytes: 16 << 20}, first: make(map[string]uint64)}
}

const period = 50 * time.Microsecond

// publish publishes a number for each period until ctx ends. Timers are coarser than the
// period if the process is idle, and several numbers follow each other then. If the machine
// is busy, numbers that are late by a millisecond are left out.
func (p *publisher) publish(ctx context.Context) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for due := time.Now(); ctx.Err() == nil; <-ticker.C {
		now := time.Now()
		if late := now.Add(-time.Millisecond); due.Before(late) {
			due = late
		}
		for ; due.Before(now); due = due.Add(period) {
			p.mu.Lock()
			p.number++
			p.hub.Publish(ctx, "newHeads", p.number)
			p.mu.Unlock()
		}
	}
}

// methods returns the handlers of subscriptions with the params "newHeads" and the name of
// the subscriber. Between the beginning of a subscription and the note of its first number
// there is no publication.
func (p *publisher) methods() rpcx.Handler {
	subscribe, unsubscribe := p.hub.Handlers(rpcx.EthSubscription, func(_ context.Context, req *rpcx.Request) (string, error) {
		var params [2]string
		if err := req.Bind(&params); err != nil {
			return "", err
		}
		p.first[params[1]] = p.number + 1
		return params[0], nil
	}, nil)
	router := rpcx.NewRouter()
	router.Handle("eth_subscribe", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return subscribe.ServeRPC(ctx, req)
	}))
	router.Handle("eth_unsubscribe", unsubscribe)
	return router
}

// A client of go-ethereum drops news that come before the reply to eth_subscribe. Here it
// subscribes 5,000 times, while a number is published each 50 µs, and misses none. (With
// the race detector, the client reads too slowly for 5,000 times.)
func TestGethSubscribes(t *testing.T) {
	ctx := testContext(t)
	p := newPublisher()
	srv := &rpcx.Server{Options: rpcx.Options{Handler: p.methods(), Framer: rpcx.JSONFramer{}}}
	defer func() {
		srv.Close()
		srv.Wait(context.Background())
	}()
	path := socketPath(t)
	l, err := rpcx.Listen(ctx, "unix://"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Owner: the test. End: the server is closed.
	go srv.Serve(l)
	web := httptest.NewServer(websocket.Handler(srv))
	defer web.Close()

	publishing, stop := context.WithCancel(ctx)
	var publishers sync.WaitGroup
	publishers.Go(func() { p.publish(publishing) })
	defer publishers.Wait()
	defer stop()
	times := 2500
	if race.Enabled {
		times = 500
	}
	for name, addr := range map[string]string{"IPC": path, "WebSocket": strings.Replace(web.URL, "http", "ws", 1)} {
		t.Run(name, func(t *testing.T) { p.subscribeOften(t, ctx, addr, times) })
	}
	stats := p.hub.Stats()
	t.Logf("%d numbers were published, %d news sent", stats.Published, stats.Sent)
	if stats.Subscribers != 0 || stats.Dropped != 0 {
		t.Errorf("at the end, the hub has %+v", stats)
	}
}

// subscribeOften has a client of go-ethereum subscribe and unsubscribe so many times.
func (p *publisher) subscribeOften(t *testing.T, ctx context.Context, addr string, times int) {
	client, err := rpc.DialContext(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range times {
		name := fmt.Sprint(addr, i)
		news := make(chan uint64)
		sub, err := client.EthSubscribe(ctx, news, "newHeads", name)
		if err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		first := p.first[name]
		p.mu.Unlock()
		for want := range uint64(3) {
			want += first
			select {
			case got := <-news:
				if got != want {
					t.Fatalf("subscription %d received %d, want %d, the first being %d", i, got, want, first)
				}
			case err := <-sub.Err():
				t.Fatalf("subscription %d ended with %v", i, err)
			case <-ctx.Done():
				t.Fatalf("subscription %d waits for %d", i, want)
			}
		}
		sub.Unsubscribe()
	}
}

// gethNews is a service of go-ethereum's server.
type gethNews struct {
	ended chan error // of each subscription
}

// Numbers sends the numbers from 0 to count, as fast as it can, from before the reply on.
// (Its method is "eth_subscribe", with the params "numbers" and count.)
func (s *gethNews) Numbers(ctx context.Context, count int) (*rpc.Subscription, error) {
	notifier, ok := rpc.NotifierFromContext(ctx)
	if !ok {
		return nil, rpc.ErrNotificationsUnsupported
	}
	sub := notifier.CreateSubscription()
	// Owner: the subscription. End: the peer unsubscribes, or the connection is lost.
	go func() {
		for i := range count {
			if err := notifier.Notify(sub.ID, i); err != nil {
				break
			}
		}
		s.ended <- <-sub.Err()
	}()
	return sub, nil
}

// Echo answers what it is sent; its method is "eth_echo".
func (s *gethNews) Echo(text string) string { return text }

// gethServer serves with go-ethereum's server over a unix socket, and returns a session
// with it.
func gethServer(t *testing.T) (*rpcx.Session, *gethNews) {
	t.Helper()
	service := &gethNews{ended: make(chan error, 1000)}
	srv := rpc.NewServer()
	if err := srv.RegisterName("eth", service); err != nil {
		t.Fatal(err)
	}
	path := socketPath(t)
	l, err := rpcx.Listen(t.Context(), "unix://"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { srv.ServeListener(l) })
	t.Cleanup(func() {
		l.Close()
		srv.Stop()
		serving.Wait()
	})
	s, err := rpcx.Dial(t.Context(), "unix://"+path, &rpcx.Options{
		Framer:       rpcx.JSONFramer{},
		Correlations: []*rpcx.Correlation{rpcx.EthSubscription},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	return s, service
}

func numbers(t *testing.T, ctx context.Context, s *rpcx.Session, count, queue int) *rpcx.Stream[int] {
	t.Helper()
	stream, err := rpcx.Subscribe[int](ctx, s, rpcx.Subscription{
		Method: "eth_subscribe", Params: rpcx.Args{"numbers", count}, Queue: queue,
	})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// readNumbers reads the numbers from one to another.
func readNumbers(t *testing.T, ctx context.Context, stream *rpcx.Stream[int], from, to int) {
	t.Helper()
	for want := from; want < to; want++ {
		if got, err := stream.Next(ctx); got != want || err != nil {
			t.Fatalf("got %d (%v), want %d", got, err, want)
		}
	}
}

// closeStream closes a stream of go-ethereum's server, and waits until that has been told.
func closeStream(t *testing.T, ctx context.Context, stream *rpcx.Stream[int], service *gethNews) {
	t.Helper()
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-service.ended:
		if err != nil {
			t.Errorf("the subscription ended with %v", err)
		}
	case <-ctx.Done():
		t.Error("the server was not told that the stream is closed")
	}
}

func TestGethPublishes(t *testing.T) {
	ctx := testContext(t)
	s, service := gethServer(t)
	stream := numbers(t, ctx, s, 10_000, 10_000)
	readNumbers(t, ctx, stream, 0, 10_000)
	if n := stream.Dropped(); n != 0 {
		t.Errorf("%d were dropped", n)
	}
	closeStream(t, ctx, stream, service)
}

func TestGethPublishesToManyStreams(t *testing.T) {
	ctx := testContext(t)
	s, service := gethServer(t)
	var readers sync.WaitGroup
	for range 100 {
		readers.Go(func() {
			stream, err := rpcx.Subscribe[int](ctx, s, rpcx.Subscription{Method: "eth_subscribe", Params: rpcx.Args{"numbers", 100}})
			if err != nil {
				t.Error(err)
				return
			}
			defer stream.Close()
			for want := range 100 {
				if got, err := stream.Next(ctx); got != want || err != nil {
					t.Errorf("got %d (%v), want %d", got, err, want)
					return
				}
			}
		})
	}
	readers.Wait()
	for range 100 {
		receive(t, ctx, service.ended, nil)
	}
}

// Nobody reads until the server has sent everything: the newest 256 are left.
func TestGethPublishesTooFast(t *testing.T) {
	ctx := testContext(t)
	s, service := gethServer(t)
	stream := numbers(t, ctx, s, 10_000, 0)
	last := numbers(t, ctx, s, 1, 0)
	readNumbers(t, ctx, last, 0, 1)
	for stream.Dropped() < 10_000-256 {
		if ctx.Err() != nil {
			t.Fatalf("%d were dropped", stream.Dropped())
		}
		runtime.Gosched()
	}
	readNumbers(t, ctx, stream, 10_000-256, 10_000)
	closeStream(t, ctx, stream, service)
	closeStream(t, ctx, last, service)
}

// A stream ends with the connection, and says so.
func TestGethStops(t *testing.T) {
	ctx := testContext(t)
	s, service := gethServer(t)
	stream := numbers(t, ctx, s, 1, 0)
	readNumbers(t, ctx, stream, 0, 1)
	s.Close()
	if _, err := stream.Next(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("after the end of the session Next returned %v", err)
	}
	if stream.Err() == nil {
		t.Error("Err is nil after the end of the session")
	}
	select {
	case <-service.ended:
	case <-ctx.Done():
		t.Error("the server's subscription goes on")
	}
}
