package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx"

	"golang.org/x/sync/errgroup"
)

// hubClients is the process of the clients. A client is a connection and a goroutine that
// reads lines: sessions of this library would need processor time that the server misses.
type hubClients struct {
	clients []*hubClient
	readers int32 // clients that always read
	reached *arrivals
	toldAt  net.Conn // tells the server what all readers have
	told    sync.Mutex
	paused  chan struct{} // closed when the slow clients go on
	ended   sync.WaitGroup
}

// hubClient is one client. Its goroutine owns the fields from last on, until the end.
type hubClient struct {
	conn   net.Conn
	policy rpcx.OverflowPolicy
	slow   bool
	pause  atomic.Pointer[chan struct{}] // the client reads no more until the channel is closed

	last    int  // number of the last value
	missing int  // values that did not come after last
	wrong   int  // values out of order, and notifications that are none
	end     bool // the notification of the end has come
	after   int  // values after the end
	err     error
}

// arrivals counts the readers that have a value, by its number.
type arrivals struct {
	mu    sync.Mutex
	count map[int]int32
	took  map[int]time.Duration // until the last reader
}

// runHubClients is the process of the clients, until the parent ends.
func runHubClients() {
	c := &hubClients{reached: &arrivals{count: make(map[int]int32), took: make(map[int]time.Duration)}}
	router := rpcx.NewRouter()
	router.Handle("connect", rpcx.Func(c.connect))
	router.Handle("pause", rpcx.Func(c.pause))
	router.Handle("reached", rpcx.Func(c.reachedSince))
	router.Handle("resume", rpcx.Func(c.resume))
	parent := control(router)
	<-parent.Done()
	for _, client := range c.clients {
		client.conn.Close()
	}
}

// connect connects and subscribes all clients. Every tenth is one of the slow.
func (c *hubClients) connect(ctx context.Context, addr string, n, slow int) (err error) {
	if c.toldAt, err = net.Dial("unix", addr); err != nil {
		return err
	}
	c.clients = make([]*hubClient, n)
	var dialling errgroup.Group
	dialling.SetLimit(50)
	step := n / max(slow, 1)
	for i := range n {
		client := &hubClient{policy: hubPolicies[i%len(hubPolicies)].policy}
		c.clients[i] = client
		// The slow are spread over all hubs.
		if client.slow = slow > 0 && (i/len(hubPolicies))%step == 0 && i/len(hubPolicies)/step < slow/len(hubPolicies); !client.slow {
			c.readers++
		}
		dialling.Go(func() error { return client.join(addr, i) })
	}
	if err := dialling.Wait(); err != nil {
		return err
	}
	for _, client := range c.clients {
		// Owner: the process. End: the connection ends.
		c.ended.Go(func() { c.read(client) })
	}
	return nil
}

// join connects the client and subscribes.
func (client *hubClient) join(addr string, i int) (err error) {
	if client.conn, err = net.Dial("unix", addr); err != nil {
		return err
	}
	if _, err = fmt.Fprintf(client.conn, `{"jsonrpc":"2.0","method":"join","params":[%d],"id":1}`+"\n", i); err != nil {
		return err
	}
	var reply [128]byte // nothing is published yet
	n, err := client.conn.Read(reply[:])
	if err == nil && !bytes.Contains(reply[:n], []byte("joined")) {
		err = fmt.Errorf("client %d could not subscribe: %s", i, reply[:n])
	}
	return err
}

// read reads the notifications of a client.
func (c *hubClients) read(client *hubClient) {
	lines := bufio.NewReaderSize(client.conn, 8<<10)
	for {
		if pause := client.pause.Load(); pause != nil {
			<-*pause
		}
		line, err := lines.ReadSlice('\n')
		if err != nil {
			client.err = err
			return
		}
		now := time.Now().UnixNano()
		n, at := number(line, `"n":`), number(line, `"at":`)
		switch {
		case n < 0 && bytes.Contains(line, []byte(`"error":`)):
			client.end = true
			continue
		case n <= int64(client.last):
			client.wrong++
			continue
		case client.end:
			client.after++
			continue
		}
		client.missing += int(n) - client.last - 1
		client.last = int(n)
		if !client.slow && c.reached.add(int(n), c.readers, time.Duration(now-at)) {
			c.tell(int(n))
		}
	}
}

// number returns the number after key in line, or -1.
func number(line []byte, key string) int64 {
	_, rest, ok := bytes.Cut(line, []byte(key))
	end := 0
	for end < len(rest) && rest[end]-'0' <= 9 {
		end++
	}
	if n, err := strconv.ParseInt(string(rest[:end]), 10, 64); ok && err == nil {
		return n
	}
	return -1
}

