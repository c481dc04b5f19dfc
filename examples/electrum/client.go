package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"time"

	"example.com/rpcx"

	"golang.org/x/sync/errgroup"
)

// runClient follows the newest header, and the status of a script, until ctx ends. The
// servers are equal: when one is lost, the client goes on with the next.
func runClient(ctx context.Context, args []string, out io.Writer) error {
	var servers addresses
	flags := flag.NewFlagSet("electrum client", flag.ExitOnError)
	flags.Var(&servers, "connect", "address of a server: tcp://host:port or tls://host:port; may be given several times (default tcp://127.0.0.1:50001)")
	address := flags.String("address", "", "address of regtest, or hash of a script in hexadecimal, whose status is followed")
	insecure := flags.Bool("insecure", false, "trust any certificate, for tls: most servers sign their own")
	verbose := flags.Bool("v", false, "print calls and answers, too")
	flags.Parse(args)
	if *address == "" {
		return errors.New("-address is missing: set an address of regtest, or the hash of a script")
	}
	if len(servers) == 0 {
		servers = addresses{"tcp://127.0.0.1:50001"}
	}
	script, err := scriptHashOf(*address)
	if err != nil {
		return fmt.Errorf("-address: %w", err)
	}

	lines := log.New(out, "", 0) // a Logger, because several goroutines print
	dialer := rpcx.Dialer{TLS: &tls.Config{InsecureSkipVerify: *insecure}}
	opts := &rpcx.ClientOptions{
		Addrs:   servers,
		Connect: dialer.Dial,
		// Electrum servers end the sessions of silent clients. The calls of KeepAliveMethod
		// prevent the end, and also notice a server that does not answer any more.
		Options:   rpcx.Options{Limits: rpcx.Limits{KeepAliveMethod: "server.ping"}},
		OnConnect: func(ctx context.Context, s *rpcx.Session) error { return greet(ctx, s, lines) },
		OnState: func(state rpcx.ClientState, reason error) {
			if reason == nil {
				lines.Printf("state %v", state)
			} else {
				lines.Printf("state %v: %v", state, reason)
			}
		},
	}
	if *verbose {
		opts.Options.OnCall = append(opts.Options.OnCall, printCalls(lines))
	}
	client := rpcx.NewClient(opts)
	err = follow(ctx, client, script, lines)
	if ctx.Err() != nil {
		err = nil // a signal, and no failure
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(err, client.Shutdown(end))
	<-client.Done() // the last state is printed
	return err
}

// scriptHashOf returns the hash of the script of an address, or the hash that text is.
func scriptHashOf(text string) (hash, error) {
	if sh, err := parseHash(text); err == nil {
		return sh, nil
	}
	script, err := scriptOf(text)
	if err != nil {
		return hash{}, fmt.Errorf("neither an address of regtest (%w) nor a hash with 64 digits", err)
	}
	return scriptHash(script), nil
}

// greet begins a session: the first message must be server.version.
func greet(ctx context.Context, s *rpcx.Session, lines *log.Logger) error {
	wanted := []string{versions[0], versions[len(versions)-1]}
	answer, err := rpcx.Call[[]string](ctx, s, "server.version", rpcx.Args{software, wanted})
	if err != nil {
		return err
	}
	lines.Printf("connected to %v, %q", s.RemoteAddr(), answer)
	return nil
}

// printCalls returns a function for Options.OnCall.
func printCalls(lines *log.Logger) func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
	return func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
		lines.Println("call", call.Method)
		return ctx, func(err error) {
			if err != nil {
				lines.Printf("answer %s: %v", call.Method, err)
			} else {
				lines.Println("answer", call.Method)
			}
		}, nil
	}
}

// follow subscribes to the headers, and then to the status of the script. It prints the
// values until ctx ends, or a server refuses a subscription.
func follow(ctx context.Context, client *rpcx.Client, script hash, lines *log.Logger) error {
	headers, err := rpcx.Subscribe[tip](ctx, client, rpcx.Subscription{
		Method:      "blockchain.headers.subscribe",
		Correlation: rpcx.ElectrumHeaders,
		OnGap:       func(gap *rpcx.GapError) { lines.Printf("gap in the headers: %v", gap) },
	})
	if err != nil {
		return err
	}
	defer headers.Close()
	statuses, err := rpcx.Subscribe[*string](ctx, client, rpcx.Subscription{
		Method:      "blockchain.scripthash.subscribe",
		Params:      rpcx.Args{script},
		Correlation: rpcx.ElectrumScriptHash,
		OnGap:       func(gap *rpcx.GapError) { lines.Printf("gap in the statuses: %v", gap) },
	})
	if err != nil {
		return err
	}
	defer statuses.Close()

	printing, ctx := errgroup.WithContext(ctx)
	// Owner: follow. End: the end of the stream, or of ctx, also by the other goroutine.
	printing.Go(func() error {
		return forEach(ctx, headers, func(t tip) error {
			id, err := t.id()
			if err == nil {
				lines.Printf("header %d, %v", t.Height, id)
			}
			return err
		})
	})
	// Owner: follow. End: the end of the stream, or of ctx, also by the other goroutine.
	printing.Go(func() error {
		return forEach(ctx, statuses, func(status *string) error {
			if status == nil {
				lines.Println("status: no transactions")
			} else {
				lines.Printf("status %q", *status)
			}
			return nil
		})
	})
	return printing.Wait()
}

// forEach calls f with each value of stream, until an error.
func forEach[T any](ctx context.Context, stream *rpcx.Stream[T], f func(T) error) error {
	for {
		value, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if err := f(value); err != nil {
			return err
		}
	}
}

// id returns the hash of the block of a tip that a server has sent.
func (t tip) id() (hash, error) {
	raw, err := hex.DecodeString(t.Hex)
	if err != nil || len(raw) != len(header{}) {
		return hash{}, fmt.Errorf("header %d has not %d bytes in hexadecimal", t.Height, len(header{}))
	}
	return sha256d(raw), nil
}
