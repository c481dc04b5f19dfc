package websocket_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	coder "github.com/coder/websocket"
)

// sizeServer serves with a MaxSize.
func sizeServer(t *testing.T, maxSize int, protocol rpcx.Protocol) (url string, srv *rpcx.Server) {
	t.Helper()
	srv = &rpcx.Server{Options: rpcx.Options{Handler: methods(), Protocol: protocol}}
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	return serve(t, &websocket.Acceptor{Server: srv, Config: websocket.Config{MaxSize: maxSize}}), srv
}

// What is too large is dropped. If its beginning shows its id, it is answered, and what
// follows is handled.
func TestMessageOverTheLimit(t *testing.T) {
	url, srv := sizeServer(t, 1000, nil)
	s := dial(t, websocket.Dialer{}, url, nil)
	err := s.Call(t.Context(), "echo", rpcx.Args{strings.Repeat("x", 100_000)}, nil)
	if e, ok := errors.AsType[*rpcx.Error](err); !ok || e.Code != rpcx.CodeInvalidRequest || e.Message != "message too large (over 1,000 bytes)" {
		t.Errorf("a message that was dropped: %v", err)
	}
	exact := strings.Repeat("x", 1000-len(`{"jsonrpc":"2.0","method":"echo","params":[""],"id":1}`))
	if got, err := rpcx.Call[string](t.Context(), s, "echo", rpcx.Args{exact}); got != exact || err != nil {
		t.Errorf("a message of the largest size: %d bytes, %v", len(got), err)
	}
	for s := range srv.Sessions() {
		if stats := s.Stats(); stats.Errors != 1 || stats.MessagesReceived != 1 {
			t.Errorf("stats are %+v, want one error and one message", stats)
		}
	}
}

// tooLarge is the answer under id to a message over 100 bytes.
func tooLarge(id string) string {
	return `{"jsonrpc":"2.0","error":{"code":-32600,"message":"message too large (over 100 bytes)"},"id":` + id + `}`
}

// If the beginning of a message that is dropped does not show who waits for an answer,
// the connection is closed with a code that says why.
func TestMessageOverTheLimitEndsTheConnection(t *testing.T) {
	const ping = `{"jsonrpc":"2.0","method":"echo","params":["still there"],"id":0}`
	pong := `{"jsonrpc":"2.0","result":"still there","id":0}`
	for _, c := range []struct {
		name, begin string
		answer      string // "" for none
		closed      bool
	}{
		{"a request with its id first", `{"jsonrpc":"2.0","id":7,"method":"echo","params":["`, tooLarge("7"), false},
		{"a request with its id behind the limit, in the first KiB", `{"jsonrpc":"2.0","method":"echo","trace":"` + strings.Repeat("x", 800) + `","id":"a","params":["`, tooLarge(`"a"`), false},
		{"a request with its id behind the params", `{"method":"echo","params":["`, tooLarge("null"), true},
		{"a request with its id behind the first KiB", `{"method":"echo","trace":"` + strings.Repeat("x", 1000) + `","id":8,"params":["`, tooLarge("null"), true},
		{"a batch", `[{"jsonrpc":"2.0","id":7,"method":"echo","params":["`, tooLarge("null"), true},
		{"no JSON", `GET / HTTP/1.1`, tooLarge("null"), true},
		{"a reply that nobody waits for", `{"jsonrpc":"2.0","id":7,"result":["`, "", false},
		{"a notification, padded", `{"jsonrpc":"2.0","method":"echo"}`, "", false},
	} {
		for _, size := range []int{1200, 100_000} {
			t.Run(c.name, func(t *testing.T) {
				url, srv := sizeServer(t, 100, nil)
				ws := peer(t, url, nil)
				if err := ws.Write(t.Context(), coder.MessageText, []byte(c.begin+strings.Repeat(" ", size))); err != nil {
					t.Fatal(err)
				}
				if c.answer != "" {
					if _, got, err := ws.Read(t.Context()); string(got) != c.answer || err != nil {
						t.Errorf("answered %s, %v; want %s", got, err, c.answer)
					}
				}
				if !c.closed {
					if err := ws.Write(t.Context(), coder.MessageText, []byte(ping)); err != nil {
						t.Fatal(err)
					}
					if _, got, err := ws.Read(t.Context()); string(got) != pong || err != nil {
						t.Errorf("the next request is answered %s, %v", got, err)
					}
					return
				}
				_, got, err := ws.Read(t.Context())
				if closed, ok := errors.AsType[coder.CloseError](err); !ok || closed.Code != coder.StatusMessageTooBig || closed.Reason != "message too large (over 100 bytes)" {
					t.Errorf("then came %q, %v", got, err)
				}
				srv.Wait(context.Background())
			})
		}
	}
}

