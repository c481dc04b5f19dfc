package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"example.com/rpcx"
)

// The mode -return: 10,000 clients that reconnect, of a server that restarts.
//
//	go run ./examples/stress -return -svg return.svg # three and a half minutes
//	go run ./examples/stress -return -short          # 1,000 clients, half a minute
//
// All clients are one process (return_clients.go), and each server is another
// (return_server.go). They are joined by TLS over TCP: each handshake counts for
// Server.MaxHandshakes. Three times the server ends, each time in another way, and another
// server comes to its address (returnWays). The main process tells when, and judges the
// return of the clients.

// returnPlan is the size of a run.
type returnPlan struct {
	short      bool
	clients    int
	clientsCut string // why there are fewer clients than wanted
	handshakes int    // Server.MaxHandshakes
	down       time.Duration
	spread     time.Duration // Server.ShutdownSpread
	minBackoff time.Duration
	maxBackoff time.Duration
	stable     time.Duration // ClientOptions.StableAfter
	patience   time.Duration // for all clients to return
}

// newReturnPlan returns the plan for as many clients as the limit of open files allows. The
// full form has the defaults of ClientOptions and of MaxHandshakes. The short form has a
// tenth of the clients and of the handshakes.
func newReturnPlan(short bool) *returnPlan {
	p := &returnPlan{
		short: short, clients: 10000, handshakes: 256, down: 20 * time.Second, spread: 30 * time.Second,
		minBackoff: 100 * time.Millisecond, maxBackoff: 30 * time.Second, stable: 10 * time.Second, patience: 3 * time.Minute,
	}
	if short {
		p.clients, p.handshakes, p.down, p.spread = 1000, 26, 4*time.Second, 4*time.Second
		p.maxBackoff, p.stable, p.patience = 8*time.Second, time.Second, time.Minute
	}
	if files := openFilesLimit(); files > 0 && p.clients > files-hubOpenFiles-p.handshakes {
		p.clients = max(100, (files-hubOpenFiles-p.handshakes)/100*100)
		p.clientsCut = fmt.Sprintf(": the limit of open files is %d", files)
	}
	return p
}

// returnWay is a way in which the server ends.
type returnWay struct {
	name   string
	title  string // of the chart
	kill   bool   // otherwise Server.Shutdown
	spread bool   // Shutdown with ShutdownSpread
	down   bool   // the next server comes after returnPlan.down, otherwise at once
}

var returnWays = []returnWay{
	{name: "killed", title: "the server is killed, and is away for %v", kill: true, down: true},
	{name: "Shutdown", title: "Shutdown, and the next server at once"},
	{name: "ShutdownSpread", title: "Shutdown with a ShutdownSpread of %v, and the next server at once", spread: true},
}

// returnResult is what one end of the server has caused.
type returnResult struct {
	way        returnWay
	away       time.Duration  // from the end of the server until the next
	clients    returnArrivals // at the clients
	served     returnServed   // at the next server
	unanswered int            // clients whose call through the Client has failed afterwards
	failed     error          // of Shutdown
}

// returnRun is a whole run.
type returnRun struct {
	plan    *returnPlan
	results []returnResult
}

// runReturn runs the mode -return.
func runReturn(ctx context.Context, out io.Writer, short bool, svg string) (err error) {
	r := &returnRun{plan: newReturnPlan(short)}
	clients, err := start(returnClientsRole, nil)
	if err != nil {
		return err
	}
	defer func() { err = clients.stop(err) }()
	if err := r.run(ctx, clients); err != nil {
		return err
	}
	return reportMeasurement(out, svg, r)
}

