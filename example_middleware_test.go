package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// rateLimit allows each client Burst requests at once, and one more for each Interval.
type rateLimit struct {
	Burst    int
	Interval time.Duration

	mu      sync.Mutex
	full    map[string]time.Time // when the client has its whole burst again
	sweepAt int                  // number of clients from which on full is swept
}

// take counts a request. If the client has none left, the result is the time to wait.
func (r *rateLimit) take(client string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if len(r.full) >= r.sweepAt { // also makes the map
		maps.DeleteFunc(r.full, func(_ string, at time.Time) bool { return !at.After(now) })
		r.sweepAt = max(1000, 2*len(r.full))
	}
	left := max(r.full[client].Sub(now), 0)
	if wait := left - time.Duration(r.Burst-1)*r.Interval; wait > 0 {
		return wait
	}
	if r.full == nil {
		r.full = make(map[string]time.Time)
	}
	r.full[client] = now.Add(left + r.Interval)
	return 0
}

// limit refuses requests over the rate. clientOf returns whom a session counts for.
func (r *rateLimit) limit(next rpcx.Handler, clientOf func(*rpcx.Session) string) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if wait := r.take(clientOf(req.Session())); wait > 0 {
			busy := rpcx.ServerBusy(fmt.Sprintf("more than %d calls, and one each %v", r.Burst, r.Interval))
			return nil, busy.WithData(map[string]any{"started": false, "retry_after": wait.Seconds()})
		}
		return next.ServeRPC(ctx, req)
	})
}

// Each client may search twice at once, and once more each hour.
func Example_rateLimit() {
	search := rpcx.Func(func(text string) string { return "found " + text }, "text")
	searches := &rateLimit{Burst: 2, Interval: time.Hour}
	router := rpcx.NewRouter()
	router.Handle("search", searches.limit(search, rpcx.GroupBySubnet(32, 64)))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	for range 3 {
		found, err := rpcx.Call[string](context.Background(), s, "search", rpcx.Args{"gopher"})
		fmt.Printf("%q %v\n", found, err)
		if e, ok := errors.AsType[*rpcx.Error](err); ok {
			fmt.Println("may be repeated:", e.NotStarted())
		}
	}
	// Output:
	// "found gopher" <nil>
	// "found gopher" <nil>
	// "" server busy - more than 2 calls, and one each 1h0m0s (code -102)
	// may be repeated: true
}

// A client that waits as long as it is told is served, and clients of the past are forgotten.
func TestExampleRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rateLimit{Burst: 3, Interval: time.Second}
		for _, want := range []time.Duration{0, 0, 0, time.Second, time.Second} {
			if wait := r.take("a"); wait != want {
				t.Errorf("the wait is %v, want %v", wait, want)
			}
		}
		time.Sleep(time.Second)
		if wait := r.take("a"); wait != 0 {
			t.Errorf("after the wait, the next wait is %v", wait)
		}
		for i := range 10_000 {
			if wait := r.take(fmt.Sprint(i)); wait != 0 {
				t.Errorf("a new client waits for %v", wait)
			}
			time.Sleep(time.Second / 100)
		}
		if n := len(r.full); n > 1001 {
			t.Errorf("%d clients are remembered", n)
		}
	})
}

// audited is a middleware that reports each request with its duration.
func audited(report func(req *rpcx.Request, outcome string, d time.Duration)) func(rpcx.Handler) rpcx.Handler {
	return func(next rpcx.Handler) rpcx.Handler {
		return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (result any, err error) {
			begin, outcome := time.Now(), "panic"
			defer func() { report(req, outcome, time.Since(begin)) }()
			result, err = next.ServeRPC(ctx, req) // a panic goes on to the session, which answers and logs it
			outcome = fmt.Sprint(err)
			return result, err
		})
	}
}

// within gives a single method a time limit of its own.
func within(d time.Duration, next rpcx.Handler) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		result, err := next.ServeRPC(ctx, req)
		if errors.Is(err, context.DeadlineExceeded) {
			err = rpcx.ServerBusy(fmt.Sprintf("%s took more than %v", req.Method, d))
		}
		return result, err
	})
}

// The middleware sees all methods, and two methods have time limits of their own.
func Example_methodMiddleware() {
	wait := rpcx.Func(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	router := rpcx.NewRouter()
	router.Handle("search", within(time.Millisecond, wait))
	router.Handle("report", within(10*time.Minute, rpcx.Func(func() string { return "all is well" })))
	router.Handle("broken", rpcx.Func(func() { panic("out of paper") }))
	report := func(req *rpcx.Request, outcome string, _ time.Duration) { fmt.Println(req.Method+":", outcome) }
	s, server := rpcx.Pipe(nil, &rpcx.Options{
		Handler:    router,
		Middleware: []func(rpcx.Handler) rpcx.Handler{audited(report)},
		Limits:     rpcx.Limits{ProcessingTimeout: 10 * time.Minute}, // the longest of all
	})
	defer server.Close()
	defer s.Close()
	for _, method := range []string{"search", "report", "broken"} {
		_ = s.Call(context.Background(), method, nil, nil)
	}
	// Output:
	// search: server busy - search took more than 1ms (code -102)
	// report: <nil>
	// broken: panic
}
