// Electrum is a server of the Electrum protocol, versions 1.4 to 1.4.2, over a small
// Bitcoin chain that it makes itself: regtest, the network for tests on one machine. The
// Electrum wallet takes it for a real one. Electrum is also a client of such servers, which
// follows the newest header and an address.
//
//	go run ./examples/electrum server -listen tcp://127.0.0.1:50001 -mine 10s
//	electrum --regtest -s 127.0.0.1:50001:t --oneserver
//	go run ./examples/electrum client -connect tcp://127.0.0.1:50001 -address ADDRESS
//
// The server reads commands, and prints a line for each:
//
//	mine N             adds N blocks, with the transactions that wait
//	pay ADDRESS SATS   pays from the chain's own coins; the transaction waits for a block
//	reorg N            replaces the last N blocks by N+1 others
//	info               prints the height
//
// Transactions of clients are checked for their form, their inputs and their sums.
// Scripts and signatures are not checked: the coins are worth nothing, and anybody can
// spend anything.
//
// The client takes several servers (-connect A -connect B), and goes on with the next when
// one is lost. It prints a line for each:
//
//	state S            of the connection: connecting, ready, backoff or closed, and why
//	connected to A     the server's address, its software and the version of the protocol
//	header N, HASH     the newest block
//	status HASH        of the address, which changes with each of its transactions
//	gap in the …       headers or statuses may have been missed
//
// If header and status are the same at the next server, nothing is printed.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/rpcx"
)

// firstBlocks is the number of blocks of a new chain: enough for a few spendable coins.
const firstBlocks = maturity + 10

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "electrum:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) > 0 && args[0] == "server":
		return runServer(ctx, args[1:], in, out)
	case len(args) > 0 && args[0] == "client":
		return runClient(ctx, args[1:], out)
	}
	return errors.New("usage: electrum server|client [flags], with -help for the flags")
}

// addresses is a flag that may be given several times.
type addresses []string

func (a *addresses) String() string { return strings.Join(*a, " ") }
func (a *addresses) Set(addr string) error {
	*a = append(*a, addr)
	return nil
}

// runServer serves until ctx ends.
func runServer(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	var listen addresses
	flags := flag.NewFlagSet("electrum server", flag.ExitOnError)
	flags.Var(&listen, "listen", "address: tcp://host:port or tls://host:port; may be given several times (default tcp://127.0.0.1:50001)")
	cert := flags.String("cert", "", "file of the certificate, for tls; without one, the server signs one for itself")
	key := flags.String("key", "", "file of its key, for tls")
	state := flags.String("state", "", "file that keeps the chain (default: a new chain at each start)")
	interval := flags.Duration("mine", 0, "time between two blocks, for example 10s (default: blocks by command only)")
	flags.Parse(args)
	if len(listen) == 0 {
		listen = addresses{"tcp://127.0.0.1:50001"}
	}
	s, err := newServer(*state)
	if err != nil {
		return err
	}
	defer s.close()
	listeners, err := s.listen(ctx, listen, *cert, *key)
	if err != nil {
		return err
	}
	for i, l := range listeners {
		scheme, _, _ := strings.Cut(listen[i], "://")
		fmt.Fprintf(out, "listening on %s://%s\n", scheme, l.Addr())
	}

	srv := s.rpcServer()
	srv.Options.Logger = slog.Default()
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, len(listeners))
	for _, l := range listeners {
		// Owner: runServer. End: the end of ctx, or an error of the listener, which ends ctx.
		serving.Go(func() {
			errs <- srv.ServeContext(ctx, l)
			cancel()
		})
	}
	if *interval > 0 {
		// Owner: runServer. End: the end of ctx.
		serving.Go(func() { s.mineByTimer(ctx, *interval, out) })
	}
	// Owner: main. End: the end of the input, or of the program.
	go s.runCommands(in, out)
	serving.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// newServer returns a server whose chain is in a file, or new if there is no file.
func newServer(state string) (*server, error) {
	s := &server{chain: newChain(), hub: newHub(), hosts: make(map[string]ports)}
	if state != "" {
		f, err := openState(state, s.chain)
		if err != nil {
			return nil, err
		}
		s.state = f
		s.chain.keepsLog = true
		s.chain.takeChanges() // nobody has to be told
	}
	if s.chain.height() == 0 {
		if err := s.mine(firstBlocks); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *server) close() {
	if s.state != nil {
		s.state.Close()
	}
}

// listen listens at all addresses, or at none.
func (s *server) listen(ctx context.Context, addrs []string, cert, key string) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
		}
	}()
	var config *tls.Config
	for _, addr := range addrs {
		secure := strings.HasPrefix(addr, "tls://")
		if secure && config == nil {
			if config, err = certificate(cert, key); err != nil {
				return listeners, err
			}
		}
		l, err := rpcx.Listen(ctx, addr, config)
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
		s.addHost(l.Addr(), secure)
	}
	return listeners, nil
}

// mineByTimer adds a block after each interval, until ctx ends.
func (s *server) mineByTimer(ctx context.Context, interval time.Duration, out io.Writer) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := s.mine(1); err != nil {
				fmt.Fprintln(out, "error:", err)
				continue
			}
			fmt.Fprintf(out, "mined 1, %s\n", s.info())
		case <-ctx.Done():
			return
		}
	}
}
