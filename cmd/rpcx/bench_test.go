package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"example.com/rpcx"
)

// measureFake runs bench, after the flags were read, on a fake peer. It returns what was
// printed, and the exit code.
func measureFake(ctx context.Context, t *testing.T, serve func(time.Duration) (time.Duration, error), in invocation, args ...string) result {
	t.Helper()
	var stdout, stderr lockedBuffer
	e := &env{stdout: &stdout, stderr: &stderr, stdoutTTY: in.terminal, stderrTTY: in.terminal,
		getenv: func(key string) string { return in.vars[key] }}
	fs := newFlags()
	b := newBenchCall(fs)
	if _, err := fs.parse(args); err != nil {
		t.Fatal(err)
	}
	p, err := b.out.printer(e)
	if err == nil {
		err = b.check(target{kind: kindStream})
	}
	if err != nil {
		t.Fatal(err)
	}
	var conns []*loadConn
	for range b.connections {
		conns = append(conns, fakeConn(serve))
	}
	plan := b.plan(conns, "m", nil)
	plan.timer = plainTimer{}
	err = b.measure(ctx, e, p, benchSubject{target: "peer:8888", method: "m"}, plan)
	code := exitCodeOf(ctx, err)
	if code != exitOK && code != exitInterrupted {
		printError(e, findCommand("bench"), err)
	}
	return result{code, stdout.String(), stderr.String()}
}

// unsteady is a peer whose calls take from 1 to 9 ms, that stalls in the third second, and
// that refuses some calls.
func unsteady(sent time.Duration) (time.Duration, error) {
	ms := sent.Milliseconds()
	takes := time.Duration(1+ms%5*2)*time.Millisecond + 13*time.Microsecond // no two events at once
	switch {
	case ms >= 2000 && ms < 2300:
		takes += 2300*time.Millisecond - sent
	case ms%1000 == 510:
		return takes, rpcx.Errorf(-32601, "unknown method \"m\" \x1b[31m")
	case ms%1000 == 760:
		return 100 * time.Millisecond, fmt.Errorf("wrapped: %w", rpcx.ErrTimeout)
	}
	return takes, nil
}

func TestBenchGolden(t *testing.T) {
	open := []string{"--rate", "100", "-d", "5s"}
	for _, c := range []struct {
		name  string
		serve func(time.Duration) (time.Duration, error)
		in    invocation
		until time.Duration // of an interrupt
		args  []string
	}{
		{"bench_open", unsteady, invocation{}, 0, open},
		{"bench_open_terminal", unsteady, invocation{terminal: true}, 0, append(open, "--no-progress")},
		{"bench_open_json", unsteady, invocation{}, 0, append(open, "--output", "json")},
		{"bench_open_late", unsteady, invocation{}, 0, []string{"--rate", "1000", "-p", "1", "-d", "2s"}},
		{"bench_closed", unsteady, invocation{}, 0, []string{"-n", "1000", "-c", "2", "-p", "1", "--warm-up", "100ms"}},
		{"bench_closed_json", serve1ms, invocation{}, 0, []string{"-n", "1000", "-p", "1", "-o", "compact"}},
		{"bench_jq", unsteady, invocation{}, 0, append(open, "--jq", ".latency_us.p99, .calls.failed")},
		{"bench_notify", serve1ms, invocation{}, 0, []string{"-n", "1000", "-p", "2", "--notify"}},
		{"bench_interrupted", unsteady, invocation{}, 2105 * time.Millisecond, open},
		{"bench_interrupted_json", unsteady, invocation{}, 2105 * time.Millisecond, append(open, "-o", "json")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if c.until > 0 {
					ctx, cancel = context.WithTimeout(ctx, c.until)
					defer cancel()
				}
				r := measureFake(ctx, t, c.serve, c.in, c.args...)
				text := fmt.Sprintf("$ rpcx bench peer:8888 m %s\n%s", quoteWords(c.args), r.stdout)
				if r.stderr != "" {
					text += "--- stderr\n" + r.stderr
				}
				checkGolden(t, c.name, text+fmt.Sprintf("--- exit code %d\n", r.code))
			})
		})
	}
}

