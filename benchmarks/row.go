package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Burst is how many notifications are sent before the row waits for them to
// arrive.
const Burst = 100

// A Row is one kind of work.
type Row struct {
	Name    string // in benchmark names and flags
	Title   string // in tables
	Conns   int    // connections
	Callers int    // goroutines that call, spread evenly over the connections
	Size    int    // of the echoed string in bytes, 0 for a short one
	Apart   bool   // the server is in another process
	Members int    // of a batch, 0 for a row without batches
	op      func(ctx context.Context, c *caller) error
}

// Rows lists all rows in the order of the tables. One operation is one echo,
// except that it is the whole batch, or the burst of [Burst], where the title
// says so.
var Rows = []Row{
	{Name: "One", Title: "one at a time", Conns: 1, Callers: 1, op: echo},
	{Name: "OneApart", Title: "one at a time, two processes", Conns: 1, Callers: 1, Apart: true, op: echo},
	{Name: "InFlight16", Title: "16 in flight", Conns: 1, Callers: 16, op: echo},
	{Name: "InFlight128", Title: "128 in flight", Conns: 1, Callers: 128, op: echo},
	{Name: "InFlight1024", Title: "1,024 in flight", Conns: 1, Callers: 1024, op: echo},
	{Name: "Batch10", Title: "batch of 10", Conns: 1, Callers: 1, Members: 10, op: batch},
	{Name: "Batch100", Title: "batch of 100", Conns: 1, Callers: 1, Members: 100, op: batch},
	{Name: "Batch10000", Title: "batch of 10,000", Conns: 1, Callers: 1, Members: 10000, op: batch},
	{Name: "Notify100", Title: "100 notifications", Conns: 1, Callers: 1, op: notify},
	{Name: "Echo1kB", Title: "1 kB echo", Conns: 1, Callers: 1, Size: 1 << 10, op: echo},
	{Name: "Echo8kB", Title: "8 kB echo", Conns: 1, Callers: 1, Size: 8 << 10, op: echo},
	{Name: "Echo64kB", Title: "64 kB echo", Conns: 1, Callers: 1, Size: 64 << 10, op: echo},
	{Name: "Echo1MB", Title: "1 MB echo", Conns: 1, Callers: 1, Size: 1 << 20, op: echo},
	{Name: "Conns200", Title: "200 connections", Conns: 200, Callers: 200, op: echo},
}

// FindRows returns the rows with the given names, separated by commas, or all
// of them if names is empty.
func FindRows(names string) ([]Row, error) {
	return find(Rows, names, func(r Row) string { return r.Name })
}

// caller is what one calling goroutine has. Each has texts of its own, so that
// a reply that went to the wrong call is noticed.
type caller struct {
	client  Client
	in, out []string
	arrived <-chan struct{}
}

// newCaller returns caller number i of row.
func newCaller(client Client, i int, row Row) caller {
	texts := max(1, row.Members)
	c := caller{client: client, in: make([]string, texts), out: make([]string, texts)}
	for j := range c.in {
		c.in[j] = fmt.Sprintf("caller %d, text %d", i, j)
	}
	if row.Size > 0 {
		c.in[0] = strings.Repeat("0123456789abcdef", row.Size/16)
	}
	return c
}

// can reports whether the client has what row needs.
func (c *caller) can(row Row) bool {
	switch {
	case row.Members > 0:
		_, ok := c.client.(Batcher)
		return ok
	case row.Name == "Notify100":
		_, ok := c.client.(Notifier)
		return ok
	}
	return true
}

// echo makes one call.
func echo(ctx context.Context, c *caller) error {
	got, err := c.client.Echo(ctx, c.in[0])
	if err != nil {
		return err
	}
	return same(got, c.in[0])
}

// batch sends one batch.
func batch(ctx context.Context, c *caller) error {
	if err := c.client.(Batcher).Batch(ctx, c.in, c.out); err != nil {
		return err
	}
	for i, got := range c.out {
		if err := same(got, c.in[i]); err != nil {
			return err
		}
		c.out[i] = ""
	}
	return nil
}

// notify sends a burst of notifications and waits until all have been handled.
// Unbounded bursts would measure how much a server buffers before it drops.
func notify(ctx context.Context, c *caller) error {
	for range Burst {
		if err := c.client.(Notifier).Notify(ctx); err != nil {
			return err
		}
	}
	<-c.arrived
	return nil
}

func same(got, want string) error {
	if got != want {
		return fmt.Errorf("sent %.40q, got %.40q", want, got)
	}
	return nil
}

// A Bench is a row set up for a peer: a server, and clients connected to it.
type Bench struct {
	server  Server
	row     Row
	callers []caller
	clients []Client
}

// Open starts peer's server and connects as many clients as row wants. The
// error is [errors.ErrUnsupported] if the peer has nothing to do row with.
func Open(ctx context.Context, peer Peer, row Row) (_ *Bench, err error) {
	var handled atomic.Int64
	arrived := make(chan struct{}, 1)
	load := Load{
		Callers: row.Callers / row.Conns,
		Size:    row.Size,
		Notified: func() {
			if handled.Add(1)%Burst == 0 {
				arrived <- struct{}{}
			}
		},
	}
	start := peer.Start
	if row.Apart {
		start = func(load Load) (Server, error) { return startApart(peer, load) }
	}
	server, err := start(load)
	if err != nil {
		return nil, err
	}
	b := &Bench{server: server, row: row}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	for range row.Conns {
		client, err := peer.Dial(ctx, server.Addr().String(), load)
		if err != nil {
			return nil, err
		}
		b.clients = append(b.clients, client)
	}
	for i := range row.Callers {
		c := newCaller(b.clients[i%row.Conns], i, row)
		c.arrived = arrived
		b.callers = append(b.callers, c)
	}
	if !b.callers[0].can(row) {
		return nil, errors.ErrUnsupported
	}
	return b, nil
}

// Run performs n operations, and returns when all are done. A single caller is
// the calling goroutine; otherwise it starts one goroutine for each caller.
func (b *Bench) Run(ctx context.Context, n int) error {
	if len(b.callers) == 1 {
		for range n {
			if err := b.row.op(ctx, &b.callers[0]); err != nil {
				return err
			}
		}
		return nil
	}
	var left atomic.Int64
	left.Store(int64(n))
	var running errgroup.Group
	for i := range b.callers {
		running.Go(func() error { // ends when no operations are left
			for left.Add(-1) >= 0 {
				if err := b.row.op(ctx, &b.callers[i]); err != nil {
					left.Store(0)
					return err
				}
			}
			return nil
		})
	}
	return running.Wait()
}

// Close closes the clients, then the server.
func (b *Bench) Close() error {
	var errs []error
	for _, c := range b.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, b.server.Close())...)
}
