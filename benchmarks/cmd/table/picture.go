package main

import (
	"cmp"
	"fmt"
	"slices"

	"example.com/rpcx/benchmarks"
)

// picture draws one panel of bars for each row, the fastest on top.
func picture(r *benchmarks.Results, rows []benchmarks.Row, peers []benchmarks.Peer, most int) []byte {
	var panels []panel
	for _, row := range rows {
		if p := rowPanel(r, row, peers); len(p.bars) > 0 {
			panels = append(panels, p)
		}
	}
	if p := idlePanel(r, peers); len(p.bars) > 0 {
		panels = append(panels, p)
	}
	for i := range panels {
		panels[i].limit(most)
	}
	caption := fmt.Sprintf("Shorter is better. Grey: no RPC; blue: JSON-RPC; violet: other wires; † cannot be called back. "+
		"Loopback TCP, %s %s, %d CPUs, %s.",
		r.Go, r.System, r.CPUs, r.Date)
	return draw(panels, caption)
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
	best := bestOf(r, row.Name)
	wire, ok := r.Ratio(row.Name, quoted, best.anyWire.Name)
	json, both := r.Ratio(row.Name, quoted, best.json.Name)
	if ok && both {
		p.note = fmt.Sprintf("rpcx: %.2f × best, %.2f × JSON", wire.Median, json.Median)
	}
	return p
}

// idlePanel is what an idle pair keeps.
func idlePanel(r *benchmarks.Results, peers []benchmarks.Peer) panel {
	p := panel{title: "idle pair", unit: "KiB", note: "heap and stacks of both ends"}
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
	slices.SortStableFunc(p.bars, func(a, b bar) int { return cmp.Compare(a.value, b.value) })
}

// limit leaves out all variants of rpcx but the quoted one, and then the longest
// bars of other libraries, so that at most the given number remains.
func (p *panel) limit(most int) {
	p.bars = slices.DeleteFunc(p.bars, func(b bar) bool {
		return b.peer.Kind == benchmarks.Ours && b.peer.Name != quoted
	})
	for i := len(p.bars) - 1; i >= 0 && len(p.bars) > most; i-- {
		if benchmarks.AnyWire(p.bars[i].peer) {
			p.bars = slices.Delete(p.bars, i, i+1)
		}
	}
}
