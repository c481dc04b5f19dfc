package benchmarks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// The floors are a line echo without RPC: what the round trips themselves cost.
// With floor, one caller on each connection writes its line and reads the reply
// itself, without another goroutine. With fifo, callers share a writer and a
// reader, as any client must that has many calls on one connection; replies come
// in the order of the lines.
var (
	floorPeer = Peer{
		Name:  "floor",
		Title: "floor: line echo, no RPC",
		Kind:  Floor,
		Start: startLines,
		Dial:  dialLines,
	}
	fifoPeer = Peer{
		Name:  "fifo",
		Title: "fifo: floor with a writer, no RPC",
		Kind:  Floor,
		Start: startLines,
		Dial:  dialPipelinedLines,
	}
)

func startLines(Load) (Server, error) {
	l, err := listen()
	if err != nil {
		return nil, err
	}
	go l.each(func(conn net.Conn) { // until acceptor.Close
		go echoLines(conn) // until the connection is closed
	})
	return l, nil
}

func dialLines(ctx context.Context, addr string, load Load) (Client, error) {
	if load.Callers > 1 {
		return nil, errors.ErrUnsupported
	}
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &lineClient{conn: conn, lines: lineReader{r: conn}}, nil
}

func dialPipelinedLines(ctx context.Context, addr string, _ Load) (Client, error) {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &pipelinedLineClient{conn: conn, wake: make(chan struct{}, 1)}
	c.closed = sync.OnceFunc(func() { close(c.wake) })
	go c.write() // until Close
	go c.read()  // until the connection is closed
	return c, nil
}

// echoLines sends back each line of conn, those that arrived together in one write.
func echoLines(conn net.Conn) {
	in := lineReader{r: conn}
	var out []byte
	for {
		line, err := in.next()
		if err != nil {
			conn.Close()
			return
		}
		if !in.more() && len(out) == 0 {
			_, err = conn.Write(line)
		} else if out = append(out, line...); !in.more() {
			_, err = conn.Write(out)
			out = out[:0]
		}
		if err != nil {
			conn.Close()
			return
		}
	}
}

// lineReader splits a stream into lines. Its buffer grows to the longest.
type lineReader struct {
	r          io.Reader
	buf        []byte
	start, end int
}

// next returns the next line with its newline, valid until the call after.
func (l *lineReader) next() ([]byte, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(l.buf[l.start+scanned:l.end], '\n'); i >= 0 {
			line := l.buf[l.start : l.start+scanned+i+1]
			l.start += len(line)
			return line, nil
		}
		scanned = l.end - l.start
		if l.start > 0 {
			copy(l.buf, l.buf[l.start:l.end])
			l.start, l.end = 0, scanned
		}
		if l.end == len(l.buf) {
			l.buf = append(l.buf, make([]byte, max(4096, len(l.buf)))...)
		}
		n, err := l.r.Read(l.buf[l.end:])
		if l.end += n; n == 0 && err != nil {
			return nil, err
		}
	}
}

// more reports whether next would return without reading.
func (l *lineReader) more() bool { return bytes.IndexByte(l.buf[l.start:l.end], '\n') >= 0 }

// lineClient is the floor's client for one call at a time.
type lineClient struct {
	conn  net.Conn
	lines lineReader
	out   []byte
}

func (c *lineClient) Echo(_ context.Context, text string) (string, error) {
	c.out = append(append(c.out[:0], text...), '\n')
	if _, err := c.conn.Write(c.out); err != nil {
		return "", err
	}
	line, err := c.lines.next()
	if err != nil {
		return "", err
	}
	return string(line[:len(line)-1]), nil
}

func (c *lineClient) Close() error { return c.conn.Close() }

// pipelinedLineClient is the floor's client for concurrent calls.
type pipelinedLineClient struct {
	conn   net.Conn
	wake   chan struct{} // tells the writer that out is not empty
	closed func()

	mu      sync.Mutex
	out     []byte
	waiting []chan string // for the replies, in order
	ended   bool
}

var replyChans = sync.Pool{New: func() any { return make(chan string, 1) }}

func (c *pipelinedLineClient) Echo(_ context.Context, text string) (string, error) {
	reply := replyChans.Get().(chan string)
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return "", net.ErrClosed
	}
	c.out = append(append(c.out, text...), '\n')
	c.waiting = append(c.waiting, reply)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // the writer is awake
	}
	got, ok := <-reply
	if !ok {
		return "", io.ErrUnexpectedEOF
	}
	replyChans.Put(reply)
	return got, nil
}

func (c *pipelinedLineClient) write() {
	var out []byte
	for range c.wake {
		c.mu.Lock()
		c.out, out = out[:0], c.out
		c.mu.Unlock()
		if len(out) == 0 {
			continue
		}
		if _, err := c.conn.Write(out); err != nil {
			c.conn.Close()
			return
		}
	}
}

func (c *pipelinedLineClient) read() {
	lines := lineReader{r: c.conn}
	for {
		line, err := lines.next()
		c.mu.Lock()
		if err != nil {
			for _, reply := range c.waiting {
				close(reply)
			}
			c.waiting, c.ended = nil, true
			c.mu.Unlock()
			return
		}
		reply := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.mu.Unlock()
		reply <- string(line[:len(line)-1])
	}
}

func (c *pipelinedLineClient) Close() error {
	c.closed()
	return c.conn.Close()
}
