package aiomastest

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// peer is the test's end of a session's connection.
type peer struct {
	net.Conn
	t    *testing.T
	wire Wire
	near *resettable

	mu       sync.Mutex
	received []receivedMessage // since the last takeReceived
}

// receivedMessage is a message with the time of its arrival.
type receivedMessage struct {
	message any
	at      time.Time
}

// resettable is a connection that can simulate a reset by the peer.
type resettable struct {
	net.Conn
	reset bool
}

func (c *resettable) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF && c.reset {
		err = syscall.ECONNRESET
	}
	return n, err
}

// connectSession returns a session that speaks w, and its peer.
func (w Wire) connectSession(t *testing.T, opts *rpcx.Options) (*rpcx.Session, *peer) {
	near, far := net.Pipe()
	conn := &resettable{Conn: near}
	opts.Protocol, opts.Framer = w.Protocol, rpcx.LengthFramer{}
	s := rpcx.NewSession(conn, opts)
	p := &peer{Conn: far, t: t, wire: w, near: conn}
	go p.collectMessages() // ends when the connection is closed
	t.Cleanup(func() {
		s.Close()
		far.Close()
		<-s.Done()
	})
	return s, p
}

func (p *peer) collectMessages() {
	split := rpcx.LengthFramer{MaxSize: -1}.NewSplitter()
	var data []byte
	buf := make([]byte, 4096)
	for {
		n, err := p.Read(buf)
		data = append(data, buf[:n]...)
		p.mu.Lock()
		for {
			n, body, _ := split(data, false)
			if n == 0 {
				break
			}
			message, err := p.wire.decodeBody(body)
			if err != nil {
				p.t.Errorf("the session sends %x: %v", body, err)
			}
			p.received = append(p.received, receivedMessage{message, time.Now()})
			data = data[n:]
		}
		p.mu.Unlock()
		if err != nil {
			if len(data) > 0 {
				p.t.Errorf("the session ends within a frame: %x", data)
			}
			return
		}
	}
}

// writeHex writes bytes given in hex. Write errors are ignored, because the session may
// have hung up.
func (p *peer) writeHex(chunk string) {
	data, err := hex.DecodeString(chunk)
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = p.Write(data)
}

// takeReceived waits a second, and returns the messages received since the last call.
func (p *peer) takeReceived() []receivedMessage {
	time.Sleep(time.Second)
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.received
	p.received = nil
	return got
}

// compareMessages compares got with want. Messages of the same time may be in any order.
func (p *peer) compareMessages(when string, got []receivedMessage, want []frame, c *vector) {
	p.t.Helper()
	if len(got) != len(want) {
		p.t.Errorf("%s: heard %v, want %d messages", when, got, len(want))
		return
	}
	for len(got) > 0 {
		n := 1
		for n < len(got) && got[n].at.Equal(got[0].at) {
			n++
		}
		left := slices.Clone(want[:n])
		for _, g := range got[:n] {
			var err error
			found := slices.IndexFunc(left, func(f frame) bool {
				same := p.compareFrame(g.message, &f, c)
				if same != nil {
					err = same
				}
				return same == nil
			})
			if found < 0 {
				p.t.Errorf("%s: heard %v: %v", when, g.message, err)
				return
			}
			left = slices.Delete(left, found, found+1)
		}
		got, want = got[n:], want[n:]
	}
}

// compareFrame returns an error if the message got differs from want.
func (p *peer) compareFrame(got any, want *frame, c *vector) error {
	if want.Type == "exception" {
		kind, id, content, _ := messageParts(got)
		traceback, ok := content.(string)
		if kind != exactNumber("2") || !reflect.DeepEqual(id, normalForm(want.ID)) || !ok {
			return fmt.Errorf("want an exception for %v", want.ID)
		}
		if c.Python || want.Traceback == nil {
			return nil // the text comes from Python
		}
		return sameTraceback(traceback, want, c.Request.Path)
	}
	value, err := want.decodedValue(p.wire)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(got, value) {
		return fmt.Errorf("want %v", value)
	}
	return nil
}

// hasEnded reports whether the session has ended.
func hasEnded(s *rpcx.Session) bool {
	synctest.Wait()
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}
