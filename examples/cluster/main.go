// Cluster shows a service on many machines: gateways have the sessions of the clients,
// workers have the methods, and a NATS cluster is between them.
//
// The first form runs everything in one process: three NATS nodes, four workers, three
// gateways, and clients that call. With -kill, a worker, a gateway and a node are killed in
// turn. The last line accounts for all calls, and the exit status is 1 if it cannot.
//
//	go run . -duration 15s -kill
//
// The second form runs each part as a process of its own, on one machine or on several:
//
//	go run . -nats nats://one:4222 -role worker
//	go run . -nats nats://one:4222 -role gateway -listen tcp://:8888 -ready :8080
//	go run . -role client -gateways tcp://one:8888,tcp://two:8888 -duration 15s
//
// worker.go and gateway.go are what a program of your own needs. docs/scaling.md says when.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	natsrpcx "example.com/rpcx/nats"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Stdout); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	role, nats, listen, ready, gateways, records string
	proxies                                      []netip.Prefix
	duration, pause, notice, spread              time.Duration
	clients                                      int
	kill                                         bool
}

// run is the program.
func run(ctx context.Context, args []string, out io.Writer) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	switch s.role {
	case "":
		return runAll(ctx, s, out)
	case "client":
		return runClients(ctx, s, out)
	case "worker":
		return runWorker(ctx, s, out)
	case "gateway":
		return runGateway(ctx, s, out)
	}
	return fmt.Errorf("-role %q: it is gateway, worker, client, or left out", s.role)
}

// parse reads the flags.
func parse(args []string) (*settings, error) {
	s := new(settings)
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	flags.StringVar(&s.role, "role", "", "gateway, worker or client: run this part alone; default: everything in one process")
	flags.StringVar(&s.nats, "nats", "", "URLs of the NATS cluster, with commas between")
	flags.DurationVar(&s.duration, "duration", 15*time.Second, "how long the clients call")
	flags.IntVar(&s.clients, "clients", 60, "number of clients")
	flags.DurationVar(&s.pause, "pause", 10*time.Millisecond, "pause of a client between two calls")
	flags.BoolVar(&s.kill, "kill", false, "kill a worker, a gateway and a NATS node in turn")
	flags.StringVar(&s.gateways, "gateways", "tcp://127.0.0.1:8888", "addresses for the clients, with commas between")
	flags.StringVar(&s.listen, "listen", "tcp://127.0.0.1:8888", "address of a gateway")
	flags.StringVar(&s.ready, "ready", "127.0.0.1:8080", "address of a gateway for GET /ready, for balancers")
	flags.Func("proxies", "addresses of proxies that send PROXY headers, such as 10.0.0.0/8, with commas between; default none", func(text string) error {
		for part := range strings.SplitSeq(text, ",") {
			prefix, err := netip.ParsePrefix(part)
			if err != nil {
				return err
			}
			s.proxies = append(s.proxies, prefix)
		}
		return nil
	})
	flags.DurationVar(&s.notice, "notice", 3*time.Second, "how long a gateway that drains says no at /ready, and goes on, until balancers have noticed")
	flags.DurationVar(&s.spread, "spread", 10*time.Second, "time over which a gateway that drains ends its sessions")
	flags.StringVar(&s.records, "records", "", "folder of workers and clients on one machine, where workers record the calls that they carry out")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case s.nats == "" && (s.role == "worker" || s.role == "gateway"):
		return nil, errors.New("-nats is missing: give the URLs of the NATS cluster, such as nats://127.0.0.1:4222")
	case s.role != "" && s.kill:
		return nil, errors.New("-kill is for the form without -role")
	case s.clients < 1:
		return nil, errors.New("-clients must be at least 1")
	}
	return s, nil
}

// runWorker is the role worker.
func runWorker(ctx context.Context, s *settings, out io.Writer) error {
	conn, err := natsrpcx.Connect(s.nats)
	if err != nil {
		return err
	}
	defer conn.Close()
	var record recorder = noRecord{}
	if s.records != "" {
		file, err := createRecord(filepath.Join(s.records, fmt.Sprintf("worker-%d", os.Getpid())))
		if err != nil {
			return err
		}
		defer file.close()
		record = file
	}
	fmt.Fprintln(out, "worker")
	return serveWorker(ctx, conn, record, slog.Default())
}

// runGateway is the role gateway.
func runGateway(ctx context.Context, s *settings, out io.Writer) error {
	conn, err := natsrpcx.Connect(s.nats)
	if err != nil {
		return err
	}
	defer conn.Close()
	g, err := startGateway(ctx, gatewayConfig{conn, s.listen, s.ready, s.proxies, s.notice, s.spread, slog.Default()})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "gateway at %s, http://%s/ready\n", g.addr, g.readyAddr)
	<-ctx.Done()
	return g.drain(context.Background())
}

// runClients is the role client.
func runClients(ctx context.Context, s *settings, out io.Writer) error {
	l := newLoad(strings.Split(s.gateways, ","), s, out)
	l.run(ctx)
	if s.records == "" {
		return l.report(false)
	}
	if err := l.readRecords(s.records); err != nil {
		return err
	}
	return l.report(true)
}