// run connects the clients to a first server, and ends one server after the other.
func (r *returnRun) run(ctx context.Context, clients *process) (err error) {
	p := r.plan
	var server *process
	defer func() {
		if server != nil {
			err = server.stop(err)
		}
	}()
	if server, err = start(returnServerRole, nil); err != nil {
		return err
	}
	addr, err := r.listen(ctx, server, "127.0.0.1:0", returnWays[0])
	if err != nil {
		return err
	}
	if err := clients.Call(ctx, "connect", rpcx.Args{addr, p.clients, p.maxBackoff, p.stable}, nil); err != nil {
		return fmt.Errorf("connect the clients: %w", err)
	}
	for i, way := range returnWays {
		// The backoff begins anew: every session is stable.
		if err := sleep(ctx, p.stable+p.stable/10); err != nil {
			return err
		}
		next, err := start(returnServerRole, nil)
		if err != nil {
			return err
		}
		last := server
		server = next
		var following returnWay
		if i+1 < len(returnWays) {
			following = returnWays[i+1]
		}
		result, err := r.restart(ctx, way, following, addr, last, next, clients)
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		r.results = append(r.results, result)
	}
	return nil
}

// listen makes a server listen at addr. The server will end as way says. The result is the
// address.
func (r *returnRun) listen(ctx context.Context, server *process, addr string, way returnWay) (string, error) {
	spread := time.Duration(0)
	if way.spread {
		spread = r.plan.spread
	}
	addr, err := rpcx.Call[string](ctx, server, "listen", rpcx.Args{addr, r.plan.handshakes, 2 * r.plan.clients, spread})
	if err != nil {
		err = fmt.Errorf("listen: %w", err)
	}
	return addr, err
}

// restart ends the last server, makes the next serve, and waits for the clients.
func (r *returnRun) restart(ctx context.Context, way, following returnWay, addr string, last, next, clients *process) (returnResult, error) {
	result := returnResult{way: way}
	if err := clients.Call(ctx, "begin", nil, nil); err != nil {
		return result, last.stop(err)
	}
	ended := time.Now()
	if way.kill {
		if err := last.kill(); err != nil {
			return result, err
		}
	} else if err := last.Call(ctx, "shutdown", nil, nil); err != nil { // returns when nobody listens
		return result, last.stop(err)
	}
	if way.down {
		if err := sleep(ctx, r.plan.down); err != nil {
			return result, err
		}
	}
	_, err := r.listen(ctx, next, addr, following)
	returned := time.Now()
	result.away = returned.Sub(ended)
	if err == nil {
		result.clients, err = rpcx.Call[returnArrivals](ctx, clients, "await", rpcx.Args{ended.UnixNano(), returned.UnixNano(), r.plan.patience})
	}
	if !way.kill {
		result.failed = last.Call(ctx, "finished", nil, nil)
		err = last.stop(err)
	}
	if err != nil {
		return result, err
	}
	if result.unanswered, err = rpcx.Call[int](ctx, clients, "call", rpcx.Args{next.cmd.Process.Pid}); err != nil {
		return result, err
	}
	result.served, err = rpcx.Call[returnServed](ctx, next, "served", nil)
	return result, err
}

// Factors between the expected and the allowed. The largest share of many windows is above
// the expected share, and a busy machine delays some attempts. If the waits were not
// random, all first attempts would fall into one window. Only first attempts are judged by
// their times: further attempts depend on how many handshakes a second the machine can do.
const (
	shortWindow = 100 * time.Millisecond
	longWindow  = time.Second

	shortWindowFactor = 8
	longWindowFactor  = 4
	attemptsFactor    = 1.5
)

// expectedShare returns the share of the clients that is expected to make the first attempt
// within the window that begins with the server's return. With a spread, the turns of the
// sessions have even distances.
func (p *returnPlan) expectedShare(way returnWay, window time.Duration) float64 {
	switch {
	case way.spread:
		return min(1, window.Seconds()/p.spread.Seconds())
	case way.down:
		return min(1, p.expectedAttempts(p.down+window)-p.expectedAttempts(p.down))
	}
	return 1 // all make the first attempt within MinBackoff
}

// expectedAttempts returns the expected number of attempts of a client that has had no
// session for t. A wait is half of its bound on average. The bound doubles with each
// attempt: with MinBackoff/2 as the unit of time, a client has made k attempts at about
// 2^k-1. At MaxBackoff the bound stays.
func (p *returnPlan) expectedAttempts(t time.Duration) float64 {
	first, longest := p.minBackoff.Seconds()/2, p.maxBackoff.Seconds()/2
	doubling := min(t.Seconds(), longest/math.Ln2-first) // then the attempts are longest apart
	return 1 + math.Log2(1+doubling/first) + (t.Seconds()-doubling)/longest
}

