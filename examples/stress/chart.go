package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"time"
)

// Measures in pixels.
const (
	chartWidth  = 900
	chartLeft   = 70 // left edge of the plots
	chartRight  = 20
	plotWidth   = chartWidth - chartLeft - chartRight
	plotHeight  = 110
	titleHeight = 30 // above a plot
	firstPlot   = 42 // below the names of the phases
	axisHeight  = 44
)

// chartStyle has colours for light and dark pages. A viewer without support for dark
// pages uses the light colours, on the chart's own background.
const chartStyle = `text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}
.title{font-weight:600}.note{fill:#59636e}.ground{fill:#fff;stroke:#d1d9e0}.band{fill:#59636e;fill-opacity:.07}
.grid{stroke:#59636e;stroke-opacity:.25}.bound{stroke:#cf222e;stroke-dasharray:5 4}.line{fill:none;stroke-width:1.5;stroke-linejoin:round}
.line.a{stroke:#d4570a}.line.b{stroke:#2f6fb5}text.a{fill:#b54708}text.b{fill:#2f6fb5}text.bound{fill:#cf222e;stroke:none}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#9198a1}.ground{fill:#0d1117;stroke:#3d444d}.band,.grid{fill:#9198a1;stroke:#9198a1}
.band{stroke:none}.line.a{stroke:#f0883e}.line.b{stroke:#6cb0f5}text.a{fill:#f0883e}text.b{fill:#6cb0f5}.bound{stroke:#ff7b72}text.bound{fill:#ff7b72}}`

// series is a line: values over time, in the unit of the panel.
type series struct {
	name   string
	points []point
}

type point struct {
	at    time.Duration
	value float64
}

// panel is a plot of one or two series over the whole course.
type panel struct {
	title  string
	log    bool // the axis is logarithmic
	bound  float64
	series []series
}

