package main

import (
	"fmt"
	"strings"
)

// The picture is that of a terminal with a dark background.
const (
	columns    = 100
	charWidth  = 8.4
	lineHeight = 19
	margin     = 18
)

// colours has the colour of each sequence that the command writes.
var colours = map[string]string{
	"34;1": "#79b8ff", // names
	"32":   "#85e89d", // strings, prompt
	"36":   "#b392f0", // numbers
	"33":   "#ffab70", // true, false, null
}

// span is text of one colour; "" is the usual one.
type span struct{ colour, text string }

// spans splits a line with colours of a terminal.
func spans(line string) (s []span) {
	colour := ""
	for line != "" {
		text, rest, ok := strings.Cut(line, "\x1b[")
		if text != "" {
			s = append(s, span{colour, text})
		}
		if !ok {
			return s
		}
		code, after, _ := strings.Cut(rest, "m")
		colour, line = colours[code], after
	}
	return s
}

// wrap splits the spans of a line into rows of at most columns characters.
func wrap(line string) (rows [][]span) {
	var row []span
	width := 0
	for _, s := range spans(line) {
		text := []rune(s.text)
		for len(text) > 0 {
			n := min(len(text), columns-width)
			if n > 0 {
				row = append(row, span{s.colour, string(text[:n])})
				width += n
			}
			if text = text[n:]; len(text) > 0 {
				rows, row, width = append(rows, row), nil, 0
			}
		}
	}
	return append(rows, row)
}

// svg returns the lines as a picture.
func svg(lines []string) string {
	var rows [][]span
	for _, line := range lines {
		rows = append(rows, wrap(line)...)
	}
	var b strings.Builder
	width, height := columns*charWidth+2*margin, len(rows)*lineHeight+2*margin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" width="%.0f" height="%d" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14" role="img" aria-label="A session of the command rpcx in a terminal">
<rect width="100%%" height="100%%" rx="8" fill="#1f2428"/>
`, width, height, width, height)
	for i, row := range rows {
		if len(row) == 0 {
			continue
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#e1e4e8" xml:space="preserve">`, margin, margin+i*lineHeight+14)
		for _, s := range row {
			text := escapeXML(s.text)
			if s.colour != "" {
				text = fmt.Sprintf(`<tspan fill="%s">%s</tspan>`, s.colour, text)
			}
			b.WriteString(text)
		}
		b.WriteString("</text>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func escapeXML(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
}

// plain returns the lines without colours.
func plain(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		for _, s := range spans(line) {
			b.WriteString(s.text)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
