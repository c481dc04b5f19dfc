package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"

	"github.com/coder/websocket"
)

const (
	closeWait   = time.Second // for the peer's answer to our close frame
	firstBuffer = 512         // to read into
	largeBuffer = 64 << 10    // beyond is given back
	partStep    = 64 << 10    // of what comes in is told to the session
	fragment    = 32 << 10    // of a message: what is sent and read at a time
	mostDropped = 16 << 20    // of what a peer still sends, until it answers a close frame
	maxDropped  = 64 << 10    // of what a peer still sends that cost too much
)

// conn is a WebSocket as an [rpcx.PartReader]. Contexts that end are not given to
// the WebSocket, for each would cost a goroutine: what blocks is ended by closing
// the connection.
type conn struct {
	ws      *websocket.Conn
	out     *corked
	under   net.Conn      // for the session to show
	request *http.Request // that it was asked for with; nil if we asked
	maxSize int

	buf      []byte
	part     func(size int) error // tells the session of a part
	rest     io.Reader            // of a message that is dropped; nil if there is none
	reading  atomic.Bool          // the session reads; otherwise it pauses, or is about to read
	written  func()               // tells the session of a part written; nil if it need not be
	messages uint64               // bytes of messages received
	told     uint64               // what Received was when part was called last
	size     int                  // what it was called with, less kept
	kept     int                  // bytes of request
	begun    bool                 // ReadMessage was called
	control  *controlFrames       // the peer's
	ended    atomic.Bool          // there is nothing more to read, and nobody to tell
	cause    error                // why that is
	over     chan struct{}        // closed when cause is known
	writing  atomic.Bool

	interval time.Duration // of pings
	pinging  sync.Mutex    // held while a ping is under way
	silent   bool          // one was not answered; guarded by pinging
	mu       sync.Mutex
	pinger   *time.Timer // nil if there are no pings, or no more
	verdict  *verdict    // on what the peer has sent; nil if that was good
	chosen   *closing    // by SetCloseCode; nil if nobody has
}

func newConn(ws *websocket.Conn, out *corked, under net.Conn, control *controlFrames, config Config) *conn {
	ws.SetReadLimit(-1) // ours is another, and lets what is queued be written
	c := &conn{
		ws: ws, out: out, under: under, maxSize: config.maxSize(), interval: config.pingInterval(),
		over: make(chan struct{}), control: control,
	}
	out.check = c.check
	if c.interval > 0 {
		c.mu.Lock() // ping may run at once
		defer c.mu.Unlock()
		c.pinger = time.AfterFunc(c.interval, c.ping)
	}
	return c
}

// NetConn returns the connection under the WebSocket.
func (c *conn) NetConn() net.Conn { return c.under }

// ReadMessage implements [rpcx.MessageConn].
func (c *conn) ReadMessage() ([]byte, error) {
	c.reading.Store(true)
	msg, err := c.read()
	c.reading.Store(false)
	if err == nil {
		return msg, nil
	}
	if frame, ok := errors.AsType[*rpcx.FrameError](err); ok && frame.Recoverable {
		return nil, err
	}
	c.mu.Lock()
	verdict := c.verdict
	c.mu.Unlock()
	if verdict != nil {
		err = verdict.err
	} else {
		c.ended.Store(true)
		_ = c.ws.CloseNow() // which ends a ping
		err = c.reason(err)
	}
	c.cause = err
	c.buf, c.rest = nil, nil
	close(c.over)
	return nil, err
}

