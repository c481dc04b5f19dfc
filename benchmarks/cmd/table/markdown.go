package main

import (
	"bytes"
	"fmt"
	"slices"

	"example.com/rpcx/benchmarks"
)

// quoted is the name of the peer that the summary is about.
const quoted = "rpcx"

// markdown returns the summary, and a table for each row.
func markdown(r *benchmarks.Results, rows []benchmarks.Row, peers []benchmarks.Peer) []byte {
	w := new(bytes.Buffer)
	fmt.Fprintf(w, "%s %s, %d CPUs (%s), %s.\n", r.Go, r.System, r.CPUs, r.CPU, r.Date)
	writeSummary(w, r, rows, peers)
	for _, row := range rows {
		if len(r.Rows[row.Name]) > 0 {
			writeRow(w, r, row, peers)
		}
	}
	if len(r.Idle) > 0 {
		writeIdle(w, r, peers)
	}
	return w.Bytes()
}

// compared is what the figures of a row are divided by. A peer without a name was
// not measured.
type compared struct{ anyWire, json benchmarks.Peer }

func bestOf(r *benchmarks.Results, row string) (c compared) {
	c.anyWire, _ = r.Best(row, benchmarks.AnyWire)
	c.json, _ = r.Best(row, benchmarks.TwoWayJSON)
	return c
}

// writeSummary writes a line for each row, and one for the idle pairs.
func writeSummary(w *bytes.Buffer, r *benchmarks.Results, rows []benchmarks.Row, peers []benchmarks.Peer) {
	i := slices.IndexFunc(peers, func(p benchmarks.Peer) bool { return p.Name == quoted })
	if i < 0 {
		return // it is not shown
	}
	ours := peers[i]
	fmt.Fprintln(w, "\n| | floor | best of any wire | best JSON | rpcx | × floor | × best of any wire | × best JSON |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|--:|")
	for _, row := range append(slices.Clone(rows), idleRow) {
		if len(r.Values(row.Name, ours.Name)) == 0 {
			continue
		}
		floor, best := benchmarks.FloorOf(ours, row), bestOf(r, row.Name)
		fmt.Fprintf(w, "| %s | %s | %s | %s | **%s** | %s | %s | %s |\n", row.Title,
			figure(r, row, floor), named(r, row, best.anyWire), named(r, row, best.json), figure(r, row, ours.Name),
			ratio(r.Ratio(row.Name, ours.Name, floor)),
			ratio(r.Ratio(row.Name, ours.Name, best.anyWire.Name)),
			ratio(r.Ratio(row.Name, ours.Name, best.json.Name)))
	}
	fmt.Fprint(w, footnote)
}

// idleRow stands for the idle pairs in the summary.
var idleRow = benchmarks.Row{Name: benchmarks.IdleRow, Title: "an idle pair, KiB"}

const footnote = `
Medians, in µs; ratios are medians of the ratios within a run, with their 95 % intervals (order statistics). The floor is a line
echo without RPC: with a goroutine that writes ("fifo") where calls are concurrent. Best of any wire: of all the others;
† cannot be called back on its connection. Best JSON: of the JSON-RPC libraries that can. Ratios are not the quotients of the
medians beside them.
`

// writeRow writes a row's table.
func writeRow(w *bytes.Buffer, r *benchmarks.Results, row benchmarks.Row, peers []benchmarks.Peer) {
	best := bestOf(r, row.Name)
	fmt.Fprintf(w, "\n### %s\n\n", row.Title)
	fmt.Fprintln(w, "| | µs/op | allocs/op | KB/op | × floor | × best of any wire | × best JSON |")
	fmt.Fprintln(w, "|---|--:|--:|--:|--:|--:|--:|")
	for _, p := range peers {
		s, ok := r.Median(row.Name, p.Name)
		if !ok {
			continue
		}
		fmt.Fprintf(w, "| %s | %s | %s | %.1f | %s | %s | %s |\n", emphasize(p), digits(s.Nanoseconds/1e3), digits(s.Allocs), s.Bytes/1e3,
			ratio(r.Ratio(row.Name, p.Name, benchmarks.FloorOf(p, row))),
			ratio(r.Ratio(row.Name, p.Name, best.anyWire.Name)),
			ratio(r.Ratio(row.Name, p.Name, best.json.Name)))
	}
	if row.Apart {
		fmt.Fprintln(w, "\nAllocations are those of the client's process alone.")
	}
}

// writeIdle writes the table of idle sessions.
func writeIdle(w *bytes.Buffer, r *benchmarks.Results, peers []benchmarks.Peer) {
	fmt.Fprintf(w, "\n### %d idle pairs\n\n", r.Sessions)
	fmt.Fprintln(w, "| both ends of a connection | KiB of heap and stack | goroutines | memory × floor |")
	fmt.Fprintln(w, "|---|--:|--:|--:|")
	for _, p := range peers {
		if s, ok := r.MedianIdle(p.Name); ok {
			floor := benchmarks.FloorOf(p, idleRow)
			fmt.Fprintf(w, "| %s | %.1f | %.1f | %s |\n", emphasize(p), s.Bytes/1024, s.Goroutines, ratio(r.Ratio(benchmarks.IdleRow, p.Name, floor)))
		}
	}
}

// title returns what p is called, with a mark if it cannot be called back.
func title(p benchmarks.Peer) string {
	if p.OneWay {
		return p.Title + " †"
	}
	return p.Title
}

func emphasize(p benchmarks.Peer) string {
	if p.Kind == benchmarks.Ours {
		return "**" + title(p) + "**"
	}
	return title(p)
}

// named formats the median of a peer with its name.
func named(r *benchmarks.Results, row benchmarks.Row, p benchmarks.Peer) string {
	if p.Name == "" {
		return "–"
	}
	return title(p) + " " + figure(r, row, p.Name)
}

// figure formats the median of a peer, in µs or KiB.
func figure(r *benchmarks.Results, row benchmarks.Row, peer string) string {
	if row.Name == benchmarks.IdleRow {
		s, ok := r.MedianIdle(peer)
		if !ok {
			return "–"
		}
		return digits(s.Bytes / 1024)
	}
	s, ok := r.Median(row.Name, peer)
	if !ok {
		return "–"
	}
	return digits(s.Nanoseconds / 1e3)
}

// digits formats f with three significant digits, or all before the point.
func digits(f float64) string {
	switch {
	case f < 10:
		return fmt.Sprintf("%.2f", f)
	case f < 100:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

func ratio(r benchmarks.Ratio, ok bool) string {
	if !ok {
		return "–"
	}
	return r.String()
}
