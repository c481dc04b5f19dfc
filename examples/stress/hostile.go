package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx"
)

// classes lists the classes of hostile clients, each with the number of simultaneous
// clients. The rates are high enough to need the server's defences, but do not take every
// processor of a two-processor machine: the share of processors is outside the server's
// control.
var classes = []class{
	{name: "flood", count: 4, use: flood},
	{name: "garbage", count: 4, use: garbage},
	{name: "slow readers", count: 8, use: slowReader},
	{name: "half-open", count: 300, use: halfOpen},
	{name: "storm", count: 8, use: storm},
	{name: "batches", count: 2, use: batches},
	{name: "pipeliners", count: 2, use: pipeline},
	{name: "sleepers", count: 4, use: sleepAndRead},
}

// slowOnly lists the classes whose clients do nothing wrong: the server must answer each
// request.
var slowOnly = []string{"pipeliners", "sleepers"}

type class struct {
	name  string
	count int
	// use is the behaviour of a client on a connection. use returns when the client is
	// done, the server closes the connection, or the attack is over. Then the connection
	// is closed.
	use func(*client, net.Conn) error

	over  transport     // transport of the server; zero is TCP
	raw   bool          // use makes the transport's handshake, or no handshake
	again time.Duration // pause before a client connects again; 0 is 50 ms
	// serves makes the clients servers: the program under attack connects to the clients.
	serves bool
}

// order describes the clients to start.
type order struct {
	Addr    string   `json:"addr"`
	Classes []string `json:"classes"`
	Seed    uint64   `json:"seed"`
	// Rest is the time for which sleepers do not read.
	Rest time.Duration `json:"rest"`
}

// tally counts the actions of the clients of a class.
type tally struct {
	Connections int       `json:"connections"`
	Cut         int       `json:"cut"` // connections closed by the server
	Messages    int       `json:"messages"`
	Bytes       int       `json:"bytes"`
	Received    int64     `json:"received"` // bytes
	Refused     int       `json:"refused"`  // messages of pipeliners and sleepers
	Answered    quantiles `json:"answered"` // of the clients that wait for an answer
}

// campaign is an attack in progress.
type campaign struct {
	order
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	clients []*client
}

// runHostile is the process of the hostile clients. The parent gives orders until the
// parent ends.
func runHostile() {
	var c *campaign
	router := rpcx.NewRouter()
	router.Handle("begin", rpcx.Func(func(o order) (addr string, err error) {
		c, addr, err = begin(o)
		return addr, err
	}))
	router.Handle("cease", rpcx.Func(func() map[string]tally { return c.cease() }))
	<-control(router).Done()
}

// begin starts the clients of an order. The result has the address of the clients that
// serve, if any.
func begin(o order) (c *campaign, addr string, err error) {
	c = &campaign{order: o}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for _, name := range o.Classes {
		class, ok := findClass(name)
		if !ok {
			return nil, "", fmt.Errorf("no hostile clients %q", name)
		}
		if class.serves {
			if addr, err = c.serve(class); err != nil {
				return nil, "", err
			}
			continue
		}
		for i := range class.count {
			h := c.client(class, i)
			// Owner: the campaign. End: cease.
			c.running.Go(h.run)
		}
	}
	return c, addr, nil
}

// findClass returns the class with the given name.
func findClass(name string) (class, bool) {
	for _, class := range classes {
		if class.name == name {
			return class, true
		}
	}
	if a := findAttack(name); a != nil {
		return a.class, true
	}
	return class{}, false
}

// client returns a new client of the campaign.
func (c *campaign) client(class class, number int) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	random := rand.New(rand.NewPCG(c.Seed, uint64(len(c.clients))))
	h := &client{campaign: c, class: class, number: number, random: random}
	c.clients = append(c.clients, h)
	return h
}

// serve accepts connections for hostile servers until the campaign ends.
func (c *campaign) serve(class class) (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	context.AfterFunc(c.ctx, func() { l.Close() })
	// Owner: the campaign. End: cease.
	c.running.Go(func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			h := c.client(class, i)
			// Owner: the campaign. End: cease.
			c.running.Go(func() { h.handle(conn) })
		}
	})
	return "tcp://" + l.Addr().String(), nil
}

