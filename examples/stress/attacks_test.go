package main

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// goodTrial returns an attack of which the honest clients notice nothing.
func goodTrial() *trial {
	at := &attack{class: class{name: "an attack"}, bounds: bounds{ends: soon}}
	reference := func() *trial {
		t := &trial{attack: &attack{}, damage: damage{Took: time.Second, CPU: 100 * time.Millisecond}}
		t.honest.took = quantiles{P99: time.Millisecond}
		return t
	}
	t := &trial{
		attack:    at,
		attackers: tally{Connections: 2, Bytes: 1e6},
		damage: damage{
			Took:     time.Second,
			CPU:      500 * time.Millisecond,
			Received: 1_010_000,
			Sent:     10_000,
			Peak:     sample{Live: 10 << 20, Heap: 20 << 20},
			Ended:    map[string]int{overCost: 1, peerLeft: 1},
		},
		lasted: longAttack,
		calm:   reference(),
	}
	t.honest = honest{calls: 100, took: quantiles{P99: 2 * time.Millisecond}, sent: 10_000, received: 10_000}
	t.newcomer = honest{calls: 10}
	t.connects = reference()
	t.connects.calm = t.calm
	t.connects.CPU += 50 * time.Millisecond
	t.connects.attackers.Connections = 100
	t.echo = reference()
	t.echo.calm, t.echo.connects = t.calm, t.connects
	t.echo.CPU += 100 * time.Millisecond
	t.echo.Received = 1e6
	return t
}

func TestVerdict(t *testing.T) {
	late := func(d time.Duration) timing { return timing{d, time.Second, errors.New("no")} }
	for _, test := range []struct {
		name  string
		spoil func(*trial)
		want  string // a part of the only problem; "" if there is none
	}{
		{"all is well", func(*trial) {}, ""},
		{"an attack that did not take place", func(t *trial) { t.attackers.Connections = 0; t.Records = records{} }, "did not take place"},
		{"no answer to the honest client", func(t *trial) { t.calls = 0 }, "0 calls of the honest client"},
		{"no answer to newcomers", func(t *trial) { t.newcomer.calls = 0 }, "0 of newcomers"},
		{"newcomers are not to be answered", func(t *trial) { t.newcomer = honest{failures: []timing{late(0)}}; t.locksOut = -1 }, ""},
		{"a call fails", func(t *trial) { t.failures = []timing{late(0)} }, "1 calls of the honest client failed"},
		{"a newcomer is refused", func(t *trial) { t.newcomer.failures = []timing{late(0)} }, "was refused"},
		{"a newcomer is refused at first", func(t *trial) {
			t.newcomer.failures = []timing{late(time.Second)}
			t.locksOut = 2 * time.Second
		}, ""},
		{"calls are late", func(t *trial) { t.honest.took.P99 = 21 * time.Millisecond }, "p99 is 21ms"},
		{"calls are as late as they may be", func(t *trial) {
			t.calm.honest.took.P99 = 5 * time.Millisecond
			t.honest.took.P99 = 25 * time.Millisecond
		}, ""},
		{"later where the processors are full", func(t *trial) {
			t.calm.honest.took.P99 = 5 * time.Millisecond
			t.honest.took.P99 = 50 * time.Millisecond
			t.full = true
		}, ""},
		{"much memory in use", func(t *trial) { t.Peak.Live = 129 << 20 }, "129.0 MiB in use"},
		{"much memory as garbage", func(t *trial) { t.Peak.Heap = 300 << 20 }, "the heap is 300.0 MiB"},
		{"much time of processors", func(t *trial) { t.CPU = 1200 * time.Millisecond }, "10.9 times that of an echo"},
		{"little time", func(t *trial) {
			t.CPU = 140 * time.Millisecond
			t.echo.CPU = t.calm.CPU
			t.connects.CPU = t.calm.CPU + time.Millisecond
		}, ""},
		{"long replies", func(t *trial) { t.Sent = 1_400_000 }, "1390000 bytes of replies"},
		{"replies of which the server's sessions know nothing", func(t *trial) { t.attackers.Received = 1_400_000 }, "1400000 bytes of replies"},
		{"a long log", func(t *trial) { t.Records.Bytes = 2_200_000 }, "2200000 bytes of log"},
		{"a record of two lines", func(t *trial) { t.Records.Broken = 1 }, "control characters"},
		{"a fault of an error", func(t *trial) { t.Faults = []string{"too long"} }, "too long"},
		{"no session was ended", func(t *trial) { delete(t.Ended, overCost) }, "no session of the attack was ended"},
		{"there was no time to end one", func(t *trial) { delete(t.Ended, overCost); t.ends = 2 * longAttack }, ""},
		{"who is only slow is cut off", func(t *trial) { t.spares = true; t.attackers.Cut = 1 }, "1 connections cut off"},
		{"a session is left", func(t *trial) { t.Left.Sessions = 1 }, "1 sessions and 0 goroutines are left"},
		{"a goroutine is left", func(t *trial) { t.Left.Goroutines = 1 }, "0 sessions and 1 goroutines are left"},
		{"memory is left", func(t *trial) { t.Left.Heap = 9 << 20 }, "a heap of 9.0 MiB is left"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := goodTrial()
			test.spoil(tr)
			problems := tr.judge(false)
			switch {
			case test.want == "" && len(problems) > 0:
				t.Errorf("found %q, want nothing", problems)
			case test.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], test.want)):
				t.Errorf("found %q, want one like %q", problems, test.want)
			}
		})
	}
}

