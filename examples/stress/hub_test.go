package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
)

// goodHubRun returns a run in which all went well.
func goodHubRun() *hubRun {
	took := func(d time.Duration) []time.Duration { return []time.Duration{d, d, d} }
	r := &hubRun{plan: &hubPlan{sessions: 10000, slow: 1000, queue: 64}, idle: sample{RSS: 100 << 20}, greatest: 10}
	r.all = hubPhase{hubPublished{Values: 3, Took: took(10 * time.Millisecond)}, hubReached{Took: took(50 * time.Millisecond)}}
	r.some = hubPhase{hubPublished{Values: 3, Took: took(12 * time.Millisecond), Reached: true, Stats: make([]rpcx.HubStats, 4)}, hubReached{Took: took(60 * time.Millisecond)}}
	for _, p := range hubPolicies {
		s := slowOutcome{Policy: p.name, Clients: 250}
		switch p.policy {
		case rpcx.DropOldest, rpcx.KeepLatest:
			s.Missing, s.Gaps, s.Last, s.Connected = 1000, 250, 250, 250
		case rpcx.EndStream:
			s.Ends, s.Connected = 250, 250
		}
		r.outcome.Slow = append(r.outcome.Slow, s)
	}
	return r
}

func TestJudgeHub(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*hubRun)
		want  string // a part of the only problem; "" if there is none
	}{
		{"all is well", func(*hubRun) {}, ""},
		{"Publish waits", func(r *hubRun) {
			r.some.Publish.Took[0], r.some.Publish.Took[1] = 16*time.Millisecond, 16*time.Millisecond
		}, "Publish takes 16ms"},
		{"readers wait", func(r *hubRun) { r.some.Reach.Took[2] = time.Second }, "last reader is 1s"},
		{"times do not count in a short form", func(r *hubRun) { r.some.Reach.Took[2], r.plan.short = time.Second, true }, ""},
		{"a value is lost", func(r *hubRun) { r.all.Reach.Missing = 1 }, "1 values have not reached"},
		{"too much memory", func(r *hubRun) { r.some.Publish.Peak.RSS = 1101 << 20 }, "the server had 1101.0 MiB"},
		{"a policy not met", func(r *hubRun) { r.some.Publish.Reached = false }, "not every slow session"},
		{"a reader cut off", func(r *hubRun) { r.outcome.Readers = 1 }, "1 readers"},
		{"no gap", func(r *hubRun) { r.outcome.Slow[0].Gaps = 249 }, "DropOldest"},
		{"a gap before an end", func(r *hubRun) { r.outcome.Slow[2].Missing = 1 }, "EndStream"},
		{"a slow session goes on", func(r *hubRun) { r.outcome.Slow[3].Connected = 1 }, "EndSession"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := goodHubRun()
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

func TestHubChartIsXML(t *testing.T) {
	for d := xml.NewDecoder(strings.NewReader(string(goodHubRun().draw()))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
