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
	"example.com/rpcx/internal/buffers"

	"github.com/coder/websocket"
)

const (
	closeWait   = time.Second // wait for the peer's answer to our close frame
	firstBuffer = 512         // initial size of the read buffer
	readBuffer  = 8 << 10     // larger buffers are counted, and given back
	partStep    = 64 << 10    // input bytes between two calls of onPart
	fragment    = 32 << 10    // bytes of a message to write or read at a time
	mostDropped = 16 << 20    // input bytes to drop until the peer answers a close frame
	maxDropped  = 64 << 10    // the same, for a peer that cost too much
)

// conn is a WebSocket as an [rpcx.PartReader]. The WebSocket never receives a context that
// ends, because each would cost a goroutine. Closing the connection ends blocked operations
// instead.
type conn struct {
	ws      *websocket.Conn
	out     *corked
	under   net.Conn      // result of NetConn
	request *http.Request // kept HTTP request; nil for a client
	maxSize int

	buf           []byte
	onPart        func(size int) error // callback of OnPart
	rest          io.Reader            // remainder of a message being dropped; nil if there is no such message
	reading       atomic.Bool          // ReadMessage is running; otherwise reading has paused, or is about to start
	written       func()               // callback of OnWritten; may be nil
	messages      uint64               // bytes of messages received
	reportedBytes uint64               // Received at the last call of onPart
	reportedSize  int                  // size passed to onPart last, without kept
	kept          int                  // bytes of request
	begun         bool                 // ReadMessage was called
	control       *controlFrames       // the peer's control frames
	ended         atomic.Bool          // the input has ended, and the peer cannot be notified
	cause         error                // reason for the end of reading
	over          chan struct{}        // closed when cause is set
	writing       atomic.Bool

	interval time.Duration // of pings
	pinging  sync.Mutex    // held during a ping
	silent   bool          // a ping was not answered; guarded by pinging
	mu       sync.Mutex
	pinger   *time.Timer // nil without pings, or after the close
	verdict  *verdict    // set after faulty input, otherwise nil
	chosen   *closing    // set by SetCloseCode, otherwise nil
}

func newConn(ws *websocket.Conn, out *corked, under net.Conn, control *controlFrames, config Config) *conn {
	ws.SetReadLimit(-1) // our own limit lets queued messages be written
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
		_ = c.ws.CloseNow() // ends a ping
		err = c.reason(err)
	}
	c.cause = err
	c.giveBuffer()
	c.rest = nil
	close(c.over)
	return nil, err
}

func (c *conn) read() ([]byte, error) {
	if !c.begun {
		c.begun = true
		if c.kept > 0 {
			if err := c.reportProgress(0); err != nil {
				return nil, c.refuse(websocket.StatusTryAgainLater, "no room for the request", err)
			}
		}
	}
	if err := c.discardMessage(); err != nil {
		return nil, err
	}
	if cap(c.buf) > readBuffer { // do not hold a large buffer between messages
		c.giveBuffer()
		_ = c.reportProgress(0) // requests no memory
	}
	kind, r, err := c.ws.Reader(context.Background())
	if err != nil {
		return nil, err
	}
	if c.buf == nil {
		c.buf = make([]byte, 0, firstBuffer)
	}
	// The buffer grows by received bytes, not by an announced size.
	buf := c.buf[:0]
	for {
		// The WebSocket waits until the given slice is full.
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
			// If the connection ends between two reads, the WebSocket reports the end of
			// the message. The real end of a message needs no read of the connection, so
			// cut is unset.
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
		if err := c.reportProgress(held(size)); err != nil {
			return nil, c.refuse(websocket.StatusTryAgainLater, "no room for a message of this size", err)
		}
		if size > cap(buf) {
			larger := takeBuffer(size)
			buf = append(larger, buf...)
			c.giveBuffer()
			c.buf = buf
		}
	}
}

// discardMessage reads the remainder of a dropped message.
func (c *conn) discardMessage() error {
	for c.rest != nil {
		n, err := c.rest.Read(c.buf[:min(fragment, cap(c.buf))])
		c.messages += uint64(n)
		if err == io.EOF {
			c.rest = nil
		} else if err != nil {
			return err
		}
		if err := c.reportProgress(held(cap(c.buf))); err != nil {
			return c.refuse(websocket.StatusTryAgainLater, "no room for a message of this size", err)
		}
	}
	return nil
}