func (c *conn) read() ([]byte, error) {
	if !c.begun {
		c.begun = true
		if c.kept > 0 {
			if err := c.tell(0); err != nil {
				return nil, c.refuse(websocket.StatusTryAgainLater, "no room for the request", err)
			}
		}
	}
	if err := c.drop(); err != nil {
		return nil, err
	}
	if cap(c.buf) > largeBuffer { // not to be held until the next message comes
		c.buf = nil
		_ = c.tell(0) // asks for nothing
	}
	kind, r, err := c.ws.Reader(context.Background())
	if err != nil {
		return nil, err
	}
	if c.buf == nil {
		c.buf = make([]byte, 0, firstBuffer)
	}
	// The buffer grows by what has arrived, not by what a frame announces.
	buf := c.buf[:0]
	for {
		// The WebSocket waits for all of what it is asked for.
		n, err := r.Read(buf[len(buf):min(len(buf)+fragment, cap(buf))])
		c.messages += uint64(n)
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > c.maxSize && (err != nil || len(buf) >= rpcx.StartSize):
			if c.rest = r; err == io.EOF {
				c.rest = nil
			}
			return nil, &rpcx.FrameError{
				Message:     "dropping message " + bounded.Over(c.maxSize, "bytes", c.MaxMessageField()),
				Recoverable: true,
				TooLarge:    &rpcx.SizeError{Limit: c.maxSize, Field: c.MaxMessageField()},
				Start:       bytes.Clone(buf[:min(len(buf), rpcx.StartSize)]),
			}
		case err == io.EOF && c.out.cut.Load():
			// The WebSocket takes the end of the connection between two reads for that
			// of the message, which needs nothing more from the connection.
			return nil, io.ErrUnexpectedEOF
		case err == io.EOF && kind == websocket.MessageText && !utf8.Valid(buf):
			return nil, c.refuse(websocket.StatusInvalidFramePayloadData, "text message is no UTF-8",
				&rpcx.FrameError{Message: "text message is no UTF-8"})
		case err == io.EOF:
			return buf, nil
		case err != nil:
			return nil, err
		}
		size := cap(buf)
		if len(buf) == size {
			size *= 2
		}
		if err := c.tell(held(size)); err != nil {
			return nil, c.refuse(websocket.StatusTryAgainLater, "no room for a message of this size", err)
		}
		if size > cap(buf) {
			buf = append(make([]byte, 0, size), buf...)
			c.buf = buf
		}
	}
}

// drop reads what is left of a message that is dropped.
func (c *conn) drop() error {
	for c.rest != nil {
		n, err := c.rest.Read(c.buf[:min(fragment, cap(c.buf))])
		c.messages += uint64(n)
		if err == io.EOF {
			c.rest = nil
		} else if err != nil {
			return err
		}
		if err := c.tell(held(cap(c.buf))); err != nil {
			return c.refuse(websocket.StatusTryAgainLater, "no room for a message of this size", err)
		}
	}
	return nil
}

// discard bounds what is read of the connection from now on. What the peer has under
// way is dropped until it has answered: to close a connection with unread bytes could
// lose it the code, and our last messages.
// A peer that cost too much may send less.
func (c *conn) discard(cause error) {
	if _, ok := errors.AsType[*rpcx.CostError](cause); ok {
		c.out.bound(maxDropped)
		return
	}
	c.out.bound(mostDropped)
}

// refuse returns err, with which ReadMessage ends, and notes how the peer is told of it.
func (c *conn) refuse(code websocket.StatusCode, reason string, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verdict = &verdict{err, closing{code, reason}}
	return err
}

// held is what a buffer counts for.
func held(size int) int {
	if size <= largeBuffer {
		return 0
	}
	return size
}

// tell tells the session of a part of a message, for which a buffer of size bytes is held.
func (c *conn) tell(size int) error {
	c.size, c.told = size, c.Received()
	return c.part(c.kept + size)
}

// check tells the session of what has come in beside messages, and returns an error if
// the peer has sent more control frames than it may. It is called by who reads.
func (c *conn) check() error {
	if c.control.exceeded {
		c.out.deaf = true
		return c.refuse(websocket.StatusPolicyViolation, "too many control frames", &rpcx.FrameError{
			Message: bounded.Over(c.control.rate, "control frames a second", "websocket.Config.ControlFrames"),
		})
	}
	if !c.begun || c.Received()-c.told < partStep {
		return nil
	}
	if err := c.tell(c.size); err != nil {
		return c.refuse(websocket.StatusTryAgainLater, "no room", err)
	}
	return nil
}

// Received implements [rpcx.PartReader]. What a compressed message is for counts, where
// that is more than what has come over the connection.
func (c *conn) Received() uint64 { return max(c.out.received.Load(), c.messages) }

// OnPart implements [rpcx.PartReader].
func (c *conn) OnPart(part func(size int) error) { c.part = part }

// MaxMessage implements [rpcx.SizeLimiter].
func (c *conn) MaxMessage() int { return c.maxSize }

