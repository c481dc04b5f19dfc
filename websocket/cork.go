package websocket

import (
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// corked is the connection under a WebSocket. The WebSocket writes each message
// by itself; between cork and uncork these writes are held back, to go out in one.
type corked struct {
	conn  io.ReadWriteCloser
	heard atomic.Bool                      // something came; reset by who asks
	cut   atomic.Bool                      // nothing more will come
	rest  atomic.Pointer[io.LimitedReader] // what is read yet of conn; nil if there is no limit

	received atomic.Uint64
	// check is called before each read, until the connection is being closed; an error
	// is the result of the read. Nil if nobody checks.
	check   func() error
	closing atomic.Bool // only the peer's close frame is waited for
	deaf    bool        // and not even that is looked for; for who reads

	mu  sync.Mutex
	buf *[]byte // what is held back; nil if nothing is to be
	err error   // of the first write that failed
	// For sendAside, and guarded by mu.
	pending []byte     // control frames that it has not taken yet
	sending bool       // it runs
	sent    *sync.Cond // it has taken something, or has ended; nil before it first ran
}

// corkSize is how much is held back at most.
const corkSize = 32 << 10

var corkBuffers = sync.Pool{New: func() any {
	buf := make([]byte, 0, corkSize)
	return &buf
}}

func (c *corked) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = corkBuffers.Get().(*[]byte)
}

// uncork writes what was held back.
func (c *corked) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
	corkBuffers.Put(c.buf)
	c.buf = nil
	return c.err
}

func (c *corked) flush() {
	c.awaitAside(0)
	if len(*c.buf) > 0 && c.err == nil {
		_, c.err = c.conn.Write(*c.buf)
	}
	*c.buf = (*c.buf)[:0]
}

func (c *corked) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf != nil {
		if len(*c.buf)+len(p) > corkSize {
			c.flush()
		}
		if c.err == nil && len(p) <= corkSize {
			*c.buf = append(*c.buf, p...)
			return len(p), nil
		}
	}
	if c.buf == nil && isPingOrPong(p) {
		c.awaitAside(maxPending)
		if c.err == nil {
			c.leaveAside(p)
			n = len(p)
		}
		return n, c.err
	}
	c.awaitAside(0)
	if c.err == nil {
		n, c.err = c.conn.Write(p)
	}
	return n, c.err
}

// maxPending is how many bytes of control frames may be pending before a write waits.
const maxPending = 4 << 10

// isPingOrPong reports whether p is such a frame. Outside of cork and uncork the
// WebSocket writes control frames only, each in one write.
func isPingOrPong(p []byte) bool {
	return len(p) > 0 && (p[0] == 0x80|9 || p[0] == 0x80|10)
}

// leaveAside has sendAside write p. Who reads the connection answers pings, and must not
// wait for the peer. Two ends that ping each other at the same moment would both wait
// where a write waits for the other end's read, as in [net.Pipe]. Callers must hold c.mu.
func (c *corked) leaveAside(p []byte) {
	c.pending = append(c.pending, p...)
	if c.sending {
		return
	}
	if c.sent == nil {
		c.sent = sync.NewCond(&c.mu)
	}
	c.sending = true
	// Owner: c. End: nothing is pending, or the connection is closed.
	go c.sendAside()
}

// sendAside writes the control frames that are pending, and ends.
func (c *corked) sendAside() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) > 0 && c.err == nil {
		frames := c.pending
		c.pending = nil
		c.sent.Broadcast()
		c.mu.Unlock()
		_, err := c.conn.Write(frames)
		c.mu.Lock()
		if c.err == nil {
			c.err = err
		}
	}
	c.pending, c.sending = nil, false
	c.sent.Broadcast()
}

// awaitAside waits until sendAside has ended, or with most above 0 until fewer bytes are
// pending. Callers must hold c.mu, which is released meanwhile.
func (c *corked) awaitAside(most int) {
	for c.sending && (most == 0 || len(c.pending) >= most) && c.err == nil {
		c.sent.Wait()
	}
}

// bound has no more than n bytes read from now on, unless less is to be read already.
func (c *corked) bound(n int64) {
	c.rest.CompareAndSwap(nil, &io.LimitedReader{R: c.conn, N: n})
}

// yieldBytes is after how many bytes a reader lets others run. A peer that sends small
// frames without end keeps its reader from waiting for anything. The scheduler looks for
// connections that have become readable only now and then if no goroutine waits.
const yieldBytes = 16 << 10

func (c *corked) Read(p []byte) (int, error) {
	var r io.Reader = c.conn
	if rest := c.rest.Load(); rest != nil {
		r = rest
	}
	if !c.closing.Load() && c.check != nil {
		if err := c.check(); err != nil {
			return 0, err
		}
	} else if c.deaf {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	n, err := r.Read(p)
	if received := c.received.Add(uint64(n)); received/yieldBytes != (received-uint64(n))/yieldBytes {
		runtime.Gosched()
	}
	switch {
	case n > 0:
		err = nil // comes again, when more is asked for
		if !c.heard.Load() {
			c.heard.Store(true)
		}
	case err != nil:
		c.cut.Store(true)
	}
	return n, err
}

// Close does not wait for a write that is under way.
func (c *corked) Close() error { return c.conn.Close() }

// corkedConn is a net.Conn that is read and written through a corked.
type corkedConn struct {
	net.Conn
	*corked
}

func (c corkedConn) Read(p []byte) (int, error)  { return c.corked.Read(p) }
func (c corkedConn) Write(p []byte) (int, error) { return c.corked.Write(p) }
func (c corkedConn) Close() error                { return c.corked.Close() }