// The bars of a histogram hold each value once, in the bar that the documentation names.
func TestHistogramIsExact(t *testing.T) {
	h := newTally().latency
	values := map[int64]int64{ // values in ns, and how often each occurs
		0: 1, 1: 2, 10: 3, 11: 4, 1200: 5, 1201: 6, 2000: 7, 10_000: 8, 50_000: 9, 60_000: 10, 60_100: 11,
		999_000: 12, 1_000_000: 13, 7_300_000_000: 14, int64(longestLatency): 15,
	}
	total := int64(0)
	for v, n := range values {
		recordTime(h, time.Duration(v), n)
		total += n
	}
	recordTime(h, 10*longestLatency, 1)
	recordTime(h, -time.Second, 1)
	total += 2
	for _, steps := range [][]int64{tenBars, fiveBars, threeBars, oneBar} {
		sum, previous := int64(0), 0.0
		for i, b := range distribution(h, steps) {
			if b.From != previous || b.To <= b.From {
				t.Fatalf("bar %d is from %v to %v, after %v", i, b.From, b.To, previous)
			}
			previous = b.To
			sum += b.Count
			want := int64(0)
			for v, n := range values {
				if us := float64(v) / 1000; us > b.From && us <= b.To || v == 0 && i == 0 {
					want += n
				}
			}
			if i == 0 {
				want++ // the negative time
			}
			if b.To >= float64(longestLatency/1000) {
				want++ // the time over the longest
			}
			if b.Count != want {
				t.Errorf("steps %v: %d values over %v up to %v µs, want %d", steps, b.Count, b.From, b.To, want)
			}
		}
		if sum != total {
			t.Errorf("steps %v: %d values in all bars, want %d", steps, sum, total)
		}
	}
}

func TestShortNumbers(t *testing.T) {
	for us, want := range map[float64]string{
		0: "0.00 µs", 0.064: "0.06 µs", 9.994: "9.99 µs", 9.996: "10.0 µs", 99.94: "99.9 µs", 99.96: "100 µs",
		999.4: "999 µs", 999.6: "1.00 ms", 12345: "12.3 ms", 999_400: "999 ms", 999_600: "1.00 s", 4e9: "4,000 s",
	} {
		if got := shortTime(us); got != want {
			t.Errorf("%v µs are %q, want %q", us, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := grouped(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// The progress is a line on a terminal, which is erased at the end.
func TestBenchProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		args := []string{"--rate", "100", "-d", "5s", "--warm-up", "500ms"}
		stall := func(sent time.Duration) (time.Duration, error) {
			if sent >= 2*time.Second && sent < 3*time.Second {
				return 3*time.Second - sent + 500*time.Microsecond, nil
			}
			return time.Millisecond, nil
		}
		r := measureFake(t.Context(), t, stall, invocation{terminal: true}, args...)
		lines := strings.Split(r.stderr, eraseLine)
		if len(lines) < 25 || lines[0] != "" || lines[len(lines)-1] != "" || strings.Contains(r.stderr, "\n") {
			t.Fatalf("%d lines: %q", len(lines), lines)
		}
		for i, want := range map[int]string{
			1:  "warming up: 200ms of 500ms",
			5:  "[==                      ]  10 %   100/s",
			12: "[=========               ]  38 %   0/s",
			16: "[============            ]  54 %   600/s",
			27: "[======================= ]  98 %   100/s",
		} {
			if !strings.HasPrefix(lines[i], want) {
				t.Errorf("line %d is %q, want %q", i, lines[i], want)
			}
		}
	})
	for name, c := range map[string]struct {
		in  invocation
		arg string
	}{
		"no terminal":   {invocation{}, "-d=1s"},
		"dumb terminal": {invocation{terminal: true, vars: map[string]string{"TERM": "dumb"}}, "-d=1s"},
		"--no-progress": {invocation{terminal: true}, "--no-progress"},
	} {
		synctest.Test(t, func(t *testing.T) {
			if r := measureFake(t.Context(), t, serve1ms, c.in, c.arg, "--rate=100", "-d=1s"); r.stderr != "" {
				t.Errorf("%s: %q", name, r.stderr)
			}
		})
	}
}

// A line that is as long as the terminal is wide would move the cursor.
func TestBenchProgressInNarrowTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, width := range []int{0, 1, 20, 200} {
			var out bytes.Buffer
			l := newLoad(testPlan(loadPlan{conns: []*loadConn{fakeConn(unsteady)}, inFlight: 1, rate: 1000, duration: 5 * time.Second}))
			p := &progress{l: l, w: &out, width: func() int { return width }}
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				p.run(stop)
			}()
			l.run(t.Context())
			close(stop)
			<-stopped
			longest := 0
			for line := range strings.SplitSeq(out.String(), eraseLine) {
				longest = max(longest, len([]rune(line)))
			}
			if longest > max(0, width-1) {
				t.Errorf("a line has %d columns, of %d", longest, width)
			}
			if width == 200 && (!strings.Contains(out.String(), " failed") || !strings.Contains(out.String(), " late")) {
				t.Errorf("the line has no failures, or not how late calls are: %q", out.String())
			}
		}
	})
}