// discard bounds the remaining input of the connection. Until the peer answers the close
// frame, input is read and dropped. Closing a connection with unread bytes could lose the
// close code and our last messages. A peer that cost too much may send less.
func (c *conn) discard(cause error) {
	if _, ok := errors.AsType[*rpcx.CostError](cause); ok {
		c.out.bound(maxDropped)
		return
	}
	c.out.bound(mostDropped)
}

// refuse sets the close frame for the peer, and returns err, the final error of
// ReadMessage.
func (c *conn) refuse(code websocket.StatusCode, reason string, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verdict = &verdict{err, closing{code, reason}}
	return err
}

// takeBuffer returns an empty buffer with the given capacity, a power of two.
func takeBuffer(size int) []byte {
	if size <= readBuffer {
		return make([]byte, 0, size)
	}
	return buffers.Get(size)[:0]
}

// giveBuffer gives back the read buffer.
func (c *conn) giveBuffer() {
	if size := cap(c.buf); size > readBuffer {
		buffers.Put(c.buf[:size])
	}
	c.buf = nil
}

// held returns how many bytes a buffer of the given size counts for.
func held(size int) int {
	if size <= readBuffer {
		return 0
	}
	return size
}

// reportProgress reports progress of a message to the session; size is the buffer's size.
func (c *conn) reportProgress(size int) error {
	c.reportedSize, c.reportedBytes = size, c.Received()
	return c.onPart(c.kept + size)
}

// check reports input other than messages to the session. If the peer has sent too many
// control frames, check returns an error. Only the reading goroutine calls check.
func (c *conn) check() error {
	if c.control.exceeded {
		c.out.deaf = true
		return c.refuse(websocket.StatusPolicyViolation, "too many control frames", &rpcx.FrameError{
			Message: bounded.Over(c.control.rate, "control frames a second", "websocket.Config.ControlFrames"),
		})
	}
	if !c.begun || c.Received()-c.reportedBytes < partStep {
		return nil
	}
	if err := c.reportProgress(c.reportedSize); err != nil {
		return c.refuse(websocket.StatusTryAgainLater, "no room", err)
	}
	return nil
}

// KeptBytes returns how many bytes the connection holds for its whole life.
func (c *conn) KeptBytes() int { return c.kept }

// Received implements [rpcx.PartReader]. If decompressed messages exceed the bytes from the
// connection, the decompressed size counts.
func (c *conn) Received() uint64 { return max(c.out.received.Load(), c.messages) }

// OnPart implements [rpcx.PartReader].
func (c *conn) OnPart(part func(size int) error) { c.onPart = part }

// MaxMessage implements [rpcx.SizeLimiter].
func (c *conn) MaxMessage() int { return c.maxSize }

// MaxMessageField returns the name of the limit's field.
func (c *conn) MaxMessageField() string { return "websocket.Config.MaxSize" }

// OnWritten implements [rpcx.PartWriter].
func (c *conn) OnWritten(written func()) { c.written = written }

// reason translates an error of the WebSocket for the session.
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
		return io.ErrUnexpectedEOF // the peer sent no close frame
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
		// The peer has closed the connection, or is silent: the reader is about to find
		// out.
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

// write writes a message; a large message in fragments. Between fragments, the WebSocket
// answers the peer's pings. An answer that waits for 5 s fails, and closes the connection.
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

// CloseWithError implements [rpcx.CloserWithError]. If no write is running, the peer
// receives a close frame and has a second to answer.
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

// ping checks that a silent peer is there. The timer calls ping, which returns after the
// answer or the end of the connection. No ping is sent during a write, since the peer may
// be busy reading; Limits.SendTimeout covers writes. No ping is sent while the session does
// not read, since no answer could arrive.
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

// answered sends a ping, and reports whether the peer answered.
func (c *conn) answered() bool {
	c.pinging.Lock()
	defer c.pinging.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), c.interval)
	defer cancel()
	err := c.ws.Ping(ctx)
	if c.out.heard.Load() {
		return true // if reading has paused, the answer may be behind the input
	}
	// Any other error means that the connection was closed in the meantime.
	c.silent = errors.Is(err, context.DeadlineExceeded)
	return err == nil
}
