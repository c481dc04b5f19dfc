package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

func TestReplyAndDisconnect(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler rpcx.HandlerFunc
		want    string
	}{
		{"as the result", func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
			`"result":"bye"`},
		{"as the error", func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ReplyAndDisconnect("bye") },
			`"result":"bye"`},
		{"within another error", func(context.Context, *rpcx.Request) (any, error) {
			return nil, fmt.Errorf("enough: %w", rpcx.ReplyAndDisconnect("bye"))
		}, `"result":"bye"`},
		{"with an error, as the result", func(context.Context, *rpcx.Request) (any, error) {
			return rpcx.ReplyAndDisconnect(rpcx.Errorf(5, "go away")), nil
		}, `"error":{"code":5,"message":"go away"}`},
		{"with an error, as the error", func(context.Context, *rpcx.Request) (any, error) {
			return nil, rpcx.ReplyAndDisconnect(rpcx.Errorf(5, "go away"))
		}, `"error":{"code":5,"message":"go away"}`},
		{"with an error that is not for the peer", func(context.Context, *rpcx.Request) (any, error) {
			return nil, rpcx.ReplyAndDisconnect(errors.New("secret"))
		}, `"error":{"code":-32603,"message":"internal server error"}`},
		{"with what cannot be encoded", func(context.Context, *rpcx.Request) (any, error) {
			return rpcx.ReplyAndDisconnect(make(chan int)), nil
		}, `"error":{"code":-32603,"message":"internal server error"}`},
		{"with what panics when it is encoded", func(context.Context, *rpcx.Request) (any, error) {
			return rpcx.ReplyAndDisconnect(explosive{}), nil
		}, `"error":{"code":-32603,"message":"internal server error"}`},
		{"with nothing", func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect(nil), nil },
			`"result":null`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, form := range []struct{ request, reply string }{
				{`{"jsonrpc":"2.0","method":"quit","id":1}`, `{"jsonrpc":"2.0",` + c.want + `,"id":1}`},
				{`[{"jsonrpc":"2.0","method":"quit","id":1}]`, `[{"jsonrpc":"2.0",` + c.want + `,"id":1}]`},
			} {
				synctest.Test(t, func(t *testing.T) {
					s, w := newWire(t, handling(methods{"quit": c.handler}))
					s.Notify(t.Context(), "before", nil)
					w.say(form.request)
					w.expect(`{"jsonrpc":"2.0","method":"before"}`, form.reply)
					if err := ended(t, s); err != rpcx.ErrClosed || !w.hungUp() {
						t.Errorf("it ended with %v", err)
					}
				})
			}
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, handling(methods{"quit": c.handler}))
				w.say(`{"jsonrpc":"2.0","method":"quit"}`)
				w.expectNothing()
				ended(t, s)
			})
		})
	}
}

func TestDisconnectFromABatchComesAfterItsReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		s, w := newWire(t, handling(methods{
			"quit": func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
			"slow": open.ServeRPC,
		}))
		w.say(`[{"jsonrpc":"2.0","method":"slow","id":1},{"jsonrpc":"2.0","method":"quit","id":2},{"jsonrpc":"2.0","method":"quit"}]`)
		w.expectNothing()
		live(t, s)
		close(open)
		w.expect(`[{"jsonrpc":"2.0","result":"through","id":1}, {"jsonrpc":"2.0","result":"bye","id":2}]`)
		if err := ended(t, s); err != rpcx.ErrClosed {
			t.Errorf("it ended with %v", err)
		}
	})
}

// slowBatches takes two seconds to put a batch together.
type slowBatches struct{ rpcx.Protocol }

func (p slowBatches) AppendBatch(dst []byte, items [][]byte) ([]byte, error) {
	time.Sleep(2 * time.Second)
	return p.Protocol.AppendBatch(dst, items)
}

