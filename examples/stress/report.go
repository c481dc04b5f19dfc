package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes the figures as tables.
func (c *course) print(w io.Writer) {
	fmt.Fprintf(w, "%d well-behaved clients, and the server; heap to sessions are its highest, settled is its memory at the end of the phase:\n\n", clientCount)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "phase\tcalls/s\tp50\tp99\tworst\tfailed\theap\tRSS\tgoroutines\tsessions\tsettled heap\tRSS\t")
	for _, p := range c.phases {
		fmt.Fprintf(t, "%s\t%.0f\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\t%s\t\n", p.name, p.rate(p.calls),
			milli(p.answered.P50), milli(p.answered.P99), milli(p.answered.Max), len(p.failures),
			mega(p.peak.Heap), mega(p.peak.RSS), p.peak.Goroutines, p.peak.Sessions,
			mega(p.settled.Heap), mega(p.settled.RSS))
	}
	t.Flush()

	fmt.Fprintf(w, "\nhostile clients, by phase and class; their latency if they wait for answers:\n\n")
	fmt.Fprintln(t, "phase\tclass\tconnects/s\tmessages/s\tMB/s\tp50\tp99\tcut off\t")
	for _, p := range c.phases {
		for _, class := range p.classes {
			h := p.hostile[class]
			fmt.Fprintf(t, "%s\t%s\t%.1f\t%.0f\t%.2f\t%s\t%s\t%d\t\n", p.name, class, p.rate(h.Connections),
				p.rate(h.Messages), p.rate(h.Bytes)/1e6, milli(h.Answered.P50), milli(h.Answered.P99), h.Cut)
		}
	}
	t.Flush()

	fmt.Fprintf(w, "\nsessions that ended, by phase and reason:\n\n")
	for _, p := range c.phases {
		var reasons []string
		for _, why := range slices.Sorted(maps.Keys(p.ended)) {
			if n := p.ended[why]; n > 0 {
				reasons = append(reasons, fmt.Sprintf("%d %s", n, why))
			}
		}
		if reasons != nil {
			fmt.Fprintf(w, "  %-14s%s\n", p.name, strings.Join(reasons, ", "))
		}
	}
	fmt.Fprintf(w, "\nafter the server's shutdown: %d sessions, %d goroutines of its own\n", c.left.Sessions, c.left.Goroutines)
}

// rate returns n per second of the phase.
func (p *phase) rate(n int) float64 { return float64(n) / (p.to - p.from).Seconds() }

// milli formats a duration in milliseconds, or "–" for 0.
func milli(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// measurement is what a run of the hub or of returning clients has measured.
type measurement interface {
	print(w io.Writer)          // writes the figures
	draw() []byte               // returns a picture of the figures, an SVG
	judge() (problems []string) // returns what is wrong with the figures
}

// reportMeasurement prints m, and writes the picture to the file svg, unless svg is empty. It
// returns an error if anything is wrong.
func reportMeasurement(out io.Writer, svg string, m measurement) error {
	m.print(out)
	if svg != "" {
		if err := os.WriteFile(svg, m.draw(), 0o644); err != nil {
			return err
		}
	}
	problems := m.judge()
	for _, problem := range problems {
		fmt.Fprintln(out, "FAILED:", problem)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d checks failed", len(problems))
	}
	fmt.Fprintln(out, "all is well")
	return nil
}