// panels returns the panels to draw.
func (c *course) panels() []panel {
	// The step is long enough for a p99 of the clients' calls. Of the server's samples in
	// a step, the chart shows the highest.
	step := max(500*time.Millisecond, c.length()/180)
	var p50, p99, calls, rss, heap, goroutines, sessions []point
	for at := c.phases[0].from; at < c.phases[len(c.phases)-1].to; at += step {
		n, q, _ := c.between(at, at+step)
		peak, _ := c.peak(at, at+step)
		add := func(to *[]point, value float64) { *to = append(*to, point{at + step/2, value}) }
		add(&p50, milliseconds(q.P50))
		add(&p99, milliseconds(q.P99))
		add(&calls, float64(n)/step.Seconds())
		add(&rss, float64(peak.RSS)/(1<<20))
		add(&heap, float64(peak.Heap)/(1<<20))
		add(&goroutines, float64(peak.Goroutines))
		add(&sessions, float64(peak.Sessions))
	}
	return []panel{
		{"latency of the well-behaved clients, ms", true, milliseconds(c.bound()), []series{{"p99", p99}, {"p50", p50}}},
		{"their calls answered, a second", false, 0, []series{{"", calls}}},
		{"the server's memory, MiB", false, 0, []series{{"RSS", rss}, {"heap", heap}}},
		{"the server's goroutines and sessions", false, 0, []series{{"goroutines", goroutines}, {"sessions", sessions}}},
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// length returns the duration of the phases together.
func (c *course) length() time.Duration { return c.phases[len(c.phases)-1].to - c.phases[0].from }

// x returns the horizontal position of a time.
func (c *course) x(at time.Duration) float64 {
	return chartLeft + plotWidth*float64(at-c.phases[0].from)/float64(c.length())
}

// draw returns the course as an SVG document.
func (c *course) draw() []byte {
	panels := c.panels()
	height := firstPlot + len(panels)*(titleHeight+plotHeight) + axisHeight
	bottom := height - axisHeight
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="A server under attack">`+"\n",
		chartWidth, height, chartWidth, height)
	fmt.Fprintf(&w, "<style>%s</style>\n", chartStyle)
	fmt.Fprintf(&w, `<rect class="ground" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", chartWidth-1, height-1)
	for i, p := range c.phases {
		left, right := c.x(p.from), c.x(p.to)
		if i%2 == 1 {
			fmt.Fprintf(&w, `<rect class="band" x="%.1f" y="14" width="%.1f" height="%d"/>`, left, right-left, bottom-14)
		}
		fmt.Fprintf(&w, `<text x="%.1f" y="32" text-anchor="middle">%s</text>`+"\n", (left+right)/2, html.EscapeString(p.name))
	}
	for i, p := range panels {
		c.drawPanel(&w, p, firstPlot+i*(titleHeight+plotHeight)+titleHeight)
	}
	step := niceStep(c.length().Seconds(), 10)
	for at := 0.0; at <= c.length().Seconds(); at += step {
		x := c.x(c.phases[0].from + time.Duration(at*float64(time.Second)))
		fmt.Fprintf(&w, `<text class="note" x="%.1f" y="%d" text-anchor="middle">%v s</text>`+"\n", x, bottom+18, at)
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}

// drawPanel draws p with the top of its plot at y.
func (c *course) drawPanel(w *bytes.Buffer, p panel, y int) {
	fmt.Fprintf(w, `<text class="title" x="%d" y="%d">%s</text>`+"\n", chartLeft, y-8, html.EscapeString(p.title))
	low, high, ticks := p.axis()
	place := func(v float64) float64 {
		if p.log {
			v = math.Log(max(v, low))
			return float64(y) + plotHeight*(math.Log(high)-v)/(math.Log(high)-math.Log(low))
		}
		return float64(y) + plotHeight*(high-v)/(high-low)
	}
	for _, v := range ticks {
		fmt.Fprintf(w, `<line class="grid" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`, chartLeft, place(v), chartLeft+plotWidth, place(v))
		fmt.Fprintf(w, `<text class="note" x="%d" y="%.1f" text-anchor="end">%v</text>`+"\n", chartLeft-8, place(v)+4, v)
	}
	legend := chartLeft + plotWidth
	if p.bound > 0 {
		fmt.Fprintf(w, `<line class="bound" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`, chartLeft, place(p.bound), chartLeft+plotWidth, place(p.bound))
		fmt.Fprintf(w, `<text class="bound" x="%d" y="%d" text-anchor="end">a phase: at most %.0f</text>`+"\n", legend, y-8, p.bound)
		legend -= 150
	}
	for i := len(p.series) - 1; i >= 0; i-- {
		s, class := p.series[i], "ab"[i:i+1]
		fmt.Fprintf(w, `<text class="%s" x="%d" y="%d" text-anchor="end">%s</text>`, class, legend, y-8, html.EscapeString(s.name))
		legend -= 80
		fmt.Fprintf(w, `<polyline class="line %s" points="`, class)
		for _, pt := range s.points {
			if x := c.x(pt.at); x >= chartLeft && x <= chartLeft+plotWidth {
				fmt.Fprintf(w, "%.1f,%.1f ", x, place(pt.value))
			}
		}
		w.WriteString("\"/>\n")
	}
}

// axis returns the range of a panel, and the values of the grid lines.
func (p *panel) axis() (low, high float64, ticks []float64) {
	lowest, highest := math.Inf(1), max(p.bound, 1)
	for _, s := range p.series {
		for _, pt := range s.points {
			highest = max(highest, pt.value)
			if pt.value > 0 {
				lowest = min(lowest, pt.value)
			}
		}
	}
	if p.log {
		low, high = math.Pow(10, math.Floor(math.Log10(min(lowest, 1)))), math.Pow(10, math.Ceil(math.Log10(highest*1.01)))
		for v := low; v < high*1.01; v *= 10 {
			ticks = append(ticks, math.Round(v*1e6)/1e6)
		}
		return low, high, ticks
	}
	step := niceStep(highest, 4)
	for v := 0.0; ; v += step {
		ticks = append(ticks, v)
		if v >= highest {
			return 0, v, ticks
		}
	}
}

// niceStep returns 1, 2 or 5, times a power of ten, so that at most n steps make up
// length.
func niceStep(length float64, n int) float64 {
	power := math.Pow(10, math.Floor(math.Log10(length/float64(n))))
	for _, m := range []float64{1, 2, 5} {
		if m*power*float64(n) >= length {
			return m * power
		}
	}
	return 10 * power
}
