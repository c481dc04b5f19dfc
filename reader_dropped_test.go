package rpcx_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// frame is AppendFrame for what the framer would not take.
func frame(t *testing.T, f rpcx.Framer, msg string) []byte {
	t.Helper()
	out, err := f.AppendFrame(nil, []byte(msg))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unframed returns what comes over conn until it ends or nothing comes any more.
func unframed(t *testing.T, f rpcx.Framer, conn net.Conn) []string {
	t.Helper()
	var all []byte
	buf := make([]byte, 4096)
	for {
		conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, err := conn.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			break
		}
	}
	msgs := []string{}
	lines := bufio.NewScanner(bytes.NewReader(all))
	lines.Split(f.NewSplitter())
	for lines.Scan() {
		msgs = append(msgs, lines.Text())
	}
	return msgs
}

func tooLarge(limit, id string) string {
	return `{"jsonrpc":"2.0","error":{"code":-32600,"message":"message too large (over ` + limit + ` bytes)"},"id":` + id + `}`
}

// A request over the framer's limit is answered, under its id if its beginning shows it,
// and the session goes on.
func TestRequestOverTheLimit(t *testing.T) {
	const ping = `{"jsonrpc":"2.0","method":"reply","id":"ping"}`
	const pong = `{"jsonrpc":"2.0","result":null,"id":"ping"}`
	for name, f := range map[string]func(limit int) rpcx.Framer{
		"lines":   func(limit int) rpcx.Framer { return rpcx.NewlineFramer{MaxSize: limit} },
		"lengths": func(limit int) rpcx.Framer { return rpcx.LengthFramer{MaxSize: limit} },
		"headers": func(limit int) rpcx.Framer { return rpcx.HeaderFramer{MaxSize: limit} },
	} {
		for _, c := range []struct {
			name, begin string
			id          string // that it is answered under; "" if it is not answered
		}{
			{"its id first", `{"jsonrpc":"2.0","id":7,"method":"reply","params":["`, "7"},
			{"its id behind the method", `{"jsonrpc":"2.0","method":"reply","id":"seven","params":{"a":"`, `"seven"`},
			{"its id behind much else", `{"method":"reply","a":"` + strings.Repeat("x", 950) + `","id":7,"params":["`, "7"},
			{"its id behind the first KiB", `{"method":"reply","a":"` + strings.Repeat("x", 1024) + `","id":7,"params":["`, "null"},
			{"its id behind the params", `{"method":"reply","params":["`, "null"},
			{"an id within the params", `{"method":"reply","params":{"id":9,"a":"`, "null"},
			{"two ids", `{"id":7,"id":8,"method":"reply","params":["`, "null"},
			{"a batch", `[{"jsonrpc":"2.0","id":7,"method":"reply"},{"a":"`, "null"},
			{"no JSON", `Dear Sir or Madam`, "null"},
			{"a notification with null as id", `{"id":null,"method":"reply","params":["`, ""},
			{"a notification, padded", `{"jsonrpc":"2.0","method":"reply"}`, ""},
			{"a reply to nobody", `{"jsonrpc":"2.0","id":7,"result":["`, ""},
			{"a reply without its id", `{"jsonrpc":"2.0","result":["`, ""},
			{"an error without an id", `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"`, ""},
		} {
			for _, chunk := range []int{1, 500, 100_000} {
				t.Run(name+"/"+c.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						opts := handling(methods{"reply": reply})
						opts.Framer = f(1500)
						opts.Limits.CostError = 7
						opts.Role = rpcx.RoleServer
						near, far := net.Pipe()
						s := rpcx.NewSession(near, opts)
						data := frame(t, opts.Framer, c.begin+strings.Repeat("x", 3000))
						data = append(data, frame(t, opts.Framer, ping)...)
						go func() {
							for len(data) > 0 {
								n, _ := far.Write(data[:min(chunk, len(data))])
								data = data[n:]
							}
						}()
						want := []string{pong}
						if c.id != "" {
							want = []string{tooLarge("1,500", c.id), pong}
						}
						if got := unframed(t, opts.Framer, far); strings.Join(got, "\n") != strings.Join(want, "\n") {
							t.Errorf("answered %q, want %q", got, want)
						}
						if stats := s.Stats(); stats.Errors != 1 || stats.Cost < 7 || stats.Cost > 8 || stats.MessagesReceived != 1 {
							t.Errorf("stats are %+v", stats)
						}
						s.Close()
						far.Close()
						<-s.Done()
					})
				})
			}
		}
	}
}

