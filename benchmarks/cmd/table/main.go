// Table measures rpcx and its peers, and prints a Markdown table for each row.
//
//	go run ./cmd/table -runs 5 -time 300ms -out results.json
//
// In each run every row is measured for all peers one after the other, so that
// whatever else the machine does falls on all of them. The tables show medians;
// ratios are medians of the ratios within each run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"example.com/rpcx/benchmarks"
)

func main() {
	rowNames := flag.String("rows", "", "rows to measure, separated by commas, or \"none\" (default all)")
	peerNames := flag.String("peers", "", "peers to measure, separated by commas (default all)")
	runs := flag.Int("runs", 5, "number of runs")
	perMeasure := flag.Duration("time", 300*time.Millisecond, "time for each measure")
	idle := flag.Int("idle", 1000, "sessions of the idle table, 0 for none")
	in := flag.String("in", "", "print the tables of this results file and measure nothing")
	out := flag.String("out", "", "write the results to this file as JSON")
	flag.Parse()

	if err := run(*rowNames, *peerNames, *runs, *perMeasure, *idle, *in, *out); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(rowNames, peerNames string, runs int, perMeasure time.Duration, idle int, in, out string) error {
	if in != "" {
		results, err := benchmarks.LoadResults(in)
		if err != nil {
			return err
		}
		print(results)
		return nil
	}
	var rows []benchmarks.Row
	if rowNames != "none" {
		var err error
		if rows, err = benchmarks.FindRows(rowNames); err != nil {
			return err
		}
	}
	peers, err := benchmarks.FindPeers(peerNames)
	if err != nil {
		return err
	}
	results := benchmarks.NewResults(perMeasure, idle)
	for i := range runs {
		fmt.Fprintf(os.Stderr, "run %d of %d:", i+1, runs)
		if err := measure(results, rows, peers, perMeasure, idle); err != nil {
			return err
		}
		fmt.Fprintln(os.Stderr)
	}
	print(results)
	if out != "" {
		return results.Save(out)
	}
	return nil
}

// measure does one run.
func measure(results *benchmarks.Results, rows []benchmarks.Row, peers []benchmarks.Peer, perMeasure time.Duration, idle int) error {
	ctx := context.Background()
	for _, row := range rows {
		fmt.Fprintf(os.Stderr, " %s", row.Name)
		for _, peer := range peers {
			s, err := benchmarks.Measure(ctx, peer, row, perMeasure)
			switch {
			case errors.Is(err, errors.ErrUnsupported):
			case err != nil:
				return err
			default:
				results.Add(row, peer, s)
			}
		}
	}
	if idle == 0 {
		return nil
	}
	fmt.Fprint(os.Stderr, " Idle")
	for _, peer := range peers {
		s, err := benchmarks.MeasureIdle(ctx, peer, idle)
		if err != nil {
			return fmt.Errorf("%s, idle: %w", peer.Name, err)
		}
		results.Idle[peer.Name] = append(results.Idle[peer.Name], s)
	}
	return nil
}

// print prints all tables.
func print(r *benchmarks.Results) {
	fmt.Printf("%s %s, %d CPUs (%s), %s.\n", r.Go, r.System, r.CPUs, r.CPU, r.Date)
	for _, row := range benchmarks.Rows {
		if len(r.Rows[row.Name]) > 0 {
			printRow(r, row)
		}
	}
	if len(r.Idle) > 0 {
		printIdle(r)
	}
}

// printRow prints a row's table, and what it says of rpcx.
func printRow(r *benchmarks.Results, row benchmarks.Row) {
	best, _ := r.Best(row.Name, benchmarks.JSON)
	fmt.Printf("\n### %s\n\n", row.Title)
	fmt.Println("| | µs/op | allocs/op | KB/op | × floor | × best two-way JSON peer |")
	fmt.Println("|---|--:|--:|--:|--:|--:|")
	for _, p := range benchmarks.Peers {
		s, ok := r.Median(row.Name, p.Name)
		if !ok {
			continue
		}
		fmt.Printf("| %s | %s | %s | %.1f | %s | %s |\n", emphasize(p), digits(s.Nanoseconds/1e3), digits(s.Allocs), s.Bytes/1e3,
			ratio(r.Ratio(row.Name, p.Name, benchmarks.FloorOf(p))), ratio(r.Ratio(row.Name, p.Name, best.Name)))
	}
}

// printIdle prints the table of idle sessions.
func printIdle(r *benchmarks.Results) {
	fmt.Printf("\n### %d idle sessions, each end\n\n", r.Sessions)
	fmt.Println("| | KiB of heap and stack | goroutines |")
	fmt.Println("|---|--:|--:|")
	for _, p := range benchmarks.Peers {
		if s, ok := r.MedianIdle(p.Name); ok {
			fmt.Printf("| %s | %.1f | %.1f |\n", emphasize(p), s.Bytes/1024, s.Goroutines)
		}
	}
}

func emphasize(p benchmarks.Peer) string {
	if p.Kind == benchmarks.Ours {
		return "**" + p.Title + "**"
	}
	return p.Title
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

func ratio(f float64, ok bool) string {
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.2f", f)
}
