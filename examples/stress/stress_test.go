package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// goodCourse returns a full course in which all went well.
func goodCourse() *course {
	c := &course{phases: plan()}
	for i := range c.phases {
		p := &c.phases[i]
		p.from, p.to = time.Duration(i)*30*time.Second, time.Duration(i+1)*30*time.Second
		p.settled = sample{Heap: 1 << 20, RSS: 10 << 20, Sessions: clientCount}
		p.hostile = make(map[string]tally)
		for _, class := range p.classes {
			p.hostile[class] = tally{Connections: 1}
		}
		ended := map[string]int{overCost: 20 * i, slowPeer: 10 * i}
		c.samples = append(c.samples, sample{At: p.from + time.Second, RSS: 50 << 20, Sessions: clientCount, Ended: ended})
		for j := range 200 {
			c.calls = append(c.calls, timing{p.from + time.Duration(j)*time.Millisecond, 3 * time.Millisecond, nil})
		}
	}
	return c
}

func TestJudge(t *testing.T) {
	// hold makes n calls of the second phase take d.
	hold := func(c *course, n int, d time.Duration) {
		for i := range n {
			c.calls[200+i].took = d
		}
	}
	for _, test := range []struct {
		name  string
		spoil func(*course)
		want  string // a part of the only problem; "" if there is none
	}{
		{"all is well", func(c *course) {}, ""},
		{"one call in a hundred is late", func(c *course) { hold(c, 2, time.Second) }, ""},
		{"more than one call in a hundred is late", func(c *course) { hold(c, 3, time.Second) }, "flood: p99 is 1s"},
		{"late calls are tolerated in a short form", func(c *course) { hold(c, 3, time.Second); c.short = true }, ""},
		{"calls that stand still are not", func(c *course) { hold(c, 3, 3*time.Second); c.short = true }, "flood: p99 is 3s"},
		{"a call fails", func(c *course) { c.calls[300].err = errors.New("no") }, "flood: 1 calls of well-behaved clients failed"},
		{"no call is answered", func(c *course) { c.calls = slices.Delete(c.calls, 200, 400) }, "flood: no call was answered"},
		{"much memory for a moment", func(c *course) { c.samples[2].RSS = 1 << 30 }, "garbage: the server took 1024.0 MiB"},
		{"memory in use at the end", func(c *course) { c.phases[len(c.phases)-1].settled.Heap *= 10 }, "the heap is 10.0 MiB"},
		{"memory not given back", func(c *course) { c.phases[len(c.phases)-1].settled.RSS *= 10 }, "the server has 100.0 MiB"},
		{"an attack that did not take place", func(c *course) { c.phases[5].hostile["storm"] = tally{} }, "storm: no connection"},
		{"nobody is cut off for the cost", func(c *course) { c.samples[2].Ended[overCost] = 20 }, `no session was ended for "cost"`},
		{"no slow reader is cut off", func(c *course) { c.samples[3].Ended[slowPeer] = 20 }, `no session was ended for "slow peer"`},
		{"who is only slow is refused", func(c *course) { c.phases[7].hostile["pipeliners"] = tally{Connections: 1, Refused: 2} }, "2 messages of pipeliners were refused"},
		{"who is only slow is cut off", func(c *course) { c.phases[8].hostile["sleepers"] = tally{Connections: 1, Cut: 1} }, "1 connections cut off"},
		{"a session too many", func(c *course) { c.phases[len(c.phases)-1].settled.Sessions++ }, "33 sessions at the end"},
		{"a session left after the shutdown", func(c *course) { c.left.Sessions = 1 }, "1 sessions and 0 goroutines are left"},
		{"a goroutine left after the shutdown", func(c *course) { c.left.Goroutines = 1 }, "0 sessions and 1 goroutines are left"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := goodCourse()
			test.spoil(c)
			c.sort()
			problems := c.judge()
			switch {
			case test.want == "" && len(problems) > 0:
				t.Errorf("found %q, want nothing", problems)
			case test.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], test.want)):
				t.Errorf("found %q, want one like %q", problems, test.want)
			}
		})
	}
}

func TestQuantiles(t *testing.T) {
	var times []time.Duration
	for i := range 1000 {
		times = append(times, time.Duration((i*7)%1000+1)) // 1 to 1000, not in order
	}
	if got, want := newQuantiles(times), (quantiles{500, 990, 1000}); got != want {
		t.Errorf("of 1 to 1000: %v, want %v", got, want)
	}
	if got, want := newQuantiles([]time.Duration{5}), (quantiles{5, 5, 5}); got != want {
		t.Errorf("of one: %v, want %v", got, want)
	}
	if got := newQuantiles(nil); got != (quantiles{}) {
		t.Errorf("of none: %v", got)
	}
}

func TestChartIsXML(t *testing.T) {
	c := goodCourse()
	c.sort()
	var names strings.Builder
	d := xml.NewDecoder(strings.NewReader(string(c.draw())))
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			names.WriteString(string(text))
		}
	}
	for _, p := range c.phases {
		if !strings.Contains(names.String(), p.name) {
			t.Errorf("the phase %q is not named", p.name)
		}
	}
}
