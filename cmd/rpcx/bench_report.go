package main

import (
	"cmp"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// report is the output of bench. The help describes the fields.
type report struct {
	Target      string    `json:"target"`
	Method      string    `json:"method"`
	Kind        string    `json:"kind"`
	Model       string    `json:"model"`
	RateWanted  int       `json:"rate_wanted,omitempty"`
	Connections int       `json:"connections"`
	InFlight    int       `json:"in_flight"`
	Batch       int       `json:"batch,omitempty"`
	WarmUp      float64   `json:"warm_up_s"`
	Duration    float64   `json:"duration_s"`
	Ended       string    `json:"ended"`
	Calls       calls     `json:"calls"`
	Rate        float64   `json:"rate"`
	Latency     summary   `json:"latency_us"`
	Reply       *summary  `json:"reply_us,omitempty"`
	Late        *summary  `json:"late_us,omitempty"`
	Histogram   []bar     `json:"histogram"`
	Errors      []counted `json:"errors"`

	latency *hdrhistogram.Histogram
}

// calls is the numbers of calls in a report.
type calls struct {
	Due        int64 `json:"due"`
	Sent       int64 `json:"sent"`
	Succeeded  int64 `json:"succeeded"`
	Failed     int64 `json:"failed"`
	Unfinished int64 `json:"unfinished"`
	Unsent     int64 `json:"unsent"`
	Waited     int64 `json:"waited"`
}

// counted is a kind of error, and how many calls failed with it.
type counted struct {
	Kind    string `json:"kind"`
	Code    int    `json:"code,omitempty"`
	Message string `json:"message"`
	Count   int64  `json:"count"`
}

// summary is a distribution of times, in microseconds.
type summary struct {
	Min    float64 `json:"min"`
	Mean   float64 `json:"mean"`
	StdDev float64 `json:"stddev"`
	P50    float64 `json:"p50"`
	P75    float64 `json:"p75"`
	P90    float64 `json:"p90"`
	P95    float64 `json:"p95"`
	P99    float64 `json:"p99"`
	P999   float64 `json:"p99_9"`
	P9999  float64 `json:"p99_99"`
	Max    float64 `json:"max"`
}

// bar is a bar of a histogram: the times over from, up to to.
type bar struct {
	From  float64 `json:"from_us"`
	To    float64 `json:"to_us"`
	Count int64   `json:"count"`
}

func newReport(b *benchCall, subject benchSubject, m *measurement) *report {
	r := &report{
		Target: subject.target, Method: subject.method, Kind: "call", Model: "closed", RateWanted: b.rate,
		Connections: b.connections, InFlight: b.inFlight, Batch: b.batch,
		WarmUp: b.warmUp.Seconds(), Duration: m.elapsed.Seconds(), Ended: m.ended,
		Calls: calls{
			Sent: m.succeeded + m.failed + m.unfinished, Succeeded: m.succeeded, Failed: m.failed,
			Unfinished: m.unfinished, Unsent: m.unsent, Waited: m.waited,
		},
		Latency: summaryOf(m.latency), Histogram: distribution(m.latency, tenBars),
		Errors: []counted{}, latency: m.latency,
	}
	r.Histogram = slices.DeleteFunc(r.Histogram, func(b bar) bool { return b.Count == 0 })
	r.Calls.Due = r.Calls.Sent + r.Calls.Unsent
	if b.notify {
		r.Kind = "notification"
	}
	if b.batch > 0 {
		r.Kind += " batch"
	}
	if b.rate > 0 {
		reply, late := summaryOf(m.reply), summaryOf(m.late)
		r.Model, r.Reply, r.Late = "open", &reply, &late
	}
	answered := m.succeeded
	for kind, n := range m.errors {
		r.Errors = append(r.Errors, counted{kind.kind, kind.code, kind.message, n})
		if kind.kind == kindPeer {
			answered += n
		}
	}
	slices.SortFunc(r.Errors, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
	if m.elapsed > 0 {
		r.Rate = math.Round(float64(answered)/m.elapsed.Seconds()*100) / 100
	}
	return r
}

func summaryOf(h *hdrhistogram.Histogram) summary {
	at := func(percentile float64) float64 { return microseconds(h.ValueAtPercentile(percentile)) }
	return summary{
		Min: microseconds(h.Min()), Mean: microseconds(int64(h.Mean())), StdDev: microseconds(int64(h.StdDev())),
		P50: at(50), P75: at(75), P90: at(90), P95: at(95), P99: at(99), P999: at(99.9), P9999: at(99.99),
		Max: microseconds(h.Max()),
	}
}

func microseconds(ns int64) float64 { return float64(ns) / 1000 }

// tenBars and the others are where bars end within a power of ten, in tenths.
var (
	tenBars   = []int64{10, 12, 15, 20, 25, 30, 40, 50, 60, 80}
	fiveBars  = []int64{10, 15, 20, 30, 50}
	threeBars = []int64{10, 20, 50}
	oneBar    = []int64{10}
)

// distribution returns the bars from the lowest value to the highest. Values have the three
// digits of the histogram.
func distribution(h *hdrhistogram.Histogram, steps []int64) []bar {
	edges := []int64{0} // in ns; bar i is over edges[i], up to edges[i+1]
	for power := int64(10); power/10 <= int64(longestLatency); power *= 10 {
		for _, step := range steps {
			edges = append(edges, power/10*step)
		}
	}
	var bars []bar
	i := 0
	for _, d := range h.Distribution() {
		if d.Count == 0 {
			continue
		}
		for i+2 < len(edges) && d.From > edges[i+1] {
			i++
			if len(bars) > 0 {
				bars = append(bars, bar{From: microseconds(edges[i]), To: microseconds(edges[i+1])})
			}
		}
		if len(bars) == 0 {
			bars = []bar{{From: microseconds(edges[i]), To: microseconds(edges[i+1])}}
		}
		bars[len(bars)-1].Count += d.Count
	}
	return bars
}