// MaxMessageField returns the name of the field that sets the limit.
func (c *conn) MaxMessageField() string { return "websocket.Config.MaxSize" }

// OnWritten implements [rpcx.PartWriter].
func (c *conn) OnWritten(written func()) { c.written = written }

// reason says what an error of the WebSocket means for the session.
func (c *conn) reason(err error) error {
	c.pinging.Lock()
	defer c.pinging.Unlock()
	closed, ok := errors.AsType[websocket.CloseError](err)
	switch {
	case c.silent:
		return ErrNoPong
	case ok && (closed.Code == websocket.StatusNoStatusRcvd ||
		closed.Code == websocket.StatusNormalClosure && closed.Reason == ""):
		return io.EOF
	case ok:
		return &CloseError{int(closed.Code), closed.Reason}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF // no close frame came before
	}
	return err
}

// WriteMessages implements [rpcx.MessageConn].
func (c *conn) WriteMessages(msgs [][]byte) error {
	c.writing.Store(true)
	defer c.writing.Store(false)
	c.out.cork()
	var err error
	for _, msg := range msgs {
		kind := websocket.MessageBinary
		if utf8.Valid(msg) {
			kind = websocket.MessageText
		}
		if err = c.write(kind, msg); err != nil {
			break
		}
	}
	if flushed := c.out.uncork(); err == nil {
		err = flushed
	}
	if errors.Is(err, net.ErrClosed) {
		// The peer has closed it, or is silent: the reader is about to know.
		patience := time.NewTimer(closeWait)
		defer patience.Stop()
		select {
		case <-c.over:
			err = c.cause
		case <-patience.C:
		}
	}
	return err
}

// write writes a message; a large one in fragments. Between them the peer's pings
// are answered: the WebSocket gives up an answer, and with it the connection, that
// has to wait for 5 s.
func (c *conn) write(kind websocket.MessageType, msg []byte) error {
	if len(msg) <= fragment {
		return c.ws.Write(context.Background(), kind, msg)
	}
	w, err := c.ws.Writer(context.Background(), kind)
	for err == nil && len(msg) > 0 {
		n := min(len(msg), fragment)
		_, err = w.Write(msg[:n])
		if msg = msg[n:]; err == nil && len(msg) > 0 && c.written != nil {
			c.written()
		}
	}
	if err == nil {
		err = w.Close()
	}
	return err
}

// Close implements [rpcx.MessageConn].
func (c *conn) Close() error { return c.CloseWithError(rpcx.ErrClosed) }

// CloseWithError implements [rpcx.CloserWithError]. If the connection is at rest the
// peer is told why, and has a second for its answer.
func (c *conn) CloseWithError(cause error) error {
	c.mu.Lock()
	if c.pinger != nil {
		c.pinger.Stop()
		c.pinger = nil
	}
	how := c.closing(cause)
	c.mu.Unlock()
	if c.writing.Load() || c.ended.Load() {
		err := c.out.Close()
		_ = c.ws.CloseNow()
		return err
	}
	c.discard(cause)
	c.out.closing.Store(true)
	impatient := time.AfterFunc(closeWait, func() { _ = c.out.Close() })
	defer impatient.Stop()
	return c.ws.Close(how.code, how.reason)
}

// ping makes sure that the peer is there if nothing has been heard from it. It is
// called by the timer, and ends with the answer or the connection. A peer that is
// being written to may be busy reading; Limits.SendTimeout is for that. While the
// session does not read, nothing can be heard.
func (c *conn) ping() {
	if !c.out.heard.Swap(false) && !c.writing.Load() && c.reading.Load() && !c.answered() {
		_ = c.out.Close()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pinger != nil {
		c.pinger.Reset(c.interval)
	}
}

// answered sends a ping and waits for the answer.
func (c *conn) answered() bool {
	c.pinging.Lock()
	defer c.pinging.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), c.interval)
	defer cancel()
	err := c.ws.Ping(ctx)
	if c.out.heard.Load() {
		return true // the answer is behind what was heard, where reading has paused
	}
	// Any other error is that of a connection that was closed meanwhile.
	c.silent = errors.Is(err, context.DeadlineExceeded)
	return err == nil
}