// A protocol that has no answers closes, too.
func TestMessageOverTheLimitWithoutAnswers(t *testing.T) {
	url, _ := sizeServer(t, 100, blobs{rpcx.JSONRPCv2})
	ws := peer(t, url, nil)
	if err := ws.Write(t.Context(), coder.MessageText, []byte(strings.Repeat("x", 1000))); err != nil {
		t.Fatal(err)
	}
	_, got, err := ws.Read(t.Context())
	if coder.CloseStatus(err) != coder.StatusMessageTooBig {
		t.Errorf("then came %q, %v", got, err)
	}
}

// replier serves WebSockets. It reads so many messages from each, sends the reply, and
// then tells with what code the client closes.
func replier(t *testing.T, requests int, reply string) (url string, codes chan coder.StatusCode) {
	t.Helper()
	codes = make(chan coder.StatusCode, 1)
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := coder.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		for range requests {
			if _, _, err := ws.Read(context.Background()); err != nil {
				t.Error(err)
				return
			}
		}
		if err := ws.Write(context.Background(), coder.MessageText, []byte(reply)); err != nil {
			t.Error(err)
		}
		for err == nil {
			_, _, err = ws.Read(context.Background())
		}
		codes <- coder.CloseStatus(err)
	})), codes
}

// A reply that is dropped ends its call if it shows which, or if there is only one.
// Otherwise it ends the connection.
func TestReplyOverTheLimit(t *testing.T) {
	large := `"` + strings.Repeat("x", 5000) + `"`
	for _, c := range []struct {
		name, reply string
		calls       int
		ended       []int // of the calls
		code        coder.StatusCode
	}{
		{"with its id first", `{"jsonrpc":"2.0","id":1,"result":` + large + `}`, 2, []int{1}, coder.StatusNormalClosure},
		{"an error with its id first", `{"id":0,"jsonrpc":"2.0","error":{"code":1,"message":` + large + `}}`, 2, []int{0}, coder.StatusNormalClosure},
		{"with its id last, to the only call", `{"jsonrpc":"2.0","result":` + large + `,"id":0}`, 1, []int{0}, coder.StatusNormalClosure},
		{"with its id last, to one of two calls", `{"jsonrpc":"2.0","result":` + large + `,"id":0}`, 2, nil, coder.StatusMessageTooBig},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, codes := replier(t, c.calls, c.reply)
			s := dial(t, websocket.Dialer{Config: websocket.Config{MaxSize: 1000}}, url, nil)
			var calls []*rpcx.Future
			for range c.calls {
				calls = append(calls, s.Go(t.Context(), "text", nil))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for _, i := range c.ended {
				err := calls[i].Wait(ctx, nil)
				size, ok := errors.AsType[*rpcx.SizeError](err)
				if !ok || size.Limit != 1000 || size.Field != "websocket.Config.MaxSize" || errors.Is(err, rpcx.ErrConnectionLost) {
					t.Errorf("call %d ended with %v", i, err)
				}
			}
			if c.code == coder.StatusNormalClosure {
				if n := s.Stats().Pending; n != c.calls-len(c.ended) {
					t.Errorf("%d calls are pending", n)
				}
				s.Close()
			}
			if code := <-codes; code != c.code {
				t.Errorf("the client closed with code %d, want %d", code, c.code)
			}
			if len(c.ended) > 0 {
				return
			}
			for i, call := range calls {
				err := call.Wait(ctx, nil)
				if _, ok := errors.AsType[*rpcx.SizeError](err); !ok || !errors.Is(err, rpcx.ErrConnectionLost) {
					t.Errorf("call %d ended with %v", i, err)
				}
			}
		})
	}
}

// What the other end would not take is not sent, if both ends have the same limit.
func TestOwnMessageOverTheLimit(t *testing.T) {
	url, srv := sizeServer(t, 1000, nil)
	s := dial(t, websocket.Dialer{Config: websocket.Config{MaxSize: 1000}}, url, nil)
	err := s.Call(t.Context(), "echo", rpcx.Args{strings.Repeat("x", 5000)}, nil)
	if want := "message of 5,054 bytes is too large: over 1,000 bytes (websocket.Config.MaxSize), to be raised at both ends"; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
	if err := s.Call(t.Context(), "refuse", nil, nil); err == nil || s.Stats().MessagesSent != 1 {
		t.Errorf("the next call: %v; stats are %+v", err, s.Stats())
	}
	for s := range srv.Sessions() {
		if n := s.Stats().Errors; n != 1 { // that of the second call
			t.Errorf("%d errors are counted", n)
		}
	}
}
