package websocket

import (
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// corked is the connection under a WebSocket. The WebSocket writes each message by itself.
// Between cork and uncork, corked holds the writes back to send them together.
type corked struct {
	conn  io.ReadWriteCloser
	heard atomic.Bool                      // input has arrived; ping resets the flag
	cut   atomic.Bool                      // the input has ended
	rest  atomic.Pointer[io.LimitedReader] // limit of the remaining input; nil if unlimited

	received atomic.Uint64
	// check is called before each read, until the connection is closing. An error from
	// check becomes the error of the read. May be nil.
	check   func() error
	closing atomic.Bool // wait only for the peer's close frame
	deaf    bool        // do not even look for a close frame; reader only

	mu  channelLock
	buf *[]byte // held-back bytes; nil outside of cork and uncork
	err error   // first write error
	// For sendAside; guarded by mu.
	pending []byte     // control frames for sendAside
	sending bool       // sendAside is running
	sent    *sync.Cond // signals that pending or sending has changed; nil before the first sendAside
}

// newCorked returns the corked connection over conn.
func newCorked(conn io.ReadWriteCloser) *corked {
	return &corked{conn: conn, mu: make(channelLock, 1)}
}

// channelLock is a lock that is held during writes, and so for as long as the peer does not
// read. A bubble of testing/synctest sees a wait for a channel, and lets time pass; a wait
// for a [sync.Mutex] would stop the clock that ends the write.
type channelLock chan struct{}

func (l channelLock) Lock()   { l <- struct{}{} }
func (l channelLock) Unlock() { <-l }

// corkSize is the maximum number of held-back bytes.
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

// uncork writes the held-back bytes.
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

// isPingOrPong reports whether p is a ping or pong frame. Outside of cork and uncork, the
// WebSocket writes only control frames, each in a single write.
func isPingOrPong(p []byte) bool {
	return len(p) > 0 && (p[0] == 0x80|9 || p[0] == 0x80|10)
}

// leaveAside hands p to sendAside. The reading goroutine answers pings, and must not wait
// for the peer. On a connection such as [net.Pipe], a write waits for the peer's read. Two
// ends that ping each other at the same moment would then both wait. Callers must hold
// c.mu.
func (c *corked) leaveAside(p []byte) {
	c.pending = append(c.pending, p...)
	if c.sending {
		return
	}
	if c.sent == nil {
		c.sent = sync.NewCond(c.mu)
	}
	c.sending = true
	// Owner: c. End: nothing is pending, or the connection is closed.
	go c.sendAside()
}

// sendAside writes the pending control frames, and returns.
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

// awaitAside waits until sendAside has returned. If most is above 0, awaitAside waits until
// fewer than most bytes are pending. A write error ends the wait. Callers must hold c.mu,
// which is released while waiting.
func (c *corked) awaitAside(most int) {
	for c.sending && (most == 0 || len(c.pending) >= most) && c.err == nil {
		c.sent.Wait()
	}
}

// bound limits the remaining input to n bytes, unless a limit is set already.
func (c *corked) bound(n int64) {
	c.rest.CompareAndSwap(nil, &io.LimitedReader{R: c.conn, N: n})
}

// yieldBytes is how many bytes a reader reads between two yields. The reader of a peer that
// sends small frames endlessly never waits. If no goroutine waits, the scheduler seldom
// looks for connections that have become readable.
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
		err = nil // the next read returns the error again
		if !c.heard.Load() {
			c.heard.Store(true)
		}
	case err != nil:
		c.cut.Store(true)
	}
	return n, err
}

// Close does not wait for a running write.
func (c *corked) Close() error { return c.conn.Close() }

// corkedConn is a net.Conn whose reads, writes and Close go through corked.
type corkedConn struct {
	net.Conn
	*corked
}

func (c corkedConn) Read(p []byte) (int, error)  { return c.corked.Read(p) }
func (c corkedConn) Write(p []byte) (int, error) { return c.corked.Write(p) }
func (c corkedConn) Close() error                { return c.corked.Close() }