func (c *campaign) cease() map[string]tally {
	c.cancel()
	c.running.Wait()
	tallies := make(map[string]tally)
	times := make(map[string][]time.Duration)
	for _, h := range c.clients {
		t := tallies[h.class.name]
		t.Connections += h.Connections
		t.Cut += h.Cut
		t.Messages += h.Messages
		t.Bytes += h.Bytes
		t.Received += h.received.Load()
		t.Refused += h.Refused
		tallies[h.class.name] = t
		times[h.class.name] = append(times[h.class.name], h.times...)
	}
	for name, t := range tallies {
		t.Answered = newQuantiles(times[name])
		tallies[name] = t
	}
	return tallies
}

// client is a hostile client. A client uses the socket directly, because a session of
// this library does not misbehave.
type client struct {
	*campaign
	class  class
	number int // among the clients of the class
	random *rand.Rand
	tally
	received atomic.Int64    // bytes
	times    []time.Duration // until answers came
}

// run connects again and again.
func (h *client) run() {
	for h.pause(cmp.Or(h.class.again, 50*time.Millisecond)) {
		if conn, err := h.dial(); err == nil {
			h.handle(conn)
		}
	}
}

// dial connects to the server, on Linux from a separate subnet.
func (h *client) dial() (net.Conn, error) {
	var d net.Dialer
	if runtime.GOOS == "linux" {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 66, 0, 1)}
	}
	_, addr, _ := strings.Cut(h.Addr, "://")
	return d.DialContext(h.ctx, "tcp", addr)
}

// handle uses a connection, and closes the connection.
func (h *client) handle(conn net.Conn) {
	defer conn.Close()
	h.Connections++
	stop := context.AfterFunc(h.ctx, func() { conn.Close() })
	defer stop()
	var err error
	conn = &countedConn{conn.(*net.TCPConn), &h.received}
	if !h.class.raw {
		conn, err = h.class.over.handshake(conn)
	}
	if err == nil {
		err = h.class.use(h, conn)
	}
	if err != nil && h.ctx.Err() == nil {
		h.Cut++
	}
}