// All transports and kinds of messages reach a peer.
func TestBenchCalls(t *testing.T) {
	p := newPeer(t, func(o *rpcx.Options) { o.Limits.CostOff = true })
	for name, addr := range map[string]string{"TCP": p.tcp, "unix": p.unix, "WebSocket": p.ws, "HTTP": p.http} {
		for i, flags := range []string{"-p 10", "--batch 5 --rate 10000", "--notify", "-p 1", "--rate 10000", "--batch 5", "--notify --batch 5"} {
			if i > 2 && name != "TCP" {
				break // the transport makes no difference
			}
			t.Run(name+" "+flags, func(t *testing.T) {
				args := []string{"bench", addr, "echo", "1", "-n", "200", "-c", "2", "-o", "compact", "--jq", "[.calls.due, .calls.sent, .calls.succeeded, .calls.failed, .rate > 0, .latency_us.min > 0]"}
				checkResult(t, rpcxRun(append(args, strings.Fields(flags)...)...), exitOK, "[200,200,200,0,true,true]\n")
			})
		}
	}
}

// The exit code tells of failures, and the report tells which.
func TestBenchFailures(t *testing.T) {
	p := newPeer(t, func(o *rpcx.Options) { o.Limits.CostOff = true })
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>", http.StatusBadGateway)
	}))
	defer web.Close()
	l := listenTCP(t)
	closed := l.Addr().String()
	l.Close()
	short := func(args ...string) []string {
		return append(append([]string{"bench"}, args...), "-o", "compact", "--jq", "[.ended, .calls.failed], (.errors[] | [.kind, .code, .message, .count])")
	}
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"errors of the peer", short(p.tcp, "refuse", "-n", "30"), exitPeer, `["complete",30]` + "\n" + `["peer",42,"refused: naïve \u001b[31m",30]`, ""},
		{"over HTTP", short(p.http, "nope", "-n", "30"), exitPeer, `["complete",30]` + "\n" + `["peer",-32601,"unknown method \"nope\"",30]`, ""},
		{"in batches", short(p.tcp, "nope", "-n", "30", "--batch", "10"), exitPeer, `["complete",30]` + "\n" + `["peer",-32601,"unknown method \"nope\"",30]`, ""},
		{"timeouts", short(p.tcp, "hang", "-n", "5", "--timeout", "30ms"), exitTimeout, `["complete",5]` + "\n" + `["timeout",null,"no reply within 30ms (--timeout)",5]`, ""},
		{"a page of HTTP", short(web.URL, "m", "-n", "30"), exitConnection, `["complete",30]` + "\n" + `["http",502,"Bad Gateway",30]`, ""},
		{"a peer that hangs up", []string{"bench", p.tcp, "hangup", "-c", "2", "-d", "1m"}, exitConnection, "", "all connections were lost"},
		{"no peer", []string{"bench", closed, "m"}, exitConnection, "", "connection refused"},
		{"no web server", []string{"bench", "http://" + closed, "m", "-p", "3", "-d", "1m"}, exitConnection, "", "connection refused"},
		{"another framing", []string{"bench", p.tcp, "m", "--framing", "lsp", "-d", "1m"}, exitConnection, "", "--framing"},
		{"no method", []string{"bench", p.tcp}, exitUsage, "", "no method: write one after ADDR"},
		{"bad params", []string{"bench", p.tcp, "m", "[1,"}, exitUsage, "", "not JSON"},
		{"a batch that does not fit", []string{"bench", p.tcp, "m", "-n", "10", "--batch", "3"}, exitUsage, "", "--calls 10 is not a multiple of --batch 3"},
		{"no connections", []string{"bench", p.tcp, "m", "-c", "0"}, exitUsage, "", "--connections must be 1 or more"},
		{"too many in flight", []string{"bench", p.tcp, "m", "-c", "1001", "-p", "100"}, exitUsage, "", "--connections 1001 times --in-flight 100 is too much: at most 100,000 calls"},
		{"numbers that overflow", []string{"bench", p.tcp, "m", "-c", "9223372036854775807", "-p", "4"}, exitUsage, "", "at most 100,000 calls"},
		{"too many over HTTP", []string{"bench", p.http, "m", "-p", "101"}, exitUsage, "", "--in-flight is at most 100 over HTTP; raise --connections"},
		{"too fast", []string{"bench", p.tcp, "m", "--rate", "10000001"}, exitUsage, "", "--rate is at most 10,000,000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.stdout != "" {
				c.stdout += "\n"
			}
			checkResult(t, rpcxRun(c.args...), c.code, c.stdout, c.stderr)
		})
	}
}