// A limit below the first KiB does not hide an id that comes with the first chunk.
func TestRequestOverASmallLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Framer = rpcx.NewlineFramer{MaxSize: 100} // enough for the answer
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"reply","a":"` + strings.Repeat("x", 100) + `","id":7}`)
		w.expect(tooLarge("100", "7"))
	})
}

// JSONFramer waits for the first KiB, or for the end of the message. (The recorded cases
// of NewlineFramer have it report a message with the chunk that goes beyond the limit.)
func TestRequestOverASmallLimitInChunks(t *testing.T) {
	for _, chunk := range []int{1, 60, 120, 2000} {
		for padding, id := range map[int]string{100: "7", 900: "7", 2000: "null"} {
			t.Run(fmt.Sprintf("%d bytes by %d", padding, chunk), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := handling(methods{"reply": reply})
					opts.Framer = rpcx.JSONFramer{MaxSize: 100}
					_, w := newWire(t, opts)
					request := `{"jsonrpc":"2.0","method":"reply","a":"` + strings.Repeat("x", padding) + `","id":7}`
					for part := range slices.Chunk([]byte(request), chunk) {
						w.Write(part)
						synctest.Wait()
					}
					w.expect(tooLarge("100", id))
					w.say(`{"jsonrpc":"2.0","method":"reply","id":8}`)
					w.expect(`{"jsonrpc":"2.0","result":null,"id":8}`)
				})
			})
		}
	}
}

// Other protocols answer in their own form.
func TestRequestOverTheLimitInOtherProtocols(t *testing.T) {
	large := strings.Repeat("x", 2000)
	for _, c := range []struct {
		protocol rpcx.Protocol
		msg      string
		want     []string
	}{
		{rpcx.JSONRPCv1, `{"method":"reply","id":[7],"params":["` + large, []string{`{"result":null,"error":{"code":-32600,"message":"message too large (over 1,500 bytes)"},"id":[7]}`}},
		{rpcx.JSONRPCLoose, `{"id":7,"method":"reply","params":["` + large, []string{tooLarge("1,500", "7")}},
		{rpcx.JSONRPCAutoDetect, `{"id":7,"method":"reply","params":["` + large, []string{tooLarge("1,500", "7")}},
		{rpcx.Aiomas, `[0,7,["reply",["` + large, []string{`[2,7,"Traceback (most recent call last):\nmessage too large (over 1,500 bytes)\n"]`}},
		{rpcx.Aiomas, `{"id":7,"method":"` + large, nil}, // an answer to nobody would end the connection
	} {
		synctest.Test(t, func(t *testing.T) {
			opts := handling(methods{"reply": reply})
			opts.Protocol, opts.Framer = c.protocol, rpcx.NewlineFramer{MaxSize: 1500}
			s, w := newWire(t, opts)
			w.say(c.msg)
			w.expect(c.want...)
			if n := s.Stats().Errors; n != 1 {
				t.Errorf("%T: %d errors are counted", c.protocol, n)
			}
		})
	}
}

// strict is a LengthFramer that cannot go on after a message that is too large.
type strict struct{ rpcx.LengthFramer }

func (f strict) NewSplitter() bufio.SplitFunc {
	split := f.LengthFramer.NewSplitter()
	return func(data []byte, atEOF bool) (int, []byte, error) {
		advance, token, err := split(data, atEOF)
		if frame, ok := err.(*rpcx.FrameError); ok {
			frame.Recoverable = false
		}
		return advance, token, err
	}
}

// Where the framer cannot go on the answer is sent before the session ends.
func TestRequestOverTheLimitOfAnUnrecoverableFramer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Framer = strict{rpcx.LengthFramer{MaxSize: 1500}}
		near, far := net.Pipe()
		s := rpcx.NewSession(near, opts)
		call := s.Go(t.Context(), "call", nil)
		synctest.Wait()
		go far.Write(frame(t, opts.Framer, `{"id":7,"method":"reply","params":["`+strings.Repeat("x", 3000)))
		got := unframed(t, opts.Framer, far)
		if len(got) != 2 || got[1] != tooLarge("1,500", "7") {
			t.Errorf("sent %q", got)
		}
		size, ok := errors.AsType[*rpcx.SizeError](ended(t, s))
		if want := (rpcx.SizeError{Size: 3036, Limit: 1500, Field: "LengthFramer.MaxSize"}); !ok || *size != want {
			t.Errorf("the session ended with %v", s.Err())
		}
		matches(t, call.Err(), rpcx.ErrConnectionLost)
		far.Close()
	})
}

