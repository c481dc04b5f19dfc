package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// goodReturnRun returns a run in which all went well.
func goodReturnRun() *returnRun {
	r := &returnRun{plan: newReturnPlan(false)}
	r.plan.clients, r.plan.clientsCut = 10000, ""
	for _, way := range returnWays {
		result := returnResult{way: way, served: returnServed{Clients: 10000, Sessions: 10000, Handshakes: 256}}
		result.clients = returnArrivals{Attempts: 10000, AttemptsAfter: 10000, FirstShort: 40, FirstLong: 400, Last: 20 * time.Second}
		result.clients.AttemptBins, result.clients.ReadyBins = []int{10000, 0, 1}, []int{0, 9000, 1000}
		if way.down {
			result.away = r.plan.down
		}
		r.results = append(r.results, result)
	}
	return r
}

func TestJudgeReturn(t *testing.T) {
	const killed, atOnce, spread = 0, 1, 2 // indices of results
	for _, test := range []struct {
		name  string
		spoil func(*returnRun)
		want  string // a part of the only problem; "" if there is none
	}{
		{"all is well", func(*returnRun) {}, ""},
		{"a client is lost", func(r *returnRun) { r.results[killed].clients.Lost = 1 }, "killed: 1 of 10000 clients have not returned"},
		{"a client of whom the server does not know", func(r *returnRun) { r.results[atOnce].served.Clients-- }, "Shutdown: the next server knows 9999"},
		{"a client that cannot call", func(r *returnRun) { r.results[spread].unanswered = 1 }, "ShutdownSpread: the calls of 1 clients"},
		{"a Shutdown that fails", func(r *returnRun) { r.results[atOnce].failed = errors.New("no") }, "the end of the server: no"},
		{"a handshake too many", func(r *returnRun) { r.results[atOnce].served.Handshakes = 257 }, "257 handshakes at once"},
		{"nobody counts handshakes", func(r *returnRun) { r.results[atOnce].served.Handshakes = 0 }, "no handshake was counted"},
		{"many at once after a kill", func(r *returnRun) { r.results[killed].clients.FirstShort = 580 }, "killed: 5.8 % of the clients make their first attempt within 100ms"},
		{"not too many at once after a kill", func(r *returnRun) { r.results[killed].clients.FirstShort = 570 }, ""},
		{"many in a second after a kill", func(r *returnRun) { r.results[killed].clients.FirstLong = 2820 }, "killed: 28.2 % of the clients make their first attempt within 1s"},
		{"all at once after a Shutdown", func(r *returnRun) { r.results[atOnce].clients.FirstShort = 10000 }, ""},
		{"many at once with a spread", func(r *returnRun) { r.results[spread].clients.FirstShort = 270 }, "ShutdownSpread: 2.7 % of the clients"},
		{"many in a second with a spread", func(r *returnRun) { r.results[spread].clients.FirstLong = 1340 }, "ShutdownSpread: 13.4 % of the clients"},
		{"clients that do not become patient", func(r *returnRun) { r.results[atOnce].clients.Attempts = 150000 }, "Shutdown: 150000 attempts"},
		{"a restart left out", func(r *returnRun) { r.results = r.results[:2] }, "the server has ended 2 times"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := goodReturnRun()
			test.spoil(r)
			problems := r.judge()
			switch {
			case test.want == "" && len(problems) > 0:
				t.Errorf("found %q, want nothing", problems)
			case test.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], test.want)):
				t.Errorf("found %q, want one like %q", problems, test.want)
			}
		})
	}
}

// simulateReturn returns the attempts of clients whose server ends at 0 and is away. wait
// returns a wait below a bound.
func simulateReturn(p *returnPlan, wait func(bound time.Duration) time.Duration) (attempts, first []time.Duration) {
	for range p.clients {
		var at time.Duration
		for bound := p.minBackoff; ; bound = min(2*bound, p.maxBackoff) {
			at += wait(bound)
			attempts = append(attempts, at)
			if at >= p.down {
				first = append(first, at)
				break
			}
		}
	}
	return attempts, first
}

