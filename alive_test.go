package rpcx_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// idle returns options with an idle timeout of 10 s.
func idle(h rpcx.Handler) *rpcx.Options {
	return &rpcx.Options{Handler: h, Limits: rpcx.Limits{IdleTimeout: 10 * time.Second, ProcessingTimeout: time.Hour}}
}

// untilIdle says that the session ends, being idle, in exactly so long.
func untilIdle(t *testing.T, s *rpcx.Session, want time.Duration) {
	t.Helper()
	start := time.Now()
	select {
	case <-s.Done():
	case <-time.After(time.Hour):
		t.Fatal("it does not end")
	}
	if got := time.Since(start); got != want || s.Err() != rpcx.ErrIdle {
		t.Errorf("it ended after %v, want %v, with %v", got, want, s.Err())
	}
}

func TestIdleTimeout(t *testing.T) {
	sleeper := methods{"sleep": func(ctx context.Context, req *rpcx.Request) (any, error) {
		var d [1]int
		err := req.Bind(&d)
		time.Sleep(time.Duration(d[0]) * time.Second)
		return nil, err
	}, "reply": reply, "exit": func(context.Context, *rpcx.Request) (any, error) {
		time.Sleep(7 * time.Second)
		runtime.Goexit()
		return nil, nil
	}}
	for _, c := range []struct {
		name  string
		after time.Duration // from the start
		busy  func(t *testing.T, s *rpcx.Session, w *wire)
	}{
		{"of a session that does nothing", 10 * time.Second, func(*testing.T, *rpcx.Session, *wire) {}},
		{"starts anew when something is received", 13 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			time.Sleep(3 * time.Second)
			w.say(sayNote("reply", 1))
		}},
		{"and be it rubbish", 13 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			time.Sleep(3 * time.Second)
			w.say("rubbish")
		}},
		{"or when something is sent", 19 * time.Second, func(t *testing.T, s *rpcx.Session, _ *wire) {
			time.Sleep(9 * time.Second)
			s.Notify(t.Context(), "m", nil)
		}},
		{"or when a part of a message is received", 28 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			for range 2 {
				time.Sleep(9 * time.Second)
				w.Write([]byte(`"half of a mess`))
			}
		}},
		{"not while a handler runs", 27 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			time.Sleep(5 * time.Second)
			w.say(sayNote("sleep", 12))
		}},
		{"nor while one runs that ends its goroutine", 17 * time.Second, func(_ *testing.T, _ *rpcx.Session, w *wire) {
			w.say(sayNote("exit", 0))
		}},
		{"nor while a call is pending", 45 * time.Second, func(t *testing.T, s *rpcx.Session, _ *wire) {
			time.Sleep(5 * time.Second)
			s.Go(t.Context(), "m", nil) // times out after 30 s
		}},
		{"which may be given up", 14 * time.Second, func(t *testing.T, s *rpcx.Session, _ *wire) {
			f := s.Go(t.Context(), "m", nil)
			time.Sleep(4 * time.Second)
			f.Cancel()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s, w := newWire(t, idle(sleeper))
				c.busy(t, s, w)
				untilIdle(t, s, c.after-time.Since(start))
			})
		})
	}
	t.Run("starts anew when a part of a message is sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newDeafWire(t, idle(sleeper))
			s.Notify(t.Context(), "m", rpcx.Args{strings.Repeat("x", 40_000)})
			for range 4 { // nearly all of it
				time.Sleep(9 * time.Second)
				io.CopyN(io.Discard, w, 10_000)
			}
			w.listen()
			untilIdle(t, s, 10*time.Second)
		})
	})
	t.Run("is for ever by default", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newWire(t, nil)
			time.Sleep(10000 * time.Hour)
			live(t, s)
		})
	})
}

// probing returns options with a keepalive notification.
func probing(every time.Duration) *rpcx.Options {
	return &rpcx.Options{Limits: rpcx.Limits{KeepAliveMethod: "alive", KeepAlive: every}}
}

func TestKeepAliveMethod(t *testing.T) {
	const probe = `{"jsonrpc":"2.0","method":"alive"}`
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, probing(0))
		for range 3 { // every minute
			time.Sleep(time.Minute - 1)
			w.expectNothing()
			time.Sleep(time.Nanosecond)
			w.expect(probe)
		}
		time.Sleep(30 * time.Second)
		w.say(sayNote("m", 1)) // any traffic counts
		time.Sleep(time.Minute - 1)
		w.expectNothing()
		time.Sleep(time.Nanosecond)
		w.expect(probe)

		s.Go(t.Context(), "m", nil) // and it goes on while a call is pending
		w.heard()
		time.Sleep(time.Minute)
		w.expect(probe)
	})
	t.Run("is no life for its own side", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := probing(3 * time.Second)
			opts.Limits.IdleTimeout = 10 * time.Second
			s, w := newWire(t, opts)
			untilIdle(t, s, 10*time.Second)
			w.expect(probe, probe, probe)
		})
	})
	t.Run("is life for the other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, s := newPipe(t, probing(3*time.Second), idle(methods{"alive": reply}))
			time.Sleep(time.Hour)
			live(t, s)
		})
	})
	t.Run("can be switched off", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, w := newWire(t, probing(-1))
			time.Sleep(time.Hour)
			w.expectNothing()
		})
	})
	t.Run("does not wait for a peer that does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := probing(time.Second)
			opts.Limits.SendTimeout = -1
			opts.Limits.Outbox = 100
			s, _ := newDeafWire(t, opts)
			time.Sleep(time.Hour)
			live(t, s)
			if n := s.Stats().OutboxBytes; n > 100 {
				t.Errorf("%d bytes of probes wait", n)
			}
		})
	})
}

// keeping is a connection that notes how it is kept alive.
type keeping struct {
	net.Conn
	config []net.KeepAliveConfig
}

func (k *keeping) SetKeepAliveConfig(c net.KeepAliveConfig) error {
	k.config = append(k.config, c)
	return nil
}

func TestKeepAliveByTCP(t *testing.T) {
	for _, c := range []struct {
		name string
		d    time.Duration
		want []net.KeepAliveConfig
	}{
		{"is left alone by default", 0, nil},
		{"is set", time.Minute, []net.KeepAliveConfig{{Enable: true, Idle: time.Minute, Interval: time.Minute, Count: 2}}},
		{"is switched off", -1, []net.KeepAliveConfig{{Idle: -1, Interval: -1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				conn := &keeping{Conn: near}
				s := rpcx.NewSession(conn, &rpcx.Options{Limits: rpcx.Limits{KeepAlive: c.d}})
				far.Close()
				<-s.Done()
				if len(conn.config) != len(c.want) || len(c.want) > 0 && conn.config[0] != c.want[0] {
					t.Errorf("it was set to %+v, want %+v", conn.config, c.want)
				}
			})
		})
	}
}