// A charset that cannot be read ends the session, after an answer that says so.
func TestCharsetIsAnsweredBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Framer = rpcx.HeaderFramer{}
		near, far := net.Pipe()
		s := rpcx.NewSession(near, opts)
		go far.Write([]byte("Content-Type: a/b; charset=utf-16\r\nContent-Length: 2\r\n\r\n{}"))
		const want = `{"jsonrpc":"2.0","error":{"code":-32700,"message":"charset \"utf-16\" in a Content-Type: messages have to be in utf-8"},"id":null}`
		if got := unframed(t, opts.Framer, far); len(got) != 1 || got[0] != want {
			t.Errorf("answered %q", got)
		}
		if err := ended(t, s); !strings.Contains(err.Error(), `charset "utf-16"`) {
			t.Errorf("the session ended with %v", err)
		}
		far.Close()
	})
}

// A reply over the framer's limit ends its call at once, with an error that names the
// limit.
func TestReplyOverTheLimit(t *testing.T) {
	large := strings.Repeat("x", 2000)
	for _, c := range []struct {
		name, reply string
		calls       int
		ended       []int // of the calls
	}{
		{"its id first", `{"jsonrpc":"2.0","id":1,"result":"` + large + `"}`, 3, []int{1}},
		{"an error", `{"error":{"code":1,"message":"m"},"id":2,"data":"` + large + `"}`, 3, []int{2}},
		{"an id in another form", `{"id":1.0,"result":"` + large + `"}`, 3, []int{1}},
		{"its id last, to the only call", `{"jsonrpc":"2.0","result":"` + large + `","id":0}`, 1, []int{0}},
		{"its id last", `{"jsonrpc":"2.0","result":"` + large + `","id":0}`, 2, nil},
		{"an id that is none of ours", `{"jsonrpc":"2.0","id":9,"result":"` + large + `"}`, 1, nil},
		{"an error with id null", `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"` + large + `"}}`, 1, nil},
		{"an array", `[{"jsonrpc":"2.0","id":1,"result":"` + large + `"}]`, 2, []int{1}},
		{"a request under the same id", `{"jsonrpc":"2.0","id":1,"method":"m","result":"` + large + `"}`, 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Framer: rpcx.NewlineFramer{MaxSize: 1000}})
				var calls []*rpcx.Future
				for range c.calls {
					calls = append(calls, s.Go(t.Context(), "text", nil))
				}
				begin := time.Now()
				w.say(c.reply)
				synctest.Wait()
				if n := s.Stats().Pending; n != c.calls-len(c.ended) {
					t.Errorf("%d calls are pending", n)
				}
				for _, i := range c.ended {
					err := calls[i].Wait(t.Context(), nil)
					size, ok := errors.AsType[*rpcx.SizeError](err)
					if !ok || size.Limit != 1000 || size.Field != "NewlineFramer.MaxSize" || !strings.HasPrefix(err.Error(), "reply dropped: ") {
						t.Errorf("call %d ended with %v", i, err)
					}
				}
				if time.Since(begin) > 0 {
					t.Error("they waited")
				}
				if stats := s.Stats(); stats.Errors != 1 {
					t.Errorf("stats are %+v", stats)
				}
				for i, call := range calls {
					if call.Err() == nil {
						w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%d}`, i, i))
						var got int
						if err := call.Wait(t.Context(), &got); got != i || err != nil {
							t.Errorf("call %d has %d, %v", i, got, err)
						}
					}
				}
			})
		})
	}
}

// An array of replies that is dropped ends all calls of its batch.
func TestBatchReplyOverTheLimit(t *testing.T) {
	large := strings.Repeat("x", 2000)
	for name, reply := range map[string]string{
		"its first id shows": `[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":2,"result":"` + large + `"}]`,
		"no id shows":        `[{"jsonrpc":"2.0","result":"` + large + `","id":1}]`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Framer: rpcx.NewlineFramer{MaxSize: 1000}})
				if err := s.Notify(t.Context(), "first", nil); err != nil {
					t.Fatal(err)
				}
				other := s.Go(t.Context(), "other", nil)
				if name == "no id shows" {
					w.say(`{"jsonrpc":"2.0","id":0,"result":1}`)
					if err := other.Wait(t.Context(), nil); err != nil {
						t.Fatal(err)
					}
				}
				var b rpcx.Batch
				calls := []*rpcx.Future{b.Call("one", nil, nil), b.Call("two", nil, nil)}
				done := s.GoBatch(t.Context(), &b)
				w.say(reply)
				synctest.Wait()
				for i, call := range calls {
					if _, ok := errors.AsType[*rpcx.SizeError](call.Err()); !ok {
						t.Errorf("call %d ended with %v", i, call.Err())
					}
				}
				if _, ok := errors.AsType[*rpcx.BatchError](done.Err()); !ok {
					t.Errorf("the batch ended with %v", done.Err())
				}
				if name != "no id shows" {
					if n := s.Stats().Pending; n != 1 {
						t.Errorf("%d calls are pending, want the other one", n)
					}
					w.say(`{"jsonrpc":"2.0","id":0,"result":1}`)
				}
				if err := other.Wait(t.Context(), nil); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What is dropped while a call given up may still be answered ends no other call.
func TestLateReplyOverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Framer: rpcx.NewlineFramer{MaxSize: 1000}})
		first := s.Go(t.Context(), "first", nil)
		first.Cancel()
		second := s.Go(t.Context(), "second", nil)
		w.say(`{"jsonrpc":"2.0","result":"` + strings.Repeat("x", 2000) + `","id":0}`)
		synctest.Wait()
		if n := s.Stats().Pending; n != 1 {
			t.Errorf("%d calls are pending", n)
		}
		w.say(`{"jsonrpc":"2.0","id":0,"result":"`+strings.Repeat("x", 2000)+`"}`, `{"jsonrpc":"2.0","id":1,"result":1}`)
		if err := second.Wait(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if stats := s.Stats(); stats.LateReplies != 1 || stats.Errors != 2 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

// A peer that sends nothing else is ended for its cost, as before.
func TestRequestsOverTheLimitCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Framer = rpcx.NewlineFramer{MaxSize: 1500}
		s, w := newServed(t, opts)
		go io.Copy(io.Discard, w)
		n := 0
		for ; n < 200; n++ {
			if _, err := w.Write([]byte(`{"id":7,"method":"reply","params":["` + strings.Repeat("x", 2000) + "\"]}\n")); err != nil {
				break
			}
			synctest.Wait()
		}
		if n < 99 || n > 105 {
			t.Errorf("it ended after %d requests", n)
		}
		matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
	})
}

