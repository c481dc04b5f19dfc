// Chart draws what cmd/table measured as an SVG.
//
//	go run ./cmd/chart -in results.json -o ../docs/benchmarks.svg
//
// There is one panel of bars for each row, the fastest on top. The background
// is drawn too, so that the text is readable on a dark page.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"

	"example.com/rpcx/benchmarks"
)

func main() {
	in := flag.String("in", "results.json", "results file that cmd/table wrote")
	out := flag.String("o", "benchmarks.svg", "SVG file to write")
	rowNames := flag.String("rows", "", "rows to draw, separated by commas (default all)")
	peerNames := flag.String("peers", "", "peers to draw, separated by commas (default all)")
	flag.Parse()

	if err := run(*in, *out, *rowNames, *peerNames); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(in, out, rowNames, peerNames string) error {
	results, err := benchmarks.LoadResults(in)
	if err != nil {
		return err
	}
	rows, err := benchmarks.FindRows(rowNames)
	if err != nil {
		return err
	}
	peers, err := benchmarks.FindPeers(peerNames)
	if err != nil {
		return err
	}
	var panels []panel
	for _, row := range rows {
		if p := rowPanel(results, row, peers); len(p.bars) > 0 {
			panels = append(panels, p)
		}
	}
	if p := idlePanel(results, peers); len(p.bars) > 0 {
		panels = append(panels, p)
	}
	caption := fmt.Sprintf("Echo over loopback TCP, both ends in one process. %s %s, %d CPUs, %s. Shorter is better.",
		results.Go, results.System, results.CPUs, results.Date)
	return os.WriteFile(out, draw(panels, caption), 0o666)
}

// rowPanel is what row took: in µs, or in ms if some peer took very long.
func rowPanel(r *benchmarks.Results, row benchmarks.Row, peers []benchmarks.Peer) panel {
	p := panel{title: row.Title, unit: "µs"}
	for _, peer := range peers {
		if s, ok := r.Median(row.Name, peer.Name); ok {
			p.bars = append(p.bars, bar{peer, s.Nanoseconds / 1e3})
		}
	}
	p.sort()
	if n := len(p.bars); n > 0 && p.bars[n-1].value >= 10_000 {
		p.unit = "ms"
		for i := range p.bars {
			p.bars[i].value /= 1e3
		}
	}
	if best, ok := r.Best(row.Name, benchmarks.JSON); ok {
		if ratio, ok := r.Ratio(row.Name, "rpcx", best.Name); ok {
			p.note = fmt.Sprintf("rpcx: %.2f × best two-way JSON peer", ratio)
		}
	}
	return p
}

// idlePanel is what an idle session keeps.
func idlePanel(r *benchmarks.Results, peers []benchmarks.Peer) panel {
	p := panel{title: "idle session", unit: "KiB", note: "heap and stacks, each end"}
	for _, peer := range peers {
		if s, ok := r.MedianIdle(peer.Name); ok {
			p.bars = append(p.bars, bar{peer, s.Bytes / 1024})
		}
	}
	p.sort()
	return p
}

// panel is the bars of one row.
type panel struct {
	title, unit, note string
	bars              []bar
}

type bar struct {
	peer  benchmarks.Peer
	value float64
}

// sort puts the shortest bar first.
func (p *panel) sort() {
	slices.SortStableFunc(p.bars, func(a, b bar) int {
		if a.value < b.value {
			return -1
		}
		return 1
	})
}
