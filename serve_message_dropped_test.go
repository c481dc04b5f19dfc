package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// partialConn is the conn of a message of which only a part was received.
type partialConn struct {
	aConn
	dropped *rpcx.FrameError
}

func (c *partialConn) Dropped() *rpcx.FrameError { return c.dropped }

// A dropped message is not handled. It is answered, counted and charged as on a connection.
func TestServeMessageDropped(t *testing.T) {
	large := &rpcx.FrameError{Message: "dropping a large message", Recoverable: true, TooLarge: &rpcx.SizeError{Limit: 1000, Field: "Conn.Max"}}
	broken := &rpcx.FrameError{Message: "no gzip", Recoverable: true, Answer: rpcx.ParseError()}
	const tooLarge = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"message too large (over 1,000 bytes)"},"id":%s}`
	for _, c := range []struct {
		name    string
		dropped *rpcx.FrameError
		part    string
		want    string
	}{
		{"a request", large, `{"jsonrpc":"2.0","id":7,"method":"f","params":[`, fmt.Sprintf(tooLarge, "7")},
		{"a request whose id is not in the part", large, `{"jsonrpc":"2.0","method":"f","params":[`, fmt.Sprintf(tooLarge, "null")},
		{"a batch", large, `[{"jsonrpc":"2.0","id":7,"method":"f"},`, fmt.Sprintf(tooLarge, "null")},
		{"nothing", large, ``, fmt.Sprintf(tooLarge, "null")},
		{"a response", large, `{"jsonrpc":"2.0","id":7,"result":"`, ""},
		{"a whole request", large, request("f"), fmt.Sprintf(tooLarge, "1")},
		{"an answer of the transport's", broken, ``, `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`},
		{"nothing to be said", &rpcx.FrameError{Message: "no", Recoverable: true}, request("f"), ""},
		{"not dropped", nil, request("f"), `{"jsonrpc":"2.0","result":null,"id":1}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var bad []error
				srv := serving(methods{"f": func(context.Context, *rpcx.Request) (any, error) {
					if c.dropped != nil {
						t.Error("the message is handled")
					}
					return nil, nil
				}})
				srv.Options.Trace = &rpcx.Trace{BadMessage: func(_ *rpcx.Session, err error) { bad = append(bad, err) }}
				conn := &partialConn{aConn{group: "a"}, c.dropped}
				reply, err := srv.ServeMessage(t.Context(), conn, []byte(c.part), nil)
				if string(reply) != c.want || err != nil {
					t.Errorf("the reply is %s, %v; want %s", reply, err, c.want)
				}
				idleServer(t, srv)
				if (len(bad) == 1) != (c.dropped != nil) {
					t.Errorf("the bad messages are %v", bad)
				}
			})
		})
	}
}

// A client that sends nothing but messages to be dropped uses up the budget of its group.
func TestServeMessageDroppedCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{})
		srv.Options.Limits = rpcx.Limits{CostSoft: -1, CostHard: 1000}
		conn := &partialConn{aConn{group: "a"}, &rpcx.FrameError{Message: "no", Recoverable: true, TooLarge: &rpcx.SizeError{Limit: 10}}}
		part := []byte(strings.Repeat(" ", 10_000_000)) // costs 100, beside 100 for the error
		served := 0
		for range 20 {
			_, err := srv.ServeMessage(t.Context(), conn, part, nil)
			if err == nil {
				served++
			} else if _, ok := errors.AsType[*rpcx.CostError](err); !ok {
				t.Fatal(err)
			}
		}
		if served != 4 && served != 5 {
			t.Errorf("%d messages were received", served)
		}
		idleServer(t, srv)
	})
}