// allowedShares returns the largest allowed shares of the clients in any short and long
// window.
func (p *returnPlan) allowedShares(way returnWay) (short, long float64) {
	return min(1, shortWindowFactor*p.expectedShare(way, shortWindow)), min(1, longWindowFactor*p.expectedShare(way, longWindow))
}

// judge returns what is not as it should be.
func (r *returnRun) judge() (problems []string) {
	for i := range r.results {
		problems = append(problems, r.results[i].judge(r.plan)...)
	}
	if n := len(r.results); n != len(returnWays) {
		problems = append(problems, fmt.Sprintf("the server has ended %d times, want %d", n, len(returnWays)))
	}
	return problems
}

// allowedAttempts returns the largest allowed number of attempts of all clients together.
func (result *returnResult) allowedAttempts(p *returnPlan) float64 {
	return attemptsFactor * float64(p.clients) * p.expectedAttempts(result.away+result.clients.Last)
}

func (result *returnResult) judge(p *returnPlan) (problems []string) {
	fail := func(format string, args ...any) {
		problems = append(problems, result.way.name+": "+fmt.Sprintf(format, args...))
	}
	c, s := result.clients, result.served
	if c.Lost > 0 {
		fail("%d of %d clients have not returned", c.Lost, p.clients)
	}
	if s.Clients != p.clients {
		fail("the next server knows %d clients, want %d", s.Clients, p.clients)
	}
	if result.unanswered > 0 {
		fail("the calls of %d clients were not answered by the next server", result.unanswered)
	}
	if result.failed != nil {
		fail("the end of the server: %v", result.failed)
	}
	if s.Handshakes > p.handshakes {
		fail("%d handshakes at once, and MaxHandshakes is %d", s.Handshakes, p.handshakes)
	}
	if s.Handshakes == 0 {
		fail("no handshake was counted")
	}
	short, long := p.allowedShares(result.way)
	for _, window := range []struct {
		length  time.Duration
		clients int
		allowed float64
	}{{shortWindow, c.FirstShort, short}, {longWindow, c.FirstLong, long}} {
		if share := float64(window.clients) / float64(p.clients); share > window.allowed {
			fail("%.1f %% of the clients make their first attempt within %v, at most %.1f %% may", 100*share, window.length, 100*window.allowed)
		}
	}
	if allowed := result.allowedAttempts(p); float64(c.Attempts) > allowed {
		fail("%d attempts, at most %.0f may be", c.Attempts, allowed)
	}
	return problems
}

