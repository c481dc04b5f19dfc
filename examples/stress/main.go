// Stress puts a server with default limits under load from good and bad clients
// at once, and shows what it does to the good ones.
//
//	go run ./examples/stress -svg soak.svg     # six and a quarter minutes
//	go run ./examples/stress -short            # a third of a minute
//
// Three processes of this program run: the server, whose memory and goroutines
// are then its own; the hostile clients, at a lower priority, since they share
// the machine's processors and it is the server that is to be tried; and this
// one, with the well-behaved clients. It tells the others what to do over their
// standard input and output, by sessions of this library (process.go).
//
// The well-behaved clients (clients.go) call all the time at a moderate rate: at
// first alone, then beside each class of hostile ones (hostile.go), then beside
// all of them, then alone again. At the end the server shuts down. The exit
// status is 1 if the well-behaved notice more than they should, if memory is not
// given back, or if a session or a goroutine is left (judge.go).
//
// With -attacks it makes one attack after the other instead, each on a new server
// process or, for attacks on clients, a new client process (attacks.go, trial.go):
//
//	go run ./examples/stress -attacks          # seven minutes
//	go run ./examples/stress -attacks -short   # half a minute
//	go run ./examples/stress -attacks -only 'pings|zeros'
//
// Beside each attack an honest client calls, and honest newcomers connect. A line for
// each attack says what it has cost: memory, time of processors, bytes of replies and
// of log, and what the honest have noticed. It ends with ok, or with FAILED if
// a bound is exceeded (verdict.go); then the exit status is 1. The first lines are
// what attacks are compared with: an honest client alone, connections that ask once,
// and echoes.
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
	// Phases of 30 s, since a write may stand still for 20 s; 75 s for the sleepers.
	fullTime  = 375 * time.Second
	shortTime = 18 * time.Second
	warmUp    = time.Second
)

func main() {
	length := flag.Duration("time", 0, "how long all phases take together; less than 5m30s gives the beginning of an attack much weight (default 6m15s, with -short 18s)")
	seed := flag.Uint64("seed", 1, "of the random sizes and intervals")
	svg := flag.String("svg", "", "file to draw the course of it into")
	short := flag.Bool("short", false, "a short form, in which latency is only looked at roughly")
	withAttacks := flag.Bool("attacks", false, "make one attack after the other, each on a server of its own")
	only := flag.String("only", "", "with -attacks, a regular expression for their names")
	flag.Parse()
	if *length <= 0 {
		switch {
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
	case "":
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

// run goes through all phases, reports, and judges.
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

// attackAll makes the attacks whose names match.
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
