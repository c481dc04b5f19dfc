package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"example.com/rpcx"
)

// The mode -hub: 10,000 sessions, every tenth of which stops reading, and one publisher.
//
//	go run ./examples/stress -hub -svg hub.svg   # some three minutes
//	go run ./examples/stress -hub -short         # 1,000 sessions, a quarter of a minute
//
// The server is a process (hub_server.go), and all clients are another (hub_clients.go).
// They are joined by unix sockets. Each hub of the server has an OverflowPolicy, and a quarter of the sessions. First the
// publisher finds out how fast it can be: it publishes whenever all readers have the last
// value. Then it publishes at half of that rate, first while all clients read, and then
// while every tenth does not. At last these clients read what is left for them.

// hubPlan is the size of a run.
type hubPlan struct {
	short       bool
	sessions    int
	slow        int           // sessions that stop reading
	queue       int           // Hub.Queue
	size        int           // bytes of a value
	burst       time.Duration // of the search for the greatest rate
	phase       time.Duration // of each of the two phases at half the rate
	sessionsCut string        // why there are fewer sessions than wanted
}

const (
	hubBytes     = 1 << 20 // Hub.Bytes, the default
	hubOpenFiles = 100     // of a process, besides the connections
)

// newHubPlan returns the plan for as many sessions as the limit of open files allows. The
// phases together take length, or longer until the slow sessions have met their policies.
func newHubPlan(short bool, length time.Duration) *hubPlan {
	p := &hubPlan{short: short, sessions: 10000, queue: 32, size: 4 << 10, burst: length / 10, phase: length / 10 * 4}
	if short {
		p.sessions, p.queue, p.size = 1000, 64, 1<<10
	}
	if files := openFilesLimit(); files > 0 && p.sessions > files-hubOpenFiles {
		p.sessions = max(40, (files-hubOpenFiles)/40*40)
		p.sessionsCut = fmt.Sprintf(": the limit of open files is %d", files)
	}
	p.slow = p.sessions / 10
	return p
}

// hubPolicies are the policies of the server's hubs. Session i is at hub i modulo 4.
var hubPolicies = []struct {
	name   string
	policy rpcx.OverflowPolicy
}{
	{"DropOldest", rpcx.DropOldest},
	{"KeepLatest", rpcx.KeepLatest},
	{"EndStream", rpcx.EndStream},
	{"EndSession", rpcx.EndSession},
}

// hubPhase has the results of a phase at half the greatest rate.
type hubPhase struct {
	Publish hubPublished // at the server
	Reach   hubReached   // at the clients
}

// hubPublished is the server's part of a phase.
type hubPublished struct {
	Values  int             `json:"values"`
	Took    []time.Duration `json:"took"`    // by the calls of Publish for one value, sorted
	Last    int             `json:"last"`    // number of the last value
	Peak    sample          `json:"peak"`    // the highest of each
	Stats   []rpcx.HubStats `json:"stats"`   // of each hub, at the end
	Reached bool            `json:"reached"` // every slow session has met its policy
}

// hubReached is the clients' part of a phase.
type hubReached struct {
	Missing int             `json:"missing"` // values that a reader has not had
	Took    []time.Duration `json:"took"`    // from Publish until the last reader had a value, sorted
}

// hubRun is a whole run.
type hubRun struct {
	plan      *hubPlan
	idle      sample  // with all sessions subscribed and idle
	greatest  float64 // values a second
	all, some hubPhase
	outcome   hubOutcome // of the slow clients
}

// runHub runs the mode -hub.
func runHub(ctx context.Context, out io.Writer, length time.Duration, short bool, svg string) (err error) {
	r := &hubRun{plan: newHubPlan(short, length)}
	server, err := start(hubServerRole, nil)
	if err != nil {
		return err
	}
	defer func() { err = server.stop(err) }()
	clients, err := start(hubClientsRole, nil)
	if err != nil {
		return err
	}
	defer func() { err = clients.stop(err) }()
	if err := r.run(ctx, server, clients); err != nil {
		return err
	}
	return reportMeasurement(out, svg, r)
}

