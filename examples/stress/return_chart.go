package main

import (
	"bytes"
	"fmt"
	"html"
	"strings"
	"time"
)

// draw returns the return of the clients as an SVG document: for each way in which the
// server has ended, a histogram of the attempts and of the clients that became ready.
func (r *returnRun) draw() []byte {
	const rowHeight = titleHeight + plotHeight + axisHeight
	height := firstPlot + len(r.results)*rowHeight
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Clients that return to a server">`+"\n",
		chartWidth, height, chartWidth, height)
	fmt.Fprintf(&w, "<style>%s</style>\n", chartStyle)
	fmt.Fprintf(&w, `<rect class="ground" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", chartWidth-1, height-1)
	fmt.Fprintf(&w, `<text x="%d" y="28">%d clients return, by time since the end of the server; in each %v:</text>`+"\n", chartLeft, r.plan.clients, shortWindow)
	for i := range r.results {
		r.drawResult(&w, &r.results[i], firstPlot+i*rowHeight+titleHeight)
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}

// drawResult draws a histogram with the top of its plot at y.
func (r *returnRun) drawResult(w *bytes.Buffer, result *returnResult, y int) {
	c := result.clients
	end := time.Duration(max(len(c.AttemptBins), len(c.ReadyBins), 1)) * shortWindow
	axis := &course{phases: []phase{{to: end}}} // each panel has a horizontal axis of its own
	title := result.way.title
	if strings.Contains(title, "%") {
		away := r.plan.down
		if result.way.spread {
			away = r.plan.spread
		}
		title = fmt.Sprintf(title, away)
	}
	axis.drawPanel(w, panel{title, true, 0, []series{{"attempts", steps(c.AttemptBins)}, {"ready", steps(c.ReadyBins)}}}, y)
	step := niceStep(end.Seconds(), 10)
	for at := 0.0; at <= end.Seconds(); at += step {
		fmt.Fprintf(w, `<text class="note" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			axis.x(time.Duration(at*float64(time.Second))), y+plotHeight+18, html.EscapeString(fmt.Sprintf("%.4g s", at)))
	}
}

// steps returns the outline of a histogram with bins of shortWindow.
func steps(bins []int) (outline []point) {
	for i, n := range bins {
		from := time.Duration(i) * shortWindow
		outline = append(outline, point{from, float64(n)}, point{from + shortWindow, float64(n)})
	}
	return outline
}
