// The program picture draws the pictures of docs/observing.md from a real trace, and from
// what a real Prometheus has scraped:
//
//	go run ./picture trace ../../docs/trace.svg     # a second
//	go run ./picture metrics ../../docs/metrics.svg # two minutes; needs Debian's package prometheus
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run draws the picture that the arguments ask for.
func run(ctx context.Context, args []string) error {
	draw := map[string]func(context.Context) ([]byte, error){
		"trace": func(ctx context.Context) ([]byte, error) {
			spans, err := order(ctx, 5*time.Millisecond)
			return drawTrace(spans), err
		},
		"metrics": func(ctx context.Context) ([]byte, error) { return measure(ctx, 20*time.Second) },
	}
	if len(args) != 2 || draw[args[0]] == nil {
		return fmt.Errorf("usage: picture trace|metrics FILE.svg")
	}
	svg, err := draw[args[0]](ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(args[1], svg, 0o644)
}
