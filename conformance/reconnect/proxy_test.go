package reconnect

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy is a TCP proxy that disturbs what it passes on.
type proxy struct {
	addr    string // for clients
	backend string // of the server
	delay   atomic.Int64
	faults  atomic.Int64 // faults that have taken effect
	pumps   sync.WaitGroup

	mu    sync.Mutex
	links map[*link]struct{}
}

// link is a connection of a client, and the one to the server.
type link struct {
	proxy             *proxy
	client, server    *net.TCPConn
	requests, replies flow
	gone              chan struct{} // closed by cut
	once              sync.Once
}

// flow is one direction of a link.
type flow struct{ fault atomic.Int32 }

// fault is what happens to the next bytes of a flow.
type fault int32

const (
	none       fault = iota
	swallow          // the bytes are read and dropped
	stall            // nothing is read any more, and the connection stays open
	cutBetween       // the link is cut instead of passing the bytes on
	cutWithin        // the link is cut in the middle of a message
	finish           // the receiver sees an end of the input, and the other direction goes on
)

// newProxy returns a proxy for a server that listens at backend, now or later.
func newProxy(t *testing.T, backend string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: "tcp://" + l.Addr().String(), backend: backend, links: make(map[*link]struct{})}
	// Owner: the proxy. End: the listener is closed.
	p.pumps.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.connect(conn.(*net.TCPConn))
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.each(func(l *link) { l.cut(true) })
		p.pumps.Wait()
	})
	return p
}

// connect joins a client to the server. If no server listens, the client's connection ends.
func (p *proxy) connect(client *net.TCPConn) {
	conn, err := net.Dial("tcp", p.backend)
	if err != nil {
		client.Close()
		return
	}
	l := &link{proxy: p, client: client, server: conn.(*net.TCPConn), gone: make(chan struct{})}
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.mu.Unlock()
	// Owner: the proxy. End: the link is cut, by the proxy or by one of its ends.
	p.pumps.Go(func() { l.pump(l.server, l.client, &l.requests) })
	// Owner and end: as above.
	p.pumps.Go(func() { l.pump(l.client, l.server, &l.replies) })
}

// each calls f for the present links.
func (p *proxy) each(f func(*link)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		f(l)
	}
}

// cut ends the link, with a reset or in order.
func (l *link) cut(reset bool) {
	l.once.Do(func() {
		if reset {
			_ = l.client.SetLinger(0)
			_ = l.server.SetLinger(0)
		}
		l.client.Close()
		l.server.Close()
		close(l.gone)
	})
}

// pump passes on what src sends, until the link is cut.
func (l *link) pump(dst, src *net.TCPConn, f *flow) {
	defer func() {
		l.cut(false)
		l.proxy.mu.Lock()
		delete(l.proxy.links, l)
		l.proxy.mu.Unlock()
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		what := fault(f.fault.Load())
		if what != none {
			l.proxy.faults.Add(1)
		}
		switch what {
		case swallow:
			continue
		case stall:
			<-l.gone
			return
		case cutBetween:
			l.cut(rand.N(2) == 0)
			return
		case cutWithin:
			if part := withinMessage(buf[:n]); part != nil {
				_, _ = dst.Write(part)
				l.cut(rand.N(2) == 0)
				return
			}
		case finish:
			_ = dst.CloseWrite()
			f.fault.Store(int32(swallow))
			continue
		}
		if delay := time.Duration(l.proxy.delay.Load()); delay > 0 {
			time.Sleep(delay) // of the net
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

// withinMessage returns a part of the messages in b that ends within a message, or nil if none
// was found.
func withinMessage(b []byte) []byte {
	for range 10 {
		if n := rand.N(len(b)); n > 0 && b[n-1] != '\n' {
			return b[:n]
		}
	}
	return nil
}
