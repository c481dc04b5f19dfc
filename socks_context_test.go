package rpcx_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// silentProxy accepts, reads and says what it is told, and no more. hungUp is
// closed when the client has hung up.
func silentProxy(says string) (proxy *rpcx.SOCKSProxy, hungUp chan struct{}) {
	hungUp = make(chan struct{})
	return &rpcx.SOCKSProxy{Addr: "127.0.0.1:1", Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		// Owner: the test. End: the client hangs up.
		go func() {
			defer close(hungUp)
			defer far.Close()
			far.Read(make([]byte, 100))
			io.WriteString(far, says)
			io.Copy(io.Discard, far)
		}()
		return near, nil
	}}, hungUp
}

func TestSOCKSIsBoundedByTheContext(t *testing.T) {
	cause := errors.New("enough")
	for name, says := range map[string]string{
		"the greeting":      "",
		"half a greeting":   "\x05",
		"the reply":         "\x05\x00",
		"half of a reply":   "\x05\x00\x05\x00\x00\x03\x20abc",
		"the last of it":    "\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00",
		"a reply so slowly": "\x05\x00\x05\x00",
	} {
		synctest.Test(t, func(t *testing.T) {
			proxy, hungUp := silentProxy(says)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			takes(t, time.Minute, func() {
				_, err := proxy.DialContext(ctx, "tcp", "a.test:1")
				matches(t, err, context.DeadlineExceeded)
				if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
					t.Errorf("%s: %v is no timeout", name, err)
				}
			})
			<-hungUp
		})
		synctest.Test(t, func(t *testing.T) {
			proxy, hungUp := silentProxy(says)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(cause) })
			takes(t, time.Second, func() {
				_, err := proxy.DialContext(ctx, "tcp", "a.test:1")
				matches(t, err, cause)
			})
			<-hungUp
		})
	}
}

// Whatever the dial is waiting for when its context ends, the error is the cause.
func TestSOCKSFailsWithTheCauseAtEveryStage(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	silent, _ := silentProxy("")
	for name, c := range map[string]struct {
		proxy rpcx.SOCKSProxy
		addr  string
	}{
		"looking up the proxy":       {rpcx.SOCKSProxy{Addr: "proxy.test:1"}, "a.test:1"},
		"looking up the destination": {rpcx.SOCKSProxy{Addr: "127.0.0.1:1", ResolveLocally: true}, "a.test:1"},
		"connecting to the proxy":    {rpcx.SOCKSProxy{Addr: "127.0.0.1:1"}, "a.test:1"},
		"connecting in another way":  {rpcx.SOCKSProxy{Addr: "127.0.0.1:1", Dial: neverAnswers}, "a.test:1"},
		"the handshake":              {*silent, "a.test:1"},
	} {
		if _, err := c.proxy.DialContext(ctx, "tcp", c.addr); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// foreignContext is one of which package context knows nothing: it needs a
// goroutine to hear of its end.
type foreignContext struct {
	context.Context
	done chan struct{}
}

func (c foreignContext) Done() <-chan struct{} { return c.done }

func TestSOCKSLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var far net.Conn
		proxy := rpcx.SOCKSProxy{Addr: "127.0.0.1:1", Dial: func(context.Context, string, string) (net.Conn, error) {
			var near net.Conn
			near, far = net.Pipe()
			// Owner: the test. End: the handshake is over.
			go func() {
				io.ReadFull(far, make([]byte, 3))
				io.WriteString(far, "\x05\x00")
				io.ReadFull(far, make([]byte, 13))
				io.WriteString(far, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
			}()
			return near, nil
		}}
		conn, err := proxy.DialContext(foreignContext{t.Context(), make(chan struct{})}, "tcp", "a.test:1")
		if err != nil || conn.RemoteAddr().String() != "a.test:1" {
			t.Fatal(err)
		}
		// The connection is open, and the context has not ended: a goroutine that
		// is left now cannot end, which the bubble reports.
		far.SetDeadline(time.Time{})
	})
}
