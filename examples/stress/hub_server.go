package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"example.com/rpcx"
)

// hubForm is the form of the subscriptions. A subscription that has ended says so.
var hubForm = &rpcx.Correlation{
	Methods: []string{"news"}, ID: []string{"id"}, Value: []string{"value"}, Error: []string{"error"},
}

// hubValue is what is published.
type hubValue struct {
	N   int    `json:"n"`
	At  int64  `json:"at"` // of Publish, in nanoseconds since 1970
	Pad string `json:"pad"`
}

// hubServer is the server under test, in a process of its own.
type hubServer struct {
	rpcx.Server
	hubs    []*rpcx.Hub
	dir     string        // of the socket
	pad     string        // makes a value as long as it has to be
	last    int           // number of the last value
	arrived chan int      // numbers that all readers have
	peak    chan sample   // the highest samples of a phase, after quit
	quit    chan struct{} // ends the sampling of a phase
}

// serveHub is the process of the server. The parent gives orders until the parent ends.
func serveHub() {
	srv := &hubServer{arrived: make(chan int, 1), peak: make(chan sample)}
	router := rpcx.NewRouter()
	router.Handle("listen", rpcx.Func(srv.listen))
	router.Handle("settle", rpcx.Func(func() sample {
		debug.FreeOSMemory()
		return measured()
	}))
	router.Handle("burst", rpcx.Func(srv.burst))
	router.Handle("publish", rpcx.Func(srv.publish))
	parent := control(router)
	<-parent.Done()
	srv.Close()
	if srv.dir != "" {
		_ = os.RemoveAll(srv.dir)
	}
}

func measured() sample {
	var s sample
	s.measure()
	return s
}

// listen starts serving, and returns the address.
func (srv *hubServer) listen(queue, size, sessions int) (string, error) {
	srv.pad = strings.Repeat("x", size-60)
	methods := rpcx.NewRouter()
	for _, p := range hubPolicies {
		srv.hubs = append(srv.hubs, &rpcx.Hub{Queue: queue, Bytes: hubBytes, Overflow: p.policy})
	}
	methods.Handle("join", rpcx.Func(func(ctx context.Context, i int) (string, error) {
		_, err := srv.hubs[i%len(srv.hubs)].Subscribe(ctx, "news", hubForm, i)
		return "joined", err
	}))
	methods.Handle("arrived", rpcx.Func(func(n int) { srv.arrived <- n }))
	srv.Options = rpcx.Options{Handler: methods, Limits: rpcx.Limits{
		SendTimeout: -1, // the policies are under test
		CostHard:    -1, // all clients have one address
	}}
	srv.MaxSessions = sessions + 1
	srv.MaxQueuedBytes = -1 // the bound under test is that of the hubs
	// Small buffers: otherwise the system would take what the slow clients do not read. With
	// buffers so small, TCP would stall for clients that read.
	srv.Preamble = func(_ context.Context, conn net.Conn) (net.Conn, error) {
		return conn, conn.(*net.UnixConn).SetWriteBuffer(16 << 10)
	}
	dir, err := os.MkdirTemp("", "rpcx-hub")
	if err != nil {
		return "", err
	}
	srv.dir = dir
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		return "", err
	}
	// Owner: the process. End: Close, at the end of the process.
	go func() { _ = srv.Serve(l) }()
	return l.Addr().String(), nil
}

// publishNext publishes the next value to all hubs, and returns the time that Publish took.
func (srv *hubServer) publishNext() (time.Duration, error) {
	srv.last++
	start := time.Now()
	value, err := json.Marshal(hubValue{srv.last, start.UnixNano(), srv.pad})
	if err != nil {
		return 0, err
	}
	for _, hub := range srv.hubs {
		if err := hub.Publish(context.Background(), "news", json.RawMessage(value)); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// burst publishes each value when all readers have the last one, and returns the rate.
func (srv *hubServer) burst(seconds float64) (float64, error) {
	start, first := time.Now(), srv.last
	for time.Since(start).Seconds() < seconds {
		if _, err := srv.publishNext(); err != nil {
			return 0, err
		}
		for n := 0; n != srv.last; {
			select {
			case n = <-srv.arrived:
			case <-time.After(time.Minute):
				return 0, fmt.Errorf("value %d has not reached all readers in a minute", srv.last)
			}
		}
	}
	return float64(srv.last-first) / time.Since(start).Seconds(), nil
}

// publish publishes at the given rate. If slow is not 0, publish goes on until so many
// sessions have met their policy, for at most four times as long.
func (srv *hubServer) publish(rate, seconds float64, slow int) (p hubPublished, err error) {
	srv.quit = make(chan struct{})
	// Owner: this call. End: quit is closed, and peak is received.
	go srv.sampleUntilQuit()
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	start, base := time.Now(), srv.stats()
	for {
		if past := time.Since(start).Seconds(); past >= seconds {
			if p.Reached = srv.policiesMet(base, slow); p.Reached || past >= 4*seconds {
				break
			}
		}
		took, err := srv.publishNext()
		if err != nil {
			return p, err
		}
		p.Took = append(p.Took, took)
		<-tick.C
		select { // the clients say what has arrived in each phase
		case <-srv.arrived:
		default:
		}
	}
	slices.Sort(p.Took)
	p.Values, p.Last, p.Stats = len(p.Took), srv.last, srv.stats()
	close(srv.quit)
	p.Peak = <-srv.peak
	return p, nil
}

func (srv *hubServer) sampleUntilQuit() {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	peak := measured()
	for {
		select {
		case <-tick.C:
			peak.highest(measured())
		case <-srv.quit:
			peak.highest(measured())
			srv.peak <- peak
			return
		}
	}
}

func (srv *hubServer) stats() (list []rpcx.HubStats) {
	for _, hub := range srv.hubs {
		list = append(list, hub.Stats())
	}
	return list
}

// policiesMet reports whether the slow sessions, a quarter of them at each hub, have met
// the policy of their hub since base.
func (srv *hubServer) policiesMet(base []rpcx.HubStats, slow int) bool {
	for i, s := range srv.stats() {
		each := uint64(slow / len(srv.hubs))
		switch hubPolicies[i].policy {
		case rpcx.DropOldest, rpcx.KeepLatest:
			if each > 0 && (s.Dropped-base[i].Dropped < 10*each || s.Lagging < int(each)) {
				return false
			}
		default:
			if s.Ended-base[i].Ended < each {
				return false
			}
		}
	}
	return true
}