// A custom MessageConn tells by a FrameError what it dropped, and may say why it closes.
func TestDroppedByAMessageConn(t *testing.T) {
	for _, begin := range []string{`{"id":7,"method":"m",`, `{"method":"m","params":[`} {
		for _, explains := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				conn := &droppingConn{drop: []byte(begin), sent: make(chan string, 1), closed: make(chan error, 1)}
				var mc rpcx.MessageConn = conn
				if explains {
					mc = explainingConn{conn}
				}
				s := rpcx.NewMessageSession(mc, nil)
				id := "null"
				if strings.Contains(begin, "7") {
					id = "7"
				}
				if got := <-conn.sent; got != tooLarge("1,500", id) {
					t.Errorf("answered %s", got)
				}
				synctest.Wait()
				select {
				case cause := <-conn.closed:
					if _, ok := errors.AsType[*rpcx.SizeError](cause); !ok || !explains || id == "7" {
						t.Errorf("it was closed for %v", cause)
					}
					conn.closed <- cause // for ReadMessage
				default:
					if explains && id == "null" {
						t.Error("it was not closed")
					}
				}
				s.Close()
				<-s.Done()
			})
		}
	}
}

// droppingConn is a MessageConn that drops a message and then waits for its end.
type droppingConn struct {
	drop   []byte
	sent   chan string
	closed chan error
}

func (c *droppingConn) ReadMessage() ([]byte, error) {
	if start := c.drop; start != nil {
		c.drop = nil
		return nil, &rpcx.FrameError{
			Message: "too large", Recoverable: true, Start: start,
			TooLarge: &rpcx.SizeError{Limit: 1500, Field: "droppingConn"},
		}
	}
	err := <-c.closed
	c.closed <- err
	return nil, io.EOF
}

func (c *droppingConn) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		c.sent <- string(msg)
	}
	return nil
}

func (c *droppingConn) Close() error {
	c.closed <- nil
	return nil
}

// explainingConn is a droppingConn that is told why it is closed.
type explainingConn struct{ *droppingConn }

func (c explainingConn) CloseWithError(cause error) error {
	c.closed <- cause
	return nil
}
