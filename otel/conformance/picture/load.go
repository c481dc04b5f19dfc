package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/rpcx"
	promrpcx "example.com/rpcx/prometheus"
)

// clients is the number of well-behaved clients.
const clients = 20

// phase is a part of the course of a load.
type phase struct {
	name    string
	work    time.Duration // of the handler
	failing float64       // share of the calls that fail
	hostile bool          // a client calls unknown methods without pause
}

var phases = []phase{
	{"usual", 4 * time.Millisecond, 0, false},
	{"a slow database", 120 * time.Millisecond, 0, false},
	{"a failing disk", 4 * time.Millisecond, 0.4, false},
	{"a hostile client", 4 * time.Millisecond, 0, true},
	{"usual", 4 * time.Millisecond, 0, false},
}

// load is a server with clients, in one process.
type load struct {
	metricsAddr string
	addr        string
	srv         *rpcx.Server
	now         atomic.Pointer[phase]
	stops       []func()
}

// startLoad starts a server without clients.
func startLoad() (*load, error) {
	l := &load{srv: new(rpcx.Server)}
	l.now.Store(&phases[0])
	router := rpcx.NewRouter()
	router.Handle("search", rpcx.Func(func(string) error {
		p := l.now.Load()
		time.Sleep(p.work + time.Duration(rand.Int64N(int64(p.work))))
		if rand.Float64() < p.failing {
			return rpcx.Errorf(5, "read failed")
		}
		return nil
	}))
	collector := promrpcx.New(l.srv, nil)
	registry := client.NewRegistry()
	registry.MustRegister(collector)
	l.srv.Options = *collector.Instrument(&rpcx.Options{Handler: router})
	var err error
	if l.addr, err = l.listen(func(c net.Listener) { _ = l.srv.Serve(c) }, func() { l.srv.Close(); _ = l.srv.Wait(context.Background()) }); err != nil {
		return nil, err
	}
	web := &http.Server{Handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}
	l.metricsAddr, err = l.listen(func(c net.Listener) { _ = web.Serve(c) }, func() { web.Close() })
	return l, err
}

// listen serves on a port of this machine, and returns the address.
func (l *load) listen(serve func(net.Listener), stop func()) (string, error) {
	c, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	// Owner: the load. End: stop.
	go func() { defer close(done); serve(c) }()
	l.stops = append(l.stops, func() { stop(); <-done })
	return c.Addr().String(), nil
}

func (l *load) stop() {
	for _, stop := range l.stops {
		stop()
	}
}

// run goes through the phases.
func (l *load) run(ctx context.Context, length time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for range clients {
		s, err := rpcx.Dial(ctx, "tcp://"+l.addr, nil)
		if err != nil {
			return err
		}
		all.Go(func() { l.behave(ctx, s) })
	}
	for i := range phases {
		p := &phases[i]
		l.now.Store(p)
		next := time.After(length)
		if p.hostile {
			all.Go(func() { l.attack(ctx, p) })
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// behave makes ten calls a second.
func (l *load) behave(ctx context.Context, s *rpcx.Session) {
	defer s.Close()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		_ = s.Call(ctx, "search", rpcx.Args{"tea"}, nil)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// attack calls unknown methods during the phase p, and connects again when the server has
// had enough.
func (l *load) attack(ctx context.Context, p *phase) {
	for n := 0; l.now.Load() == p && ctx.Err() == nil; {
		s, err := rpcx.Dial(ctx, "tcp://"+l.addr, nil)
		if err != nil {
			return
		}
		for s.Err() == nil && l.now.Load() == p {
			n++
			_ = s.Go(ctx, fmt.Sprint("admin", n), nil)
		}
		s.Close()
		<-s.Done()
	}
}

// freeAddr returns an address on which nothing listens.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
