package rpcx_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/rpcx"
)

// countingConn counts what is read.
type countingConn struct {
	*net.TCPConn
	read atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// A session that ends reads on for a while, so that its peer hears the last reply and
// is not reset, but not for as long as the peer likes.
func TestEndingSessionIgnoresABoundedInput(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func() (any, error)
		reply string
		more  int // bytes that the peer sends yet; without end if negative
	}{
		{"its cost, and the peer stops", func() (any, error) { return nil, rpcx.ErrExcessiveCost }, excessive + "0}", 200 << 10},
		{"its cost, and the peer does not stop", func() (any, error) { return nil, rpcx.ErrExcessiveCost }, excessive + "0}", -1},
		{"ReplyAndDisconnect, and the peer stops", func() (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }, answered(`"bye"`, 0), 200 << 10},
		{"ReplyAndDisconnect, and the peer does not stop", func() (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }, answered(`"bye"`, 0), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			conn := &countingConn{TCPConn: near.(*net.TCPConn)}
			trigger := make(chan struct{})
			s := rpcx.NewSession(conn, handling(methods{"hang": hang, "end": func(context.Context, *rpcx.Request) (any, error) {
				<-trigger
				return c.end()
			}}))
			io.WriteString(far, ask("end", 0)+"\n")
			line := sayNote("hang", 1) + "\n"
			heard := make(chan []string, 1)
			var broken error
			go func() {
				var lines []string
				in := bufio.NewReader(far)
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						broken = err
						break
					}
					lines = append(lines, strings.TrimSuffix(line, "\n"))
				}
				heard <- lines
			}()
			io.WriteString(far, strings.Repeat(line, 200))
			for s.Stats().Pauses == 0 {
				time.Sleep(time.Millisecond)
			}
			before := conn.read.Load()
			written := make(chan struct{})
			go func() {
				defer close(written)
				for n := 0; c.more < 0 || n < c.more; n += len(line) {
					if _, err := io.WriteString(far, line); err != nil {
						return
					}
				}
			}()
			if c.more >= 0 {
				<-written
			}
			close(trigger)
			start := time.Now()
			<-s.Done()
			took := time.Since(start)
			read := conn.read.Load() - before
			<-written
			lines := <-heard
			if len(lines) == 0 || lines[len(lines)-1] != c.reply {
				t.Errorf("the peer heard %q, then %v", lines, broken)
			}
			if c.more >= 0 && broken != io.EOF {
				t.Errorf("the peer's connection ended with %v", broken)
			}
			const buffer = 64 << 10
			if read > 256<<10+buffer {
				t.Errorf("%d bytes were read after the end", read)
			}
			if took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// The end may come in the middle of a long message, and of one that is dropped.
func TestEndingSessionIgnoresALongMessage(t *testing.T) {
	for name, framer := range map[string]rpcx.Framer{
		"that is read":    &rpcx.NewlineFramer{MaxSize: 64 << 20},
		"that is dropped": &rpcx.NewlineFramer{MaxSize: 4 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			conn := &countingConn{TCPConn: near.(*net.TCPConn)}
			begun, trigger := make(chan struct{}), make(chan struct{})
			opts := handling(methods{"end": func(context.Context, *rpcx.Request) (any, error) {
				close(begun)
				<-trigger
				return rpcx.ReplyAndDisconnect("bye"), nil
			}})
			opts.Framer = framer
			s := rpcx.NewSession(conn, opts)
			io.WriteString(far, ask("end", 0)+"\n")
			<-begun
			chunk := strings.Repeat("x", 64<<10)
			io.WriteString(far, chunk)
			for conn.read.Load() < int64(len(chunk)) {
				time.Sleep(time.Millisecond)
			}
			close(trigger)
			replies := bufio.NewReader(far)
			for line := ""; !strings.Contains(line, "bye"); {
				var err error
				if line, err = replies.ReadString('\n'); err != nil {
					t.Fatalf("the peer heard %q, %v", line, err)
				}
			}
			before := conn.read.Load()
			for n := 0; n < 32<<20; n += len(chunk) {
				if _, err := io.WriteString(far, chunk); err != nil {
					break
				}
			}
			<-s.Done()
			const buffers = 512 << 10 // the read that was under way, and the last: a long message's are long
			if read := conn.read.Load() - before; read > 256<<10+buffers {
				t.Errorf("%d bytes were read after the end", read)
			}
		})
	}
}