// countedConn counts received bytes.
type countedConn struct {
	*net.TCPConn
	received *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// WriteTo replaces WriteTo of the TCP connection, which would not count.
func (c *countedConn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

// pause waits for d on average, and reports whether the attack goes on.
func (h *client) pause(d time.Duration) bool {
	if d > 0 {
		d = d/2 + rand.N(d)
	}
	return sleep(h.ctx, d) == nil
}

// send sends text, which has n messages.
func (h *client) send(conn net.Conn, text string, n int) error {
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	h.Messages += n
	h.Bytes += len(text)
	return nil
}

// pour sends text, which has n messages, again and again, and discards the answers.
func (h *client) pour(conn net.Conn, text string, n int, interval time.Duration) error {
	done := make(chan struct{})
	// Owner: pour. End: the end of the connection.
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close() // ends the sending, too
	}()
	defer func() {
		conn.Close()
		<-done
	}()
	for h.pause(interval) {
		if err := h.send(conn, text, n); err != nil {
			return err
		}
	}
	return nil
}

// request returns a request as a line.
func request(method string, id int, params string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":[%s],"id":%d}`+"\n", method, params, id)
}

// flood sends 8,000 requests a second, and ignores the answers. Half of the clients ask
// for work of the processor, half for work that takes time.
func flood(h *client, conn net.Conn) error {
	line := request("echo", 1, `"flood"`)
	if h.number%2 == 0 {
		line = request("look", 1, "")
	}
	return h.pour(conn, strings.Repeat(line, 80), 80, 10*time.Millisecond)
}

// garbage sends 200 lines a second that are no JSON.
func garbage(h *client, conn net.Conn) error {
	return h.pour(conn, "this is no message\r\n", 1, 5*time.Millisecond)
}

// slowReader asks for 64 MiB and reads nothing.
func slowReader(h *client, conn net.Conn) error {
	_ = conn.(*countedConn).SetReadBuffer(4 << 10) // otherwise, the system would buffer many replies
	err := h.send(conn, strings.Repeat(request("blob", 1, ""), 1024), 1024)
	for err == nil && h.pause(time.Second) {
		// The message detects a closed connection.
		err = h.send(conn, `{"jsonrpc":"2.0","method":"sum"}`+"\n", 1)
	}
	return err
}

// halfOpen sends nothing, or half a message, and keeps the connection open.
func halfOpen(h *client, conn net.Conn) error {
	if h.number%2 == 0 {
		line := request("echo", 1, `"`+strings.Repeat("x", h.random.IntN(128<<10))+`"`)
		if err := h.send(conn, line[:len(line)/2], 0); err != nil {
			return err
		}
	}
	_, err := conn.Read(make([]byte, 1))
	return err
}

// storm sends a request, waits for the answer, and closes the connection, at random in
// order or with a reset.
func storm(h *client, conn net.Conn) error {
	began := time.Now()
	if err := h.send(conn, request("echo", 1, `"here I am"`), 1); err != nil {
		return err
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return err
	}
	h.times = append(h.times, time.Since(began))
	if h.random.IntN(2) == 0 {
		_ = conn.(*countedConn).SetLinger(0) // a reset
	}
	return nil
}

// batches sends about four batches a second, and waits for the answers. Batches of 10,000
// requests alternate with batches over the allowed length.
func batches(h *client, conn net.Conn) error {
	texts := []string{batch(10_000), batch(15_000)}
	answers := bufio.NewReader(conn)
	for i := 0; h.pause(250 * time.Millisecond); i++ {
		began := time.Now()
		if err := h.send(conn, texts[i%2], 1); err != nil {
			return err
		}
		for more := true; more; {
			var err error
			if _, more, err = answers.ReadLine(); err != nil {
				return err
			}
		}
		if i%2 == 0 {
			h.times = append(h.times, time.Since(began))
		}
	}
	return nil
}

// pipeline sends 20,000 requests at once, and meanwhile reads the answers at 200 kB a
// second.
func pipeline(h *client, conn net.Conn) error {
	const n = 20_000
	failed := make(chan error, 1)
	// Owner: pipeline. End: every request is sent, or the connection is closed.
	go func() { failed <- h.send(conn, strings.Repeat(request("echo", 1, `"in the pipe"`), n), n) }()
	err := h.read(conn, n, 100*time.Millisecond)
	if err != nil {
		conn.Close()
	}
	return cmp.Or(<-failed, err)
}

// sleepAndRead sends 1,000 requests, and reads nothing for a long time. Then sleepAndRead
// reads on.
func sleepAndRead(h *client, conn net.Conn) error {
	const n = 1000
	for {
		if err := h.send(conn, strings.Repeat(request("echo", 1, `"before I sleep"`), n), n); err != nil {
			return err
		}
		if err := sleep(h.ctx, h.Rest); err != nil {
			return err
		}
		if err := h.read(conn, n, 0); err != nil {
			return err
		}
	}
}

// read reads n answers, in pieces of about 20 kB at the given interval, and counts error
// answers.
func (h *client) read(conn net.Conn, n int, interval time.Duration) error {
	answers, size := bufio.NewReader(conn), 0
	for range n {
		line, err := answers.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.Contains(line, `"error"`) {
			h.Refused++
		}
		if size += len(line); size > 20_000 && interval > 0 {
			if size = 0; sleep(h.ctx, interval) != nil {
				return h.ctx.Err()
			}
		}
	}
	return nil
}

// batch returns a batch of n requests as a line.
func batch(n int) string {
	members := make([]string, n)
	for i := range members {
		members[i] = strings.TrimSpace(request("echo", i, `"b"`))
	}
	return "[" + strings.Join(members, ",") + "]\n"
}