// A peer that ends its sessions in the middle of the run: the report has what was measured,
// and the exit code is that of the connection.
func TestBenchPeerDies(t *testing.T) {
	var served atomic.Int64
	p := newPeer(t, func(o *rpcx.Options) {
		o.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			if served.Add(1) > 1000 {
				req.Session().Close()
			}
			return 1, nil
		})
	})
	r := rpcxRun("bench", p.tcp, "m", "-c", "2", "-d", "1m")
	if r.code != exitConnection || !strings.Contains(r.stderr, "all connections were lost") ||
		!strings.Contains(r.stdout, ", disconnected") || !strings.Contains(r.stdout, "connection  ") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

// Ctrl-C ends the run early. The report is about what was measured until then.
func TestBenchInterrupt(t *testing.T) {
	p := newPeer(t)
	cmd := process(t, "bench", p.tcp, "echo", "1", "-d", "1h", "--rate", "100", "-o", "json")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-p.received
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.Bytes())
	}
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted || r.Ended != endedInterrupted || r.Calls.Succeeded < 3 {
		t.Errorf("exit code %d, %+v", code, r)
	}
}

// The kernel's timer sleeps as long as asked, and ends at Close.
func TestPreciseTimer(t *testing.T) {
	timer := newPreciseTimer()
	defer timer.close()
	for _, d := range []time.Duration{1, time.Microsecond, 300 * time.Microsecond, 2 * time.Millisecond, 0, -1} {
		begin := time.Now()
		timer.sleep(d)
		if took := time.Since(begin); took < d {
			t.Errorf("slept %v, want %v", took, d)
		}
	}
}

// instantCaller is a peer that takes no time.
type instantCaller struct{ rpcx.Caller }

func (instantCaller) Call(context.Context, string, any, any) error { return nil }

// BenchmarkOwn measures what bench itself does for a call. No peer keeps the rate of the
// open model, so that the time is what a call takes, too.
func BenchmarkOwn(b *testing.B) {
	for _, flags := range []string{"-p 1", "-p 50", "-p 1 --rate 10000000", "-p 50 --rate 10000000"} {
		b.Run(strings.ReplaceAll(flags, " ", ""), func(b *testing.B) {
			conn := fakeConn(nil)
			conn.caller = instantCaller{}
			benchmarkLoad(b, conn, "m", flags)
		})
	}
}

// BenchmarkOverhead compares bench with a bare loop of calls on the same session.
func BenchmarkOverhead(b *testing.B) {
	for _, inFlight := range []int{1, 50} {
		server := rpcx.Options{Handler: testRouter(), Limits: rpcx.Limits{CostOff: true}}
		client, other := rpcx.Pipe(&rpcx.Options{Limits: rpcx.Limits{Outgoing: -1}}, &server)
		b.Cleanup(func() {
			client.Close()
			other.Close()
		})
		b.Run(fmt.Sprintf("loop-%d", inFlight), func(b *testing.B) {
			var n atomic.Int64
			var loops errgroup.Group
			for range inFlight {
				loops.Go(func() error { // Owner: the benchmark. End: b.N calls.
					for n.Add(1) <= int64(b.N) {
						if err := client.Call(context.Background(), "params", nil, nil); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := loops.Wait(); err != nil {
				b.Fatal(err)
			}
		})
		b.Run(fmt.Sprintf("bench-%d", inFlight), func(b *testing.B) {
			conn := newLoadConn(&connection{Caller: client, session: client})
			benchmarkLoad(b, conn, "params", fmt.Sprintf("-p %d", inFlight))
		})
	}
}

// benchmarkLoad runs a load of b.N calls.
func benchmarkLoad(b *testing.B, conn *loadConn, method, flags string) {
	fs := newFlags()
	call := newBenchCall(fs)
	if _, err := fs.parse(append(strings.Fields(flags), "-n", fmt.Sprint(b.N))); err != nil {
		b.Fatal(err)
	}
	plan := call.plan([]*loadConn{conn}, method, nil)
	plan.timer = plainTimer{}
	l := newLoad(plan)
	b.ResetTimer()
	if m := l.run(b.Context()); m.succeeded != int64(b.N) {
		b.Fatalf("%d of %d calls succeeded: %v", m.succeeded, b.N, m.errors)
	}
}
