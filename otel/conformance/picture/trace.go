package main

import (
	"bytes"
	"cmp"
	"fmt"
	"html"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Measures of the picture of a trace, in pixels.
const (
	traceWidth = 980
	namesWidth = 380
	barsWidth  = traceWidth - namesWidth - 80
	rowHeight  = 24
	headHeight = 66
)

// row is a span, in the order of the tree.
type row struct {
	span  sdktrace.ReadOnlySpan
	depth int
}

// rows returns the spans in the order of the tree. Spans with the same parent are in the
// order of their begin.
func rows(spans []sdktrace.ReadOnlySpan) (all []row) {
	spans = slices.SortedFunc(slices.Values(spans), func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	var walk func(parent trace.SpanID, depth int)
	walk = func(parent trace.SpanID, depth int) {
		for _, s := range spans {
			if s.Parent().SpanID() == parent {
				all = append(all, row{s, depth})
				walk(s.SpanContext().SpanID(), depth+1)
			}
		}
	}
	walk(trace.SpanID{}, 0)
	return all
}

// program returns the name of the program of a span.
func program(s sdktrace.ReadOnlySpan) string {
	name, _ := s.Resource().Set().Value("service.name")
	return name.AsString()
}

// drawTrace returns the spans as an SVG document: a line for each span, and a bar from its
// begin to its end.
func drawTrace(spans []sdktrace.ReadOnlySpan) []byte {
	all := rows(spans)
	if len(all) == 0 {
		return nil
	}
	begin, end := all[0].span.StartTime(), all[0].span.EndTime()
	var programs []string
	for _, r := range all {
		begin, end = earlier(begin, r.span.StartTime()), later(end, r.span.EndTime())
		if p := program(r.span); !slices.Contains(programs, p) {
			programs = append(programs, p)
		}
	}
	height := headHeight + len(all)*rowHeight + 16
	x := func(at time.Time) float64 {
		return namesWidth + barsWidth*float64(at.Sub(begin))/float64(max(end.Sub(begin), 1))
	}
	var w bytes.Buffer
	openPicture(&w, traceWidth, height, "A trace of a call through a gateway and a worker")
	fmt.Fprintf(&w, `<text class="title" x="20" y="28">one trace, %d spans, %s</text>`+"\n", len(all), milliseconds(end.Sub(begin)))
	at := namesWidth
	for i, p := range programs {
		fmt.Fprintf(&w, `<rect class="c%d" x="%d" y="18" width="12" height="12" rx="2"/><text x="%d" y="28">%s</text>`+"\n", i, at, at+18, html.EscapeString(p))
		at += 40 + 8*len(p)
	}
	for i := range 5 { // lines of the time axis
		tick := begin.Add(end.Sub(begin) * time.Duration(i) / 4)
		fmt.Fprintf(&w, `<line class="grid" x1="%.1f" x2="%.1f" y1="52" y2="%d"/><text class="note" x="%.1f" y="48" text-anchor="middle">%s</text>`+"\n",
			x(tick), x(tick), height-10, x(tick), milliseconds(tick.Sub(begin)))
	}
	for i, r := range all {
		drawSpan(&w, r, headHeight+i*rowHeight, slices.Index(programs, program(r.span)), x)
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}

// drawSpan draws the line of a span. colour is the number of the program.
func drawSpan(w *bytes.Buffer, r row, y, colour int, x func(time.Time) float64) {
	from, to := x(r.span.StartTime()), x(r.span.EndTime())
	kind := ""
	if k := r.span.SpanKind(); k != trace.SpanKindInternal {
		kind = strings.ToUpper(k.String())
	}
	fmt.Fprintf(w, `<text x="%d" y="%d">%s <tspan class="note">%s</tspan></text>`, 20+14*r.depth, y+15, html.EscapeString(r.span.Name()), kind)
	fmt.Fprintf(w, `<rect class="c%d" x="%.1f" y="%d" width="%.1f" height="12" rx="2"/>`, colour, from, y+5, max(to-from, 1.5))
	note := milliseconds(r.span.EndTime().Sub(r.span.StartTime()))
	class := "note"
	if status := r.span.Status(); status.Code == codes.Error {
		class = "error"
		note += " " + cmp.Or(status.Description, "error")
	}
	anchor, at := "start", to+6
	if to+6+6.5*float64(len(note)) > traceWidth {
		anchor, at = "end", from-6
	}
	fmt.Fprintf(w, `<text class="%s" x="%.1f" y="%d" text-anchor="%s">%s</text>`+"\n", class, at, y+15, anchor, html.EscapeString(note))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// milliseconds returns a time for people.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
