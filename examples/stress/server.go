package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/rpcx"

	"golang.org/x/sync/errgroup"
)

// lookTime is the duration of "look", which waits like a database query, without CPU
// time.
const lookTime = 10 * time.Millisecond

// methods returns the methods of the server.
func methods() *rpcx.Router {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(ctx context.Context, message string) (string, error) {
		return message, nil
	}, "message"))
	router.Handle("sum", rpcx.Func(func(ctx context.Context, values ...float64) (float64, error) {
		sum := 0.0
		for _, v := range values {
			sum += v
		}
		return sum, nil
	}))
	router.Handle("look", rpcx.Func(func(ctx context.Context) (string, error) {
		select {
		case <-time.After(lookTime):
			return "found", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}))
	blob := strings.Repeat("x", 64<<10)
	router.Handle("blob", rpcx.Func(func() string { return blob }))
	return router
}

// server is the server under test, in a separate process.
type server struct {
	rpcx.Server
	end     context.CancelFunc // ends ServeContext
	running errgroup.Group     // ServeContext, and the sampling

	started    chan struct{} // closed when the session with the parent has started
	goroutines int           // number before the server began
	quit       chan struct{} // closed to end the sampling

	mu    sync.Mutex
	ended map[string]int
}

// serve is the process of the server. The parent gives orders until the parent ends.
func serve() {
	srv := &server{
		quit:    make(chan struct{}),
		started: make(chan struct{}),
		ended:   make(map[string]int),
	}
	// Limits are the defaults.
	srv.Options = rpcx.Options{Handler: methods(), Trace: &rpcx.Trace{Closed: srv.closed}}
	router := rpcx.NewRouter()
	router.Handle("listen", rpcx.Func(srv.listen))
	router.Handle("settle", rpcx.Func(srv.settle))
	router.Handle("stop", rpcx.Func(srv.stop))
	parent := control(router)
	close(srv.started)
	<-parent.Done()
}

// listen starts serving and sampling, and returns the address.
func (srv *server) listen(s *rpcx.Session) (string, error) {
	<-srv.started // without the wait, a goroutine of the session with the parent might be missing
	srv.goroutines = countGoroutines()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	ctx, end := context.WithCancel(context.Background())
	srv.end = end
	// Owner: the server. End: stop.
	srv.running.Go(func() error { return srv.ServeContext(ctx, l) })
	// Owner: the server. End: stop.
	srv.running.Go(func() error { return srv.report(s) })
	return "tcp://" + l.Addr().String(), nil
}

// report sends samples until the server is stopped.
func (srv *server) report(parent *rpcx.Session) error {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = parent.Notify(context.Background(), "sample", srv.sample()) // fails only at the end
		case <-srv.quit:
			return nil
		}
	}
}

func (srv *server) sample() sample {
	var s sample
	s.measure()
	s.Sessions = srv.Stats().Sessions
	srv.mu.Lock()
	s.Ended = maps.Clone(srv.ended)
	srv.mu.Unlock()
	return s
}

// settle returns a sample of the needed memory: without garbage, and without unused
// pooled buffers, which the second collection frees.
func (srv *server) settle() sample {
	debug.FreeOSMemory()
	debug.FreeOSMemory()
	return srv.sample()
}

// stop shuts the server down and returns a sample of the remains: no sessions and no
// goroutines, if the server works.
func (srv *server) stop() (sample, error) {
	srv.end()
	close(srv.quit)
	if err := srv.running.Wait(); err != nil {
		return sample{}, err
	}
	return srv.leftOver(), nil
}

// leftOver returns a sample of the remains of a stopped server.
func (srv *server) leftOver() sample {
	// Ending goroutines may need a moment.
	for deadline := time.Now().Add(5 * time.Second); countGoroutines() > srv.goroutines && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	left := srv.settle()
	if left.Goroutines = countGoroutines() - srv.goroutines; left.Goroutines > 0 {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1) // for the reader of the report
	}
	return left
}

// parentsIdle is the number of idle goroutines that the session with the parent may keep:
// those of a worker, of the writer, and of a worker that began before the last was idle.
const parentsIdle = 3

// countGoroutines returns the number of goroutines, without up to parentsIdle idle ones.
func countGoroutines() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	idle := 0
	for stack := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		state, frames, _ := bytes.Cut(stack, []byte("\n"))
		if bytes.Contains(state, []byte("[chan receive")) && bytes.HasPrefix(frames, []byte("example.com/rpcx/internal/gopool.(*Pool).runTasks")) {
			idle++
		}
	}
	return runtime.NumGoroutine() - min(idle, parentsIdle)
}

// closed counts the end of a session.
func (srv *server) closed(_ *rpcx.Session, err error) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.ended[reason(err)]++
}

// Reasons for which the server itself ends sessions.
const (
	overCost = "cost"
	slowPeer = "slow peer"
)

// Other reasons.
const (
	peerLeft = "peer left"
	ownEnd   = "shutdown"
)

// reason returns the reason for the end of a session.
func reason(err error) string {
	var cost *rpcx.CostError
	switch {
	case errors.As(err, &cost):
		return overCost
	case errors.Is(err, rpcx.ErrSlowPeer):
		return slowPeer
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return peerLeft
	case errors.Is(err, rpcx.ErrClosed):
		return ownEnd
	}
	return fmt.Sprint(err)
}