func TestDisconnectWhileTheBatchIsPutTogetherComesAfterItsReply(t *testing.T) {
	for name, c := range map[string]struct{ request, reply string }{
		"from another request": {
			`[{"jsonrpc":"2.0","method":"quit","id":1},{"jsonrpc":"2.0","method":"slow","id":2}]`,
			`[{"jsonrpc":"2.0","result":"bye","id":1}, {"jsonrpc":"2.0","result":"slow","id":2}]`,
		},
		"from a notification": {
			`[{"jsonrpc":"2.0","method":"quit"},{"jsonrpc":"2.0","method":"slow","id":2}]`,
			`[{"jsonrpc":"2.0","result":"slow","id":2}]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{
					"quit": func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
					"slow": func(context.Context, *rpcx.Request) (any, error) { time.Sleep(time.Second); return "slow", nil },
				})
				opts.Trace = &rpcx.Trace{ReplySent: func(req *rpcx.Request, _ error, _ time.Duration) {
					if req.Method == "quit" {
						time.Sleep(2 * time.Second) // and goes on while the batch is put together
					}
				}}
				opts.Protocol = slowBatches{rpcx.JSONRPCv2}
				s, w := newWire(t, opts)
				w.say(c.request)
				<-s.Done()
				w.expect(c.reply)
			})
		})
	}
}

func TestDisconnectIsPoliteForCloseTimeout(t *testing.T) {
	quit := methods{"quit": func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }}
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		want   time.Duration
	}{
		{"30 s by default", rpcx.Limits{SendTimeout: -1}, 30 * time.Second},
		{"what Limits say", rpcx.Limits{CloseTimeout: 5 * time.Second}, 5 * time.Second},
		{"less if the peer does not read at all", rpcx.Limits{}, 20 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newDeafWire(t, &rpcx.Options{Handler: quit, Limits: c.limits})
				f := s.Go(t.Context(), "pending", nil)
				takes(t, c.want, func() {
					w.say(`{"jsonrpc":"2.0","method":"quit","id":1}`)
					<-s.Done()
				})
				if s.Err() != rpcx.ErrClosed {
					t.Errorf("it ended with %v", s.Err())
				}
				matches(t, f.Err(), rpcx.ErrConnectionLost, rpcx.ErrClosed)
			})
		})
	}
	t.Run("no more than the second of Close, if that comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newDeafWire(t, handling(quit))
			w.say(`{"jsonrpc":"2.0","method":"quit","id":1}`)
			time.Sleep(5 * time.Second)
			takes(t, time.Second, func() { s.Close(); <-s.Done() })
		})
	})
	for name, shut := range map[string]bool{"as long as the peer needs": false, "and Shutdown leaves it that": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newDeafWire(t, handling(quit))
				w.say(`{"jsonrpc":"2.0","method":"quit","id":1}`)
				synctest.Wait()
				if shut {
					go s.Shutdown(t.Context())
				}
				time.Sleep(19 * time.Second)
				live(t, s)
				w.listen()
				w.expect(`{"jsonrpc":"2.0","result":"bye","id":1}`)
				ended(t, s)
			})
		})
	}
}

func TestDoneErrAndOnCloseComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var order []string
		nested := make(chan struct{})
		for _, name := range []string{"first", "second"} {
			s.OnClose(func(err error) {
				time.Sleep(time.Second)
				select {
				case <-s.Done():
					t.Error("Done is closed before the callbacks have returned")
				default:
				}
				if s.Err() != err {
					t.Errorf("Err returns %v in a callback that is given %v", s.Err(), err)
				}
				s.Close() // a callback may use the session, for what that is worth
				s.Stats()
				order = append(order, fmt.Sprint(name, " ", err))
				s.OnClose(func(error) { nested <- struct{}{} })
			})
		}
		if s.Err() != nil {
			t.Errorf("Err returns %v while the session lives", s.Err())
		}
		w.Close()
		<-s.Done()
		if s.Err() != io.EOF {
			t.Errorf("Err returns %v", s.Err())
		}
		<-nested
		<-nested
		slices.Sort(order)
		if want := []string{"first EOF", "second EOF"}; !slices.Equal(order, want) {
			t.Errorf("the callbacks: %q, want %q", order, want)
		}
		late := make(chan error)
		s.OnClose(func(err error) { late <- err })
		if err := <-late; err != io.EOF {
			t.Errorf("a callback that was late was told %v", err)
		}
	})
}
