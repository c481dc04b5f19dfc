package rpcx_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// Connections on which nothing passes cannot take all of MaxSessions for ever.
func TestIdleSessionsMakeRoomWhereTheServerIsNearlyFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 20, Options: *handling(methods{"reply": reply, "hang": hang})}
		srv.Options.Limits.ProcessingTimeout = time.Hour
		m, _ := newServer(t, srv)
		busy, waiting := m.connect(t), m.connect(t)
		waiting.say(ask("hang", 1))
		var idle []*wire
		for range 18 {
			time.Sleep(time.Second)
			idle = append(idle, m.connect(t))
		}
		if !m.connect(t).hungUp() {
			t.Fatal("the server is not full")
		}
		for range 5 { // the timeout, and a look more
			time.Sleep(15 * time.Second)
			busy.say(ask("reply", 1))
			busy.expect(answered("null", 1))
		}
		var gone []int
		for i, w := range idle {
			if w.hungUp() {
				gone = append(gone, i)
			}
		}
		if busy.hungUp() || waiting.hungUp() || len(gone) != 3 || slices.Max(gone) > 15 {
			t.Errorf("gone are the busy one: %v, the one that waits: %v, of the idle ones %v", busy.hungUp(), waiting.hungUp(), gone)
		}
		if n := srv.Stats().Sessions; n != 17 {
			t.Errorf("%d sessions are left", n)
		}
		time.Sleep(24 * time.Hour) // the server is not nearly full any more
		if n := srv.Stats().Sessions; n != 17 {
			t.Errorf("a day later %d sessions are left", n)
		}
		for range 3 {
			if m.connect(t).hungUp() {
				t.Error("there is no room")
			}
		}
	})
}

func TestWhatIsIdleWhereTheServerIsNearlyFull(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(*rpcx.Server)
		do     func(*rpcx.Session, *wire) // every half minute
		others int                        // sessions
		lives  bool
	}{
		"nothing passes":            {do: func(*rpcx.Session, *wire) {}},
		"blank lines come":          {do: func(_ *rpcx.Session, w *wire) { io.WriteString(w, "\n") }},
		"a small server":            {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = 0 }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"requests come":             {do: func(_ *rpcx.Session, w *wire) { w.say(ask("reply", 1)) }, lives: true},
		"notifications go":          {do: func(s *rpcx.Session, _ *wire) { s.Notify(context.Background(), "m", nil) }, lives: true},
		"a byte comes of a message": {do: func(_ *rpcx.Session, w *wire) { io.WriteString(w, " ") }},
		"a large message goes on":   {do: func(_ *rpcx.Session, w *wire) { io.WriteString(w, strings.Repeat(" ", 70_000)) }, lives: true},
		"a longer timeout":          {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = time.Hour }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"a shorter timeout":         {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = time.Second }, do: func(_ *rpcx.Session, w *wire) {}},
		"no timeout":                {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = -1 }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"no limit":                  {set: func(srv *rpcx.Server) { srv.MaxSessions = -1 }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"there is room":             {set: func(srv *rpcx.Server) { srv.MaxSessions = 2 }, do: func(*rpcx.Session, *wire) {}, lives: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{MaxSessions: 1, CrowdedIdleTimeout: time.Minute, Options: *handling(methods{"reply": reply})}
				if c.set != nil {
					c.set(srv)
				}
				m, _ := newServer(t, srv)
				w := m.connect(t)
				var s *rpcx.Session
				synctest.Wait()
				for s = range srv.Sessions() {
				}
				for range 10 {
					c.do(s, w)
					time.Sleep(30 * time.Second)
					if w.hungUp() {
						break
					}
				}
				if c.lives {
					live(t, s)
				} else if err := ended(t, s); !errors.Is(err, rpcx.ErrIdle) || !errors.Is(err, rpcx.ErrServerFull) || !strings.Contains(err.Error(), "Server.CrowdedIdleTimeout") {
					t.Errorf("it ended with %v", err)
				}
			})
		})
	}
}

// A server for a few clients is meant to be full: none of them ends by default since it is
// silent. From MaxSessions 10 on they do.
func TestIdleSessionsOfSmallServers(t *testing.T) {
	for most, want := range map[int]int{1: 1, 9: 9, 10: 8, 20: 17} {
		synctest.Test(t, func(t *testing.T) {
			srv := &rpcx.Server{MaxSessions: most}
			m, _ := newServer(t, srv)
			for range most {
				m.connect(t)
			}
			time.Sleep(time.Hour)
			if n := srv.Stats().Sessions; n != want {
				t.Errorf("of %d idle sessions %d are left, want %d", most, n, want)
			}
		})
	}
}