// The bounds that the program demands allow random waits, and nothing much worse.
func TestReturnBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	jitter := func(bound time.Duration) time.Duration { return time.Duration(random.Int64N(int64(bound))) }
	for _, short := range []bool{false, true} {
		for _, test := range []struct {
			name string
			wait func(bound time.Duration) time.Duration
			want []string // a part of each problem
			full bool     // the short form does not find it
		}{
			{"random waits", jitter, nil, false},
			{"waits that are not random", func(bound time.Duration) time.Duration { return bound }, []string{"within 100ms"}, false},
			{"a quarter of each wait is random", func(bound time.Duration) time.Duration { return bound*3/4 + jitter(bound)/4 }, []string{"within"}, true},
			{"waits that do not grow", func(time.Duration) time.Duration { return jitter(100 * time.Millisecond) }, []string{"within 100ms", "attempts, at most"}, false},
		} {
			if short && test.full {
				continue
			}
			r := goodReturnRun()
			r.plan = newReturnPlan(short)
			result := &r.results[0]
			attempts, first := simulateReturn(r.plan, test.wait)
			result.away = r.plan.down
			result.clients = newReturnArrivals(attempts, first, slices.Clone(first), result.away, r.plan.clients)
			result.served.Clients, result.served.Handshakes = r.plan.clients, 1
			problems := result.judge(r.plan)
			for _, want := range test.want {
				if !slices.ContainsFunc(problems, func(problem string) bool { return strings.Contains(problem, want) }) {
					t.Errorf("%s, short %v: found %q, want one like %q", test.name, short, problems, want)
				}
			}
			if test.want == nil && len(problems) > 0 {
				t.Errorf("%s, short %v: found %q, want nothing", test.name, short, problems)
			}
		}
	}
}

// What the program expects is what random waits lead to.
func TestReturnExpectations(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, short := range []bool{false, true} {
		p := newReturnPlan(short)
		p.clients = 50000
		attempts, first := simulateReturn(p, func(bound time.Duration) time.Duration { return time.Duration(random.Int64N(int64(bound))) })
		a := newReturnArrivals(attempts, first, slices.Clone(first), p.down, p.clients)
		for _, test := range []struct {
			name      string
			got, want float64
		}{
			{"attempts", float64(a.Attempts) / float64(p.clients), p.expectedAttempts(p.down)},
			{"share within 100 ms", float64(a.FirstShort) / float64(p.clients), p.expectedShare(returnWays[0], shortWindow)},
			{"share within 1 s", float64(a.FirstLong) / float64(p.clients), p.expectedShare(returnWays[0], longWindow)},
		} {
			if math.Abs(test.got/test.want-1) > 0.25 {
				t.Errorf("short %v, %s: got %.4f, want %.4f", short, test.name, test.got, test.want)
			}
		}
	}
}

func TestNewReturnArrivals(t *testing.T) {
	const ms = time.Millisecond
	a := newReturnArrivals([]time.Duration{950 * ms, 10 * ms, 900 * ms, 1050 * ms, 2000 * ms, 1049 * ms}, []time.Duration{2000 * ms, 950 * ms, 900 * ms}, []time.Duration{2010 * ms, 1060 * ms}, 900*ms, 3)
	if a.Lost != 1 || a.Attempts != 6 || a.AttemptsAfter != 5 || a.MostShort != 2 || a.MostLong != 4 || a.FirstShort != 2 || a.FirstLong != 2 || a.P50 != 160*ms || a.Last != 1110*ms {
		t.Errorf("got %+v", a)
	}
	if want := []int{1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}; !slices.Equal(a.AttemptBins, want) {
		t.Errorf("bins %v, want %v", a.AttemptBins, want)
	}
	if a := newReturnArrivals(nil, nil, nil, time.Second, 3); a.Lost != 3 {
		t.Errorf("without any attempt: got %+v", a)
	}
}

func TestReturnChartIsXML(t *testing.T) {
	for d := xml.NewDecoder(strings.NewReader(string(goodReturnRun().draw()))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
