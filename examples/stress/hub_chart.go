package main

import (
	"bytes"
	"fmt"
	"html"
	"time"
)

// draw returns the times of a run as an SVG document: for each share of the values, the
// time that so many took at most.
func (r *hubRun) draw() []byte {
	// The horizontal axis of the panels is a time; here a second is a percent.
	c := &course{phases: []phase{{to: 100 * time.Second}}}
	shares := func(times []time.Duration) (points []point) {
		for i, took := range times {
			points = append(points, point{time.Duration(float64(100*time.Second) * float64(i+1) / float64(len(times))), milliseconds(took)})
		}
		return points
	}
	panels := []panel{
		{"from Publish until the last reader has the value, ms", false, 0, []series{{"some slow", shares(r.some.Reach.Took)}, {"all read", shares(r.all.Reach.Took)}}},
		{"Publish, ms", false, 0, []series{{"some slow", shares(r.some.Publish.Took)}, {"all read", shares(r.all.Publish.Took)}}},
	}
	height := firstPlot + len(panels)*(titleHeight+plotHeight) + axisHeight
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="A hub with slow subscribers">`+"\n",
		chartWidth, height, chartWidth, height)
	fmt.Fprintf(&w, "<style>%s</style>\n", chartStyle)
	fmt.Fprintf(&w, `<rect class="ground" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", chartWidth-1, height-1)
	title := fmt.Sprintf("%d sessions, %d of which do not read: %.1f MiB resident, %.1f with all reading, %.1f idle; the bound is %.0f",
		r.plan.sessions, r.plan.slow, mib(r.some.Publish.Peak.RSS), mib(r.all.Publish.Peak.RSS), mib(r.idle.RSS), mib(r.memoryBound()))
	fmt.Fprintf(&w, `<text x="%d" y="28">%s</text>`+"\n", chartLeft, html.EscapeString(title))
	for i, p := range panels {
		c.drawPanel(&w, p, firstPlot+i*(titleHeight+plotHeight)+titleHeight)
	}
	for percent := 0; percent <= 100; percent += 10 {
		fmt.Fprintf(&w, `<text class="note" x="%.1f" y="%d" text-anchor="middle">%d %%</text>`+"\n", c.x(time.Duration(percent)*time.Second), height-axisHeight+18, percent)
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}
