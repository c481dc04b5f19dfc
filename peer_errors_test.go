package rpcx_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// flood says a line n times, so that nothing of it finds the queue full.
func (w *wire) flood(line string, n int) {
	w.t.Helper()
	const atOnce = 1000
	for ; n > 0; n -= atOnce {
		if _, err := w.Write([]byte(strings.Repeat(line+"\n", min(n, atOnce)))); err != nil {
			return // the session has ended
		}
		synctest.Wait()
		w.heard()
	}
}

// A server that sends what a client can do nothing with does not keep it busy for ever.
func TestPeerErrors(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		most int // that are taken at once, in tenths of ten times PeerErrors
	}{
		"what is no JSON":              {"rubbish", 1},
		"what is no message":           {"{}", 1},
		"replies to nothing":           {`{"jsonrpc":"2.0","result":1,"id":77}`, 1},
		"replies under no id":          {`{"jsonrpc":"2.0","error":{"code":1,"message":"m"},"id":null}`, 1},
		"lines that are too long":      {strings.Repeat("x", 101), 1},
		"notifications nobody handles": {`{"jsonrpc":"2.0","method":"unknown"}`, 10},
		"requests nobody handles":      {`{"jsonrpc":"2.0","method":"unknown","id":1}`, 10},
		"arguments that do not fit":    {`{"jsonrpc":"2.0","method":"known","params":[true]}`, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("known", rpcx.Func(func(int) {}, "n"))
				opts := &rpcx.Options{Handler: router, Framer: rpcx.NewlineFramer{MaxSize: 100}}
				opts.Limits.PeerErrors = 20
				s, w := newWire(t, opts)
				w.flood(c.line, 200*c.most)
				live(t, s)
				time.Sleep(5 * time.Second) // half of it is forgotten
				w.flood(c.line, 100*c.most)
				live(t, s)
				w.flood(c.line, c.most)
				if err := ended(t, s); err != rpcx.ErrFaultyPeer {
					t.Errorf("the session ended with %v", err)
				}
			})
		})
	}
	for name, line := range map[string]string{
		"long rubbish":    `{"a":"` + strings.Repeat("x", 89_998) + `"`,
		"a long reply":    `{"jsonrpc":"2.0","id":77,"result":"` + strings.Repeat("x", 90_000) + `"}`,
		"one in an array": `[{"jsonrpc":"2.0","id":77,"result":"` + strings.Repeat("x", 90_000) + `"}]`,
		"a long request":  `{"jsonrpc":"2.0","method":"unknown","params":["` + strings.Repeat("x", 900_000) + `"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := &rpcx.Options{}
				opts.Limits.PeerErrors = 20
				s, w := newWire(t, opts)
				for n := 0; s.Err() == nil && n < 300; n++ {
					if _, err := w.Write([]byte(line + "\n")); err != nil {
						break
					}
					synctest.Wait()
					if n == 10 {
						live(t, s)
					}
					if n > 25 {
						t.Fatal("the session goes on")
					}
				}
				if err := ended(t, s); err != rpcx.ErrFaultyPeer {
					t.Errorf("the session ended with %v", err)
				}
			})
		})
	}
	t.Run("members of a batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := &rpcx.Options{}
			opts.Limits.PeerErrors = 20
			s, w := newWire(t, opts)
			w.say("[" + strings.Repeat(`{"jsonrpc":"2.0","result":1,"id":77},`, 199) + `{"jsonrpc":"2.0","result":1,"id":77}]`)
			live(t, s)
			w.say("[" + `{"jsonrpc":"2.0","result":1,"id":77}` + "]")
			if err := ended(t, s); err != rpcx.ErrFaultyPeer {
				t.Errorf("the session ended with %v", err)
			}
		})
	})
}

// What an honest server sends is free, however fast it comes.
func TestPeerErrorsDoNotMeetHonestServers(t *testing.T) {
	const rubbish, unknown = "rubbish", `{"jsonrpc":"2.0","method":"unknown"}`
	for name, play := range map[string]func(t *testing.T, s *rpcx.Session, w *wire){
		"100,000 notifications that are handled": func(_ *testing.T, _ *rpcx.Session, w *wire) {
			w.flood(`{"jsonrpc":"2.0","method":"known","params":[1]}`, 100_000)
		},
		"100,000 that are not": func(_ *testing.T, _ *rpcx.Session, w *wire) { w.flood(unknown, 100_000) },
		"a program that prints 50,000 lines": func(_ *testing.T, _ *rpcx.Session, w *wire) {
			w.flood(rubbish, 50_000)
		},
		"one that goes on printing": func(_ *testing.T, _ *rpcx.Session, w *wire) {
			for range 100 {
				w.flood(rubbish, 1000)
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("known", rpcx.Func(func(int) {}, "n"))
				s, w := newWire(t, handling(router))
				play(t, s, w)
				live(t, s)
			})
		})
	}
	t.Run("late replies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := &rpcx.Options{}
			opts.Limits.PeerErrors = 1
			opts.Limits.Outgoing = -1
			s, w := newWire(t, opts)
			const calls = 1000
			for range calls {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				s.Go(ctx, "m", nil)
				defer cancel()
			}
			time.Sleep(time.Second)
			w.heard()
			for id := range calls {
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id))
			}
			live(t, s)
			if n := s.Stats().LateReplies; n != calls {
				t.Errorf("%d replies were late", n)
			}
		})
	})
	t.Run("errors that it answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := &rpcx.Options{}
			opts.Limits.PeerErrors = 1
			s, w := newWire(t, opts)
			for range 1000 {
				f := s.Go(t.Context(), "m", nil)
				w.say(`{"jsonrpc":"2.0","error":{"code":-32601,"message":"no"},"id":` + idOf(t, w.heard()[0]) + `}`)
				matches(t, f.Wait(t.Context(), nil), rpcx.ErrMethodNotFound)
			}
			live(t, s)
		})
	})
}

// The default is for clients; servers have cost. Both can be set, and switched off.
func TestPeerErrorsDefault(t *testing.T) {
	const most = 100_000
	for name, c := range map[string]struct {
		limits rpcx.Limits
		role   rpcx.Role
		ends   bool
	}{
		"of a client":                        {rpcx.Limits{}, rpcx.RoleDefault, true},
		"of a client with other limits":      {rpcx.Limits{Queue: 100}, rpcx.RoleClient, true},
		"of a client, switched off":          {rpcx.Limits{PeerErrors: -1}, rpcx.RoleDefault, false},
		"of a server that does not see cost": {rpcx.Limits{CostOff: true}, rpcx.RoleServer, false},
		"of a server, set":                   {rpcx.Limits{CostOff: true, PeerErrors: 1000}, rpcx.RoleServer, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Limits: c.limits, Role: c.role})
				if c.limits.PeerErrors == 0 {
					w.flood("{}", most)
					live(t, s)
				}
				w.flood("{}", most/10+1)
				if !c.ends {
					live(t, s)
				} else if err := ended(t, s); err != rpcx.ErrFaultyPeer {
					t.Errorf("the session ended with %v", err)
				}
			})
		})
	}
}
