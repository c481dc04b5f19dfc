// Stress puts a server with default limits under load from good and bad clients at once,
// and shows the effect on the good clients.
//
//	go run ./examples/stress -svg soak.svg     # six and a quarter minutes
//	go run ./examples/stress -short            # a third of a minute
//
// Three processes of this program run: the server, the hostile clients, and the main
// process with the well-behaved clients. So the measured memory and goroutines are the
// server's alone. The hostile clients have a lower priority: the three processes share
// the processors of the machine, and the test is about the server. The main process
// controls the other processes over their standard input and output, by sessions of this
// library (process.go).
//
// The well-behaved clients (clients.go) call all the time at a moderate rate. They are
// first alone, then beside each class of hostile clients (hostile.go), then beside every
// class together, then alone again. At the end the server shuts down. If the well-behaved
// clients notice too much, or memory, a session or a goroutine is left, the exit status
// is 1 (judge.go).
//
// With -attacks, Stress runs the attacks one after the other. Each attack has a new
// server process or, for attacks on clients, a new client process (attacks.go, trial.go):
//
//	go run ./examples/stress -attacks          # seven minutes
//	go run ./examples/stress -attacks -short   # half a minute
//	go run ./examples/stress -attacks -only 'pings|zeros'
//
// Beside each attack an honest client calls, and honest newcomers connect. A line for
// each attack shows the cost: memory, CPU time, bytes of replies and of log, and the
// latency of the honest clients. The line ends with ok, or with FAILED if a bound is
// exceeded (verdict.go); then the exit status is 1. The first lines show the load for
// comparison: an honest client alone, connections with a single request, and echoes.
//
// With -hub, Stress publishes to many sessions, some of which do not read (hub.go):
//
//	go run ./examples/stress -hub -svg hub.svg # some three minutes
//	go run ./examples/stress -hub -short       # a quarter of a minute
//
// With -return, Stress ends the server of many clients that reconnect (return.go):
//
//	go run ./examples/stress -return -svg return.svg # three and a half minutes
//	go run ./examples/stress -return -short          # half a minute
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"time"
)

const (
	// Phases take 30 s, because a write may stall for 20 s, and 75 s for the sleepers.
	fullTime  = 375 * time.Second
	shortTime = 18 * time.Second
	warmUp    = time.Second

	longHub  = 2 * time.Minute
	shortHub = 8 * time.Second
)

func main() {
	length := flag.Duration("time", 0, "how long all phases take together; less than 5m30s gives the beginning of an attack much weight (default 6m15s, with -short 18s; with -hub 2m, and 8s)")
	seed := flag.Uint64("seed", 1, "of the random sizes and intervals")
	svg := flag.String("svg", "", "file to draw the course of it into")
	short := flag.Bool("short", false, "a short form, in which latency is only looked at roughly")
	withAttacks := flag.Bool("attacks", false, "make one attack after the other, each on a server of its own")
	withHub := flag.Bool("hub", false, "publish to 10,000 sessions, 1,000 of which do not read; with -short to a tenth of that")
	withReturn := flag.Bool("return", false, "end the server of 10,000 clients that reconnect, and look at their return; with -short of a tenth of them; without -time")
	only := flag.String("only", "", "with -attacks, a regular expression for their names")
	flag.Parse()
	if *length <= 0 {
		switch {
		case *withHub && *short:
			*length = shortHub
		case *withHub:
			*length = longHub
		case *withAttacks && *short:
			*length = shortAttack
		case *withAttacks:
			*length = longAttack
		case *short:
			*length = shortTime
		default:
			*length = fullTime
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch role := flag.Arg(0); role {
	case serverRole:
		serve()
	case hostileRole:
		runHostile()
	case targetRole:
		runTarget()
	case hubServerRole:
		serveHub()
	case hubClientsRole:
		runHubClients()
	case returnServerRole:
		serveReturn()
	case returnClientsRole:
		runReturnClients()
	case "":
		if *withHub {
			err = runHub(ctx, os.Stdout, *length, *short, *svg)
			break
		}
		if *withReturn {
			err = runReturn(ctx, os.Stdout, *short, *svg)
			break
		}
		if *withAttacks {
			err = attackAll(ctx, *length, *short, *only)
			break
		}
		err = run(ctx, *length, *seed, *svg, *short)
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
		os.Exit(1)
	}
}

// run runs every phase, prints the report, and judges the results.
func run(ctx context.Context, length time.Duration, seed uint64, svg string, short bool) error {
	c := &course{short: short, began: time.Now()}
	err := c.run(ctx, length, seed)
	if err != nil {
		return err
	}
	c.print(os.Stdout)
	if svg != "" {
		if err := os.WriteFile(svg, c.draw(), 0o644); err != nil {
			return err
		}
	}
	problems := c.judge()
	for _, problem := range problems {
		fmt.Println("FAILED:", problem)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d checks failed", len(problems))
	}
	fmt.Println("all is well")
	return nil
}

// attackAll runs the attacks whose names match only.
func attackAll(ctx context.Context, length time.Duration, short bool, only string) error {
	names, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	failed, err := runAttacks(ctx, os.Stdout, length, short, names)
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d attacks failed", failed)
	}
	return err
}
