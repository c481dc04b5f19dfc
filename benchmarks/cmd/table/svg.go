package main

import (
	"bytes"
	"fmt"
	"html"

	"example.com/rpcx/benchmarks"
)

// Measures in pixels. A panel is a column of names, the bars, and room for the
// number after the longest bar.
const (
	columns    = 2
	margin     = 20
	gap        = 32 // between panels
	nameWidth  = 224
	barWidth   = 140
	valueWidth = 62
	panelWidth = nameWidth + barWidth + valueWidth
	headHeight = 28
	lineHeight = 18
	barHeight  = 12
)

const style = `text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}` +
	`.title{font-size:14px;font-weight:600}.note{fill:#59636e}.ours{font-weight:600}`

var colours = map[benchmarks.Kind]string{
	benchmarks.Floor: "#8c959f",
	benchmarks.Ours:  "#d4570a",
	benchmarks.JSON:  "#7aa5d8",
	benchmarks.Other: "#b3a4d8",
}

// draw returns the panels as an SVG document.
func draw(panels []panel, caption string) []byte {
	var body bytes.Buffer
	y := margin
	for i := 0; i < len(panels); i += columns {
		height := 0
		for j, p := range panels[i:min(i+columns, len(panels))] {
			height = max(height, drawPanel(&body, p, margin+j*(panelWidth+gap), y))
		}
		y += height + gap
	}
	fmt.Fprintf(&body, `<text class="note" x="%d" y="%d">%s</text>`+"\n", margin, y, html.EscapeString(caption))

	width, height := 2*margin+columns*panelWidth+(columns-1)*gap, y+margin
	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Benchmarks">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&svg, "<style>%s</style>\n", style)
	fmt.Fprintf(&svg, `<rect x="0.5" y="0.5" width="%d" height="%d" rx="8" fill="#ffffff" stroke="#d1d9e0"/>`+"\n", width-1, height-1)
	svg.Write(body.Bytes())
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

// drawPanel draws p with its top left corner at x, y and returns its height.
func drawPanel(w *bytes.Buffer, p panel, x, y int) int {
	fmt.Fprintf(w, `<text class="title" x="%d" y="%d">%s</text>`+"\n", x, y+12, html.EscapeString(p.title))
	fmt.Fprintf(w, `<text class="note" x="%d" y="%d" text-anchor="end">%s</text>`+"\n", x+panelWidth, y+12, html.EscapeString(p.note))
	longest := p.bars[len(p.bars)-1].value
	for i, b := range p.bars {
		top := y + headHeight + i*lineHeight
		class := ""
		if b.peer.Kind == benchmarks.Ours {
			class = ` class="ours"`
		}
		length := max(1, barWidth*b.value/longest)
		fmt.Fprintf(w, `<text%s x="%d" y="%d" text-anchor="end">%s</text>`, class, x+nameWidth-8, top+10, html.EscapeString(title(b.peer)))
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`, x+nameWidth, top, length, barHeight, colours[b.peer.Kind])
		fmt.Fprintf(w, `<text%s x="%.1f" y="%d">%s</text>`+"\n", class, float64(x+nameWidth)+length+6, top+10, number(b.value)+" "+p.unit)
	}
	return headHeight + len(p.bars)*lineHeight
}

// number formats f with two or three significant digits.
func number(f float64) string {
	switch {
	case f < 1:
		return fmt.Sprintf("%.2f", f)
	case f < 100:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}