// print prints the results.
func (r *returnRun) print(w io.Writer) {
	p := r.plan
	fmt.Fprintf(w, "%d clients%s; MaxHandshakes %d; backoff %v to %v; ShutdownSpread %v\n\n",
		p.clients, p.clientsCut, p.handshakes, p.minBackoff, p.maxBackoff, p.spread)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, cell func(*returnResult) string) {
		fmt.Fprint(t, name, "\t")
		for i := range r.results {
			fmt.Fprint(t, cell(&r.results[i]), "\t")
		}
		fmt.Fprintln(t)
	}
	number := func(name string, n func(*returnResult) int) {
		row(name, func(result *returnResult) string { return fmt.Sprint(n(result)) })
	}
	after := func(name string, d func(*returnResult) time.Duration) {
		row(name, func(result *returnResult) string { return fmt.Sprintf("%.2f s", d(result).Seconds()) })
	}
	share := func(name string, n func(*returnResult) int, allowed func(short, long float64) float64) {
		row(name, func(result *returnResult) string {
			text := fmt.Sprintf("%.1f %%", 100*float64(n(result))/float64(p.clients))
			if most := allowed(p.allowedShares(result.way)); most < 1 {
				text += fmt.Sprintf(" (at most %.1f)", 100*most)
			}
			return text
		})
	}
	row("the server's end", func(result *returnResult) string { return result.way.name })
	after("time without a server", func(result *returnResult) time.Duration { return result.away })
	share("clients with their first attempt within 100 ms", func(result *returnResult) int { return result.clients.FirstShort }, func(short, _ float64) float64 { return short })
	share("within 1 s", func(result *returnResult) int { return result.clients.FirstLong }, func(_, long float64) float64 { return long })
	number("attempts within 100 ms", func(result *returnResult) int { return result.clients.MostShort })
	number("within 1 s", func(result *returnResult) int { return result.clients.MostLong })
	number("since the return", func(result *returnResult) int { return result.clients.AttemptsAfter })
	row("since the end", func(result *returnResult) string {
		return fmt.Sprintf("%d (at most %.0f)", result.clients.Attempts, result.allowedAttempts(p))
	})
	row("handshakes at once", func(result *returnResult) string {
		return fmt.Sprintf("%d (at most %d)", result.served.Handshakes, p.handshakes)
	})
	row("handshakes given up for the limit", func(result *returnResult) string { return fmt.Sprint(result.served.Refused) })
	after("half of the clients ready, after the return", func(result *returnResult) time.Duration { return result.clients.P50 })
	after("99 %", func(result *returnResult) time.Duration { return result.clients.P99 })
	after("all", func(result *returnResult) time.Duration { return result.clients.Last })
	number("clients lost, or with an unanswered call", func(result *returnResult) int { return max(result.clients.Lost, result.unanswered) })
	t.Flush()
	fmt.Fprintln(w)
}

// mostWithin returns the largest number of times within any window. times is sorted.
func mostWithin(times []time.Duration, window time.Duration) (most int) {
	first := 0
	for i, at := range times {
		for at-times[first] >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// returnArrivals is how the clients have returned. A first attempt is the first of a client
// after the return of the server. P50, P99 and Last count from the return, and the bins
// from the end of the last server.
type returnArrivals struct {
	Lost          int            `json:"lost"`          // clients without a session
	Attempts      int            `json:"attempts"`      // since the end of the last server
	AttemptsAfter int            `json:"attemptsAfter"` // since the return
	MostShort     int            `json:"mostShort"`     // attempts within any shortWindow after the return
	MostLong      int            `json:"mostLong"`      // the same of longWindow
	FirstShort    int            `json:"firstShort"`    // first attempts within any shortWindow
	FirstLong     int            `json:"firstLong"`
	Failures      map[string]int `json:"failures"` // of attempts after the return, by reason
	P50           time.Duration  `json:"p50"`      // until a client was ready
	P99           time.Duration  `json:"p99"`
	Last          time.Duration  `json:"last"`

	AttemptBins []int `json:"attemptBins"` // attempts in each shortWindow
	ReadyBins   []int `json:"readyBins"`   // clients that became ready, in each shortWindow
}

// newReturnArrivals returns the figures for the times of attempts, of first attempts and of
// returned clients, all since the end of the last server. The next server has come after
// away.
func newReturnArrivals(attempts, first, ready []time.Duration, away time.Duration, clients int) (a returnArrivals) {
	for _, times := range [][]time.Duration{attempts, first, ready} {
		slices.Sort(times)
	}
	a.Lost, a.Attempts = clients-len(ready), len(attempts)
	before, _ := slices.BinarySearch(attempts, away)
	after := attempts[before:]
	a.AttemptsAfter, a.MostShort, a.MostLong = len(after), mostWithin(after, shortWindow), mostWithin(after, longWindow)
	a.FirstShort, a.FirstLong = mostWithin(first, shortWindow), mostWithin(first, longWindow)
	q := newQuantiles(ready)
	a.P50, a.P99, a.Last = q.P50-away, q.P99-away, q.Max-away
	a.AttemptBins, a.ReadyBins = returnBins(attempts), returnBins(ready)
	return a
}

// returnBins counts times in windows of shortWindow from 0 on.
func returnBins(times []time.Duration) (bins []int) {
	for _, at := range times {
		i := max(0, int(at/shortWindow))
		for len(bins) <= i {
			bins = append(bins, 0)
		}
		bins[i]++
	}
	return bins
}