// The short form judges time roughly.
func TestVerdictOfTheShortForm(t *testing.T) {
	tr := goodTrial()
	tr.honest.took.P99 = time.Second
	tr.CPU = 1200 * time.Millisecond
	tr.lingers, tr.Left.Sessions = true, 1
	if problems := tr.judge(true); len(problems) > 0 {
		t.Errorf("found %q, want nothing", problems)
	}
	tr.honest.took.P99 = 3 * time.Second
	tr.CPU = 9 * time.Second
	if problems := tr.judge(true); len(problems) != 2 {
		t.Errorf("found %q, want two problems", problems)
	}
}

func TestAttacks(t *testing.T) {
	seen := make(map[string]bool)
	for i := range attacks {
		a := &attacks[i]
		if seen[a.name] || a.count == 0 || a.use == nil || a.like == 0 || a.shows == "" {
			t.Errorf("%q is incomplete, or there are two", a.name)
		}
		seen[a.name] = true
		if c, ok := findClass(a.name); !ok || c.count != a.count || c.over != a.over {
			t.Errorf("the hostile clients do not know %q", a.name)
		}
		for _, r := range a.references() {
			if findAttack(r.name) == nil {
				t.Errorf("%q is compared with %q, which is not known", a.name, r.name)
			}
		}
	}
}

// What is sent as one message has to be one that a server does not drop for its size.
func TestTextsAreNotTooLarge(t *testing.T) {
	for i, text := range []text{
		params("any", "[],", "[]"),
		inString(`\u0041`),
		escapedKeys,
		duplicateKeys,
		fill("[", "0,", medium, "0]\n"),
		func() string { return overTCP.frame(echoRequest(large)) },
	} {
		if s := text(); len(s) > 1_000_000 || strings.Count(s, "\n") != 1 || !strings.HasSuffix(s, "\n") {
			t.Errorf("%d: %d bytes: %.100s", i, len(s), s)
		}
	}
}

func TestRecordCounter(t *testing.T) {
	var c recordCounter
	for _, record := range []string{"fine\n", "two\nlines\n", "a\x1b[2J\n", "a \u0085 line\n"} {
		if _, err := c.Write([]byte(record)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := c.read(), (records{Bytes: 31, Count: 4, Broken: 3}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

func TestInspectErrors(t *testing.T) {
	for text, want := range map[string]int{"fine": 0, "a\x1b[2J": 1, strings.Repeat("x", maxErrorText+1): 1} {
		tg := &target{}
		tg.inspect(errors.New(text))
		if len(tg.faults) != want {
			t.Errorf("%.20q: %q", text, tg.faults)
		}
	}
}

// Bytes received are counted, and a connection that is closed says so.
func TestCountedConn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = conn.Write([]byte("12345"))
			conn.Close()
		}
	}()
	c := &campaign{order: order{Addr: "tcp://" + l.Addr().String()}, ctx: t.Context()}
	h := c.client(class{use: sends(just("hello"))}, 0)
	conn, err := h.dial()
	if err != nil {
		t.Fatal(err)
	}
	h.handle(conn)
	if h.Connections != 1 || h.Bytes != 5 || h.received.Load() != 5 {
		t.Errorf("%+v, received %d", h.tally, h.received.Load())
	}
}