// add counts a reader that has value n, and reports whether the reader is the last.
func (a *arrivals) add(n int, readers int32, took time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count[n]++
	if a.count[n] < readers {
		return false
	}
	delete(a.count, n)
	a.took[n] = took
	return true
}

// tell tells the server that all readers have value n.
func (c *hubClients) tell(n int) {
	c.told.Lock()
	defer c.told.Unlock()
	_, _ = fmt.Fprintf(c.toldAt, `{"jsonrpc":"2.0","method":"arrived","params":[%d]}`+"\n", n) // the server notices
}

// pause makes the slow clients stop reading.
func (c *hubClients) pause() {
	c.paused = make(chan struct{})
	for _, client := range c.clients {
		if client.slow {
			client.pause.Store(&c.paused)
		}
	}
}

// reachedSince waits until the readers have value last, for at most half a minute, and
// returns the results from value first on.
func (c *hubClients) reachedSince(first, last int) (r hubReached) {
	a := c.reached
	for range 300 {
		a.mu.Lock()
		_, done := a.took[last]
		a.mu.Unlock()
		if done {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, count := range a.count {
		if n >= first && n <= last {
			r.Missing += int(c.readers - count)
		}
	}
	for n, took := range a.took {
		if n >= first {
			r.Took = append(r.Took, took)
		}
	}
	return r
}

// hubOutcome is what the slow clients have received, by their policies.
type hubOutcome struct {
	Readers int           `json:"readers"` // that have lost a value, or the connection
	Slow    []slowOutcome `json:"slow"`    // by policy
}

// slowOutcome is what the slow clients at one hub have received.
type slowOutcome struct {
	Policy    string `json:"policy"`
	Clients   int    `json:"clients"`
	Missing   int    `json:"missing"`   // values, together
	Wrong     int    `json:"wrong"`     // values out of order, or after the end
	Gaps      int    `json:"gaps"`      // clients with missing values
	Last      int    `json:"last"`      // clients that have the last value
	Ends      int    `json:"ends"`      // clients that have been told of the end
	Connected int    `json:"connected"` // clients whose connection is open
}

// resume makes the slow clients read what is left for them, up to value last.
func (c *hubClients) resume(last int) hubOutcome {
	close(c.paused)
	time.Sleep(time.Second + time.Duration(len(c.clients))*time.Millisecond/2) // they catch up
	for _, client := range c.clients {
		_ = client.conn.SetReadDeadline(time.Now())
	}
	c.ended.Wait()
	var o hubOutcome
	for _, p := range hubPolicies {
		o.Slow = append(o.Slow, slowOutcome{Policy: p.name})
	}
	for i, client := range c.clients {
		if !client.slow {
			if client.missing > 0 || client.wrong > 0 || client.last != last || !isTimeout(client.err) {
				o.Readers++
			}
			continue
		}
		s := &o.Slow[i%len(hubPolicies)]
		s.Clients++
		s.Missing += client.missing
		s.Wrong += client.wrong + client.after
		count := func(n *int, is bool) {
			if is {
				*n++
			}
		}
		count(&s.Gaps, client.missing > 0)
		count(&s.Last, client.last == last)
		count(&s.Ends, client.end)
		count(&s.Connected, isTimeout(client.err))
	}
	return o
}

// isTimeout reports whether err is that of the deadline with which resume ends the reading.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// judge returns what is not as it should be, for so many slow clients.
func (o hubOutcome) judge(slow int) (problems []string) {
	if o.Readers > 0 {
		problems = append(problems, fmt.Sprintf("%d readers have lost values or the connection", o.Readers))
	}
	for i, s := range o.Slow {
		n := slow / len(hubPolicies)
		want := slowOutcome{Policy: s.Policy, Clients: n, Missing: s.Missing}
		switch hubPolicies[i].policy {
		case rpcx.DropOldest, rpcx.KeepLatest:
			want.Gaps, want.Last, want.Connected = n, n, n
		case rpcx.EndStream:
			want.Ends, want.Connected, want.Missing = n, n, 0
		case rpcx.EndSession:
			want.Missing = 0
		}
		if s != want {
			problems = append(problems, fmt.Sprintf("slow clients: %+v, want %+v", s, want))
		}
	}
	return problems
}

// print prints what the slow clients have received.
func (o hubOutcome) print(w io.Writer) {
	fmt.Fprintf(w, "\n%12s  %7s  %14s  %9s  %14s  %11s  %9s\n", "slow clients", "clients", "missing values", "with gaps", "with last value", "told of end", "connected")
	for _, s := range o.Slow {
		fmt.Fprintf(w, "%12s  %7d  %14d  %9d  %15d  %11d  %9d\n", s.Policy, s.Clients, s.Missing, s.Gaps, s.Last, s.Ends, s.Connected)
	}
}
