// Table measures rpcx and its peers. It writes the tables and the picture of them.
//
//	go run ./cmd/table -out results.json -md results.md -svg ../docs/benchmarks.svg
//
// In each run every row is measured for all peers one after the other, so that
// whatever else the machine does falls on all of them; every second run goes from
// the last peer to the first. The tables show medians; ratios are medians of the
// ratios within each run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"example.com/rpcx/benchmarks"
)

func main() {
	benchmarks.RunApart()
	var c config
	flag.StringVar(&c.rows, "rows", "", "rows to measure and to show, separated by commas, or \"none\" (default all)")
	flag.StringVar(&c.peers, "peers", "", "peers to measure and to show, separated by commas (default all)")
	flag.IntVar(&c.runs, "runs", 9, "number of runs; the intervals of ratios need at least 6")
	flag.DurationVar(&c.perMeasure, "time", 300*time.Millisecond, "time for each measure")
	flag.IntVar(&c.idle, "idle", 1000, "sessions of the idle table, 0 for none")
	flag.StringVar(&c.in, "in", "", "show this results file and measure nothing")
	flag.StringVar(&c.out, "out", "", "write the results to this file as JSON")
	flag.StringVar(&c.md, "md", "", "write the tables to this file (default standard output)")
	flag.StringVar(&c.svg, "svg", "", "draw the results in this file")
	flag.IntVar(&c.bars, "bars", 12, "most bars of a row in the picture; the slowest peers are left out")
	flag.Parse()

	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	rows, peers, in, out, md, svg string
	runs, idle, bars              int
	perMeasure                    time.Duration
}

func (c config) run() error {
	var rows []benchmarks.Row
	if c.rows != "none" {
		var err error
		if rows, err = benchmarks.FindRows(c.rows); err != nil {
			return err
		}
	}
	peers, err := benchmarks.FindPeers(c.peers)
	if err != nil {
		return err
	}
	results, err := c.results(rows, peers)
	if err != nil {
		return err
	}
	tables := markdown(results, rows, peers)
	if c.md == "" {
		os.Stdout.Write(tables)
	} else if err := os.WriteFile(c.md, tables, 0o666); err != nil {
		return err
	}
	if c.svg == "" {
		return nil
	}
	return os.WriteFile(c.svg, picture(results, rows, peers, c.bars), 0o666)
}

// results loads the results, or measures and saves them.
func (c config) results(rows []benchmarks.Row, peers []benchmarks.Peer) (*benchmarks.Results, error) {
	if c.in != "" {
		return benchmarks.LoadResults(c.in)
	}
	results := benchmarks.NewResults(c.perMeasure, c.idle)
	order := slices.Clone(peers)
	for i := range c.runs {
		fmt.Fprintf(os.Stderr, "run %d of %d:", i+1, c.runs)
		if err := c.measure(results, rows, order); err != nil {
			return nil, err
		}
		fmt.Fprintln(os.Stderr)
		slices.Reverse(order)
		if c.out != "" { // after each run, as a long measuring may be interrupted
			if err := results.Save(c.out); err != nil {
				return nil, err
			}
		}
	}
	return results, nil
}

// measure does one run.
func (c config) measure(results *benchmarks.Results, rows []benchmarks.Row, peers []benchmarks.Peer) error {
	ctx := context.Background()
	for _, row := range rows {
		fmt.Fprintf(os.Stderr, " %s", row.Name)
		for _, peer := range peers {
			s, err := benchmarks.Measure(ctx, peer, row, c.perMeasure)
			switch {
			case errors.Is(err, errors.ErrUnsupported):
			case err != nil:
				return err
			default:
				results.Add(row, peer, s)
			}
		}
	}
	if c.idle == 0 {
		return nil
	}
	fmt.Fprint(os.Stderr, " Idle")
	for _, peer := range peers {
		s, err := benchmarks.MeasureIdleApart(peer, c.idle)
		if err != nil {
			return fmt.Errorf("%s, idle: %w", peer.Name, err)
		}
		results.Idle[peer.Name] = append(results.Idle[peer.Name], s)
	}
	return nil
}