// run makes the server and the clients go through the phases.
func (r *hubRun) run(ctx context.Context, server, clients *process) error {
	p := r.plan
	addr, err := rpcx.Call[string](ctx, server, "listen", rpcx.Args{p.queue, p.size, p.sessions})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if err := clients.Call(ctx, "connect", rpcx.Args{addr, p.sessions, p.slow}, nil); err != nil {
		return fmt.Errorf("connect the clients: %w", err)
	}
	if r.idle, err = rpcx.Call[sample](ctx, server, "settle", nil); err != nil {
		return err
	}
	// A first burst warms up.
	for range 2 {
		if r.greatest, err = rpcx.Call[float64](ctx, server, "burst", rpcx.Args{p.burst.Seconds()}); err != nil {
			return fmt.Errorf("find the greatest rate: %w", err)
		}
	}
	phase := func(into *hubPhase, slow int) error {
		if into.Publish, err = rpcx.Call[hubPublished](ctx, server, "publish", rpcx.Args{r.greatest / 2, p.phase.Seconds(), slow}); err != nil {
			return err
		}
		last := into.Publish.Last
		into.Reach, err = rpcx.Call[hubReached](ctx, clients, "reached", rpcx.Args{last - into.Publish.Values + 1, last})
		return err
	}
	if err := phase(&r.all, 0); err != nil {
		return fmt.Errorf("while all read: %w", err)
	}
	if err := clients.Call(ctx, "pause", nil, nil); err != nil {
		return err
	}
	if err := phase(&r.some, p.slow); err != nil {
		return fmt.Errorf("while some do not read: %w", err)
	}
	r.outcome, err = rpcx.Call[hubOutcome](ctx, clients, "resume", rpcx.Args{r.some.Publish.Last})
	return err
}

// Bounds of what slow members may cost the others. The short form, on a machine
// with other work, judges no times.
const (
	hubPublishBound = 1.5 // times the median time of Publish while all read
	hubReachBound   = 3   // times the p99 of the time until the last reader, while all read
)

// memoryBound is the most resident memory that the server may need.
func (r *hubRun) memoryBound() uint64 { return r.idle.RSS + uint64(r.plan.slow)*hubBytes }

// judge returns what is not as it should be.
func (r *hubRun) judge() (problems []string) {
	fail := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	all, some := r.all, r.some
	if !r.plan.short {
		if with, without := newQuantiles(some.Publish.Took).P50, newQuantiles(all.Publish.Took).P50; float64(with) > hubPublishBound*float64(without) {
			fail("Publish takes %v with slow members, and %v without", with, without)
		}
		if with, without := newQuantiles(some.Reach.Took).P99, newQuantiles(all.Reach.Took).P99; float64(with) > hubReachBound*float64(without) {
			fail("the p99 of the time until the last reader is %v with slow members, and %v without", with, without)
		}
	}
	if n := all.Reach.Missing + some.Reach.Missing; n > 0 {
		fail("%d values have not reached a reader", n)
	}
	if rss := some.Publish.Peak.RSS; rss > r.memoryBound() {
		fail("the server had %.1f MiB, over %.1f", mib(rss), mib(r.memoryBound()))
	}
	if !some.Publish.Reached {
		fail("not every slow session has met its policy: %+v", some.Publish.Stats)
	}
	if n := len(all.Publish.Took); n == 0 {
		fail("nothing was published")
	}
	return append(problems, r.outcome.judge(r.plan.slow)...)
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

// print prints the results.
func (r *hubRun) print(w io.Writer) {
	p := r.plan
	fmt.Fprintf(w, "%d sessions%s, %d of which do not read in the second phase; values of %d bytes; Hub.Queue %d\n", p.sessions, p.sessionsCut, p.slow, p.size, p.queue)
	fmt.Fprintf(w, "the greatest rate, one value after the other: %.1f values a second, %.0f notifications\n", r.greatest, r.greatest*float64(p.sessions))
	fmt.Fprintf(w, "idle: RSS %.1f MiB, %d goroutines\n\n", mib(r.idle.RSS), r.idle.Goroutines)
	fmt.Fprintf(w, "%22s  %6s  %29s  %32s  %9s  %10s\n", "", "values", "Publish p50 / p99 / worst, ms", "the last reader p50/p99/worst, ms", "RSS, MiB", "goroutines")
	for _, row := range []struct {
		name string
		*hubPhase
	}{{"all read", &r.all}, {fmt.Sprintf("%d do not read", p.slow), &r.some}} {
		took, reach := newQuantiles(row.Publish.Took), newQuantiles(row.Reach.Took)
		fmt.Fprintf(w, "%22s  %6d  %9.2f %9.2f %9.2f  %10.1f %10.1f %10.1f  %9.1f  %10d\n", row.name, row.Publish.Values,
			milliseconds(took.P50), milliseconds(took.P99), milliseconds(took.Max),
			milliseconds(reach.P50), milliseconds(reach.P99), milliseconds(reach.Max), mib(row.Publish.Peak.RSS), row.Publish.Peak.Goroutines)
	}
	fmt.Fprintf(w, "\nRSS at most %.1f MiB: that of the idle sessions, and %d times Hub.Bytes\n", mib(r.memoryBound()), p.slow)
	r.outcome.print(w)
}
