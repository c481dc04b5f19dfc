package rpcx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
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

// A call that times out says what came meanwhile that may have been its reply, and names
// the limit that has dropped it.
func TestTimeoutTellsOfABadMessage(t *testing.T) {
	large := strings.Repeat("x", 2000)
	const dropped = "; a bad message came meanwhile: framing error: dropping message over 1,000 bytes"
	for name, c := range map[string]struct {
		framer rpcx.Framer
		before string // comes before the calls
		after  string
		want   string // in the error of the calls; "" for nothing
	}{
		"too large a line":         {rpcx.NewlineFramer{MaxSize: 1000}, "", `{"result":"` + large + `"}`, dropped + " and re-synchronizing (NewlineFramer.MaxSize)"},
		"too large a value":        {rpcx.JSONFramer{MaxSize: 1000}, "", `{"result":"` + large + `"}`, dropped + " (JSONFramer.MaxSize)"},
		"no JSON":                  {nil, "", "Dear Sir or Madam", "; a bad message came meanwhile: protocol error: invalid JSON (code -32700)"},
		"an id that is none":       {nil, "", `{"jsonrpc":"2.0","result":1,"id":"a"}`, `; a bad message came meanwhile: protocol error: response to unsent request (ID: "a") (code -32600)`},
		"before the call was sent": {rpcx.NewlineFramer{MaxSize: 1000}, `{"result":"` + large + `"}`, "", ""},
		"nothing":                  {nil, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Framer: c.framer})
				s.Go(t.Context(), "early", nil) // or nobody would be told of what comes before
				if c.before != "" {
					w.say(c.before)
					synctest.Wait()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				first, second := s.Go(t.Context(), "m", nil), s.Go(t.Context(), "m", nil)
				bounded := s.Go(ctx, "m", nil)
				batch := &rpcx.Batch{}
				batch.Call("m", nil, nil)
				member := s.GoBatch(t.Context(), batch)
				if c.after != "" {
					w.say(c.after)
				}
				for _, f := range []*rpcx.Future{first, second, member} {
					err := f.Wait(t.Context(), nil)
					if !errors.Is(err, rpcx.ErrTimeout) || !strings.HasSuffix(err.Error(), rpcx.ErrTimeout.Error()+c.want) {
						t.Errorf("a call ended with %v", err)
					}
				}
				err := bounded.Wait(t.Context(), nil)
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpcx.ErrTimeout) || err.Error() != context.DeadlineExceeded.Error()+c.want {
					t.Errorf("the call with a deadline ended with %v", err)
				}
				late := s.Call(t.Context(), "m", nil, nil) // sent later
				if late == nil || late.Error() != rpcx.ErrTimeout.Error() {
					t.Errorf("a call that was sent later ended with %v", late)
				}
			})
		})
	}
}

// What the peer sends that this side does not take for a message is named, once, in the
// log, and by calls that time out meanwhile.
func TestInputThatIsNoMessageIsNamed(t *testing.T) {
	const reply = `{"jsonrpc":"2.0","result":1,"id":0}`
	const values = "JSON without newlines, as JSONFramer reads"
	for name, c := range map[string]struct {
		framer rpcx.Framer
		input  string
		want   string // "" for nothing
	}{
		"a value without a newline":  {nil, reply, values},
		"two":                        {nil, reply + reply, values},
		"a large value, and another": {nil, reply + `{"a":"` + strings.Repeat("x", 10_000), values},
		"half a value":               {nil, reply[:20], ""},
		"a line":                     {nil, reply + "\n", ""},
		"a line and a value":         {nil, reply + "\n" + reply, ""},
		"a length before it":         {nil, "\x00\x00\x00\x23" + reply, "messages with their lengths before them, as LengthFramer reads"},
		"no headers":                 {rpcx.HeaderFramer{}, reply, "JSON with nothing before it, as NewlineFramer and JSONFramer read"},
		"half a message":             {rpcx.HeaderFramer{}, "Content-Length: 100\r\n\r\n" + reply, ""},
		"half of what it reads":      {rpcx.JSONFramer{}, reply[:20], ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				s, w := newWire(t, &rpcx.Options{Framer: c.framer, Logger: slog.New(log)})
				call := s.Go(t.Context(), "m", nil)
				for part := range strings.SplitAfterSeq(c.input, ",") {
					w.Write([]byte(part))
					synctest.Wait()
				}
				time.Sleep(4 * time.Second)
				if got := log.take(); len(got) > 0 {
					t.Errorf("%q was logged at once", got)
				}
				time.Sleep(time.Minute)
				got := log.attr("looks like")
				if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || got[0] != c.want) {
					t.Errorf("the log says that it looks like %q, want %q", got, c.want)
				}
				err := call.Err()
				if text := "what has come is not taken for a message: it looks like " + c.want; c.want != "" &&
					(!errors.Is(err, rpcx.ErrTimeout) || !strings.HasSuffix(err.Error(), text)) {
					t.Errorf("the call ended with %v", err)
				}
				if c.want == "" && err != nil && err.Error() != rpcx.ErrTimeout.Error() {
					t.Errorf("the call ended with %v", err)
				}
			})
		})
	}
}

// A peer that sends its first message in small parts costs no more than before.
func TestInputThatIsNoMessageInSmallParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		s, w := newWire(t, &rpcx.Options{Logger: slog.New(log)})
		call := s.Go(t.Context(), "m", nil)
		for _, c := range `{"jsonrpc":"2.0","result":"` + strings.Repeat("x", 6000) + `","id":0}` {
			w.Write([]byte(string(c)))
		}
		time.Sleep(10 * time.Second)
		w.Write([]byte("\n"))
		if err := call.Wait(t.Context(), nil); err != nil || len(log.take()) > 0 {
			t.Errorf("the call ended with %v, and %q was logged", err, log.take())
		}
	})
}

// A peer that refuses a batch as a whole answers with one error under id null. The
// batch waited for its timeout.
func TestBatchThatThePeerRefusesFailsAtOnce(t *testing.T) {
	for name, limit := range map[string]int{"by one member": 3, "by all": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := handling(methods{"reply": reply})
				server.Limits.Batch = limit
				a, _ := newPipe(t, nil, server)
				if err := a.Call(t.Context(), "reply", nil, nil); err != nil {
					t.Fatal(err)
				}
				var b rpcx.Batch
				b.Notify("reply", nil)
				members := []*rpcx.Future{b.Call("reply", nil, nil), b.Call("reply", nil, nil)}
				b.Notify("reply", nil)
				takes(t, 0, func() {
					err := a.SendBatch(t.Context(), &b)
					matches(t, err, rpcx.ErrInvalidRequest)
					var batch *rpcx.BatchError
					if !errors.As(err, &batch) || !strings.Contains(err.Error(), "batch too long") {
						t.Errorf("SendBatch returns %v", err)
					}
				})
				for i, f := range members {
					var e *rpcx.Error
					if !errors.As(f.Err(), &e) || e.Code != rpcx.CodeInvalidRequest {
						t.Errorf("member %d has %v", i, f.Err())
					}
				}
				if stats := a.Stats(); stats.UnexpectedReplies != 0 || stats.Errors != 0 || stats.Pending != 0 {
					t.Errorf("stats are %+v", stats)
				}
				if err := a.Call(t.Context(), "reply", nil, nil); err != nil {
					t.Errorf("the next call fails with %v", err)
				}
			})
		})
	}
}

func TestErrorWithoutAnIDFailsTheOnlyCall(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		say      string
		want     error
	}{
		"a parse error":   {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","error":{"code":-32700,"message":"what?"},"id":null}`, rpcx.ErrParseError},
		"invalid request": {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}`, rpcx.ErrInvalidRequest},
		"1.0":             {rpcx.JSONRPCv1, `{"error":{"code":-32600,"message":"no"},"id":null}`, rpcx.ErrInvalidRequest},
		"loose":           {rpcx.JSONRPCLoose, `{"error":{"code":"-32700","message":"no"},"result":null,"id":null}`, rpcx.ErrParseError},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: test.protocol})
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(test.say)
				if !isDone(f) {
					t.Fatal("the call waits on")
				}
				matches(t, f.Err(), test.want)
				w.expectNothing()
			})
		})
	}
}

// An answer of ours, a cancellation and a probe are messages that the peer may mean.
func TestErrorWithoutAnIDAfterOtherMessagesIsForNobody(t *testing.T) {
	const refusal = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}`
	for name, test := range map[string]struct {
		opts rpcx.Options
		send func(s *rpcx.Session, w *wire)
	}{
		"a reply":        {rpcx.Options{}, func(_ *rpcx.Session, w *wire) { w.say(`{"jsonrpc":"2.0","method":"m","id":1}`) }},
		"a refusal":      {rpcx.Options{}, func(_ *rpcx.Session, w *wire) { w.say(`{"jsonrpc":"2.0"}`) }},
		"a notification": {rpcx.Options{}, func(s *rpcx.Session, _ *wire) { _ = s.Notify(context.Background(), "n", nil) }},
		"a call given up": {rpcx.Options{Cancellation: rpcx.LSPCancellation}, func(s *rpcx.Session, _ *wire) {
			s.Go(context.Background(), "n", nil).Cancel()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &test.opts)
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				test.send(s, w)
				if len(w.heard()) == 0 {
					t.Fatal("nothing was sent")
				}
				w.say(refusal)
				if isDone(f) {
					t.Errorf("the call has failed with %v", f.Err())
				}
				if n := s.Stats().UnexpectedReplies; n != 1 {
					t.Errorf("%d replies are unexpected", n)
				}
				w.say(answered("1", 0))
				if !isDone(f) || f.Err() != nil {
					t.Errorf("its reply comes, and it has %v", f.Err())
				}
			})
		})
	}
}

// A reply that names one pending call ends that at once, and not after 30 seconds.
func TestBadReplyEndsItsCallAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		say      string
		want     string
	}{
		"neither result nor error":        {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0}`, `neither "result" nor "error"`},
		"and another member":              {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"Result":1}`, `neither "result" nor "error"`},
		"and an id that is a string":      {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0"}`, `the string "0", not the number 0`},
		"and no version":                  {rpcx.JSONRPCv2, `{"id":0}`, `"jsonrpc" is not "2.0"`},
		"an id that is a string":          {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0","result":1}`, `the string "0", not the number 0`},
		"one with an escape":              {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"\u0030","result":1}`, `the string "\u0030", not the number 0`},
		"a string of 0.0":                 {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0.0","result":1}`, `the string "0.0", not the number 0`},
		"an error under such an id":       {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0","error":{"code":1,"message":"m"}}`, `the string "0", not the number 0`},
		"in an array":                     {rpcx.JSONRPCv2, `[{"jsonrpc":"2.0","id":0}]`, `neither "result" nor "error"`},
		"in an array, with a string":      {rpcx.JSONRPCv2, `[{"jsonrpc":"2.0","id":"0","result":1}]`, `the string "0", not the number 0`},
		"no version":                      {rpcx.JSONRPCv2, `{"id":0,"result":1}`, `"jsonrpc" is not "2.0"`},
		"result and error":                {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"result":1,"error":{"code":1,"message":"m"}}`, `both "result" and "error"`},
		"a code that is a string":         {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"error":{"code":"-32000","message":"m"}}`, `(ID: 0)`},
		"a code with a fraction":          {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"error":{"code":-32000.0,"message":"m"}}`, `(ID: 0)`},
		"NaN, as Python writes it":        {rpcx.JSONRPCv2, `{"jsonrpc": "2.0", "result": NaN, "id": 0}`, `invalid JSON (ID: 0)`},
		"a line that is cut off":          {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"result":{"x":[1,2`, `invalid JSON (ID: 0)`},
		"text in Latin-1":                 {rpcx.JSONRPCv2, "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":\"\xe9\"}", `UTF-8 (ID: 0)`},
		"1.0, neither":                    {rpcx.JSONRPCv1, `{"id":0}`, `"result" and "error"`},
		"1.0, an id that is a string":     {rpcx.JSONRPCv1, `{"id":"0","result":1,"error":null}`, `the string "0", not the number 0`},
		"loose, two outcomes":             {rpcx.JSONRPCLoose, `{"id":"0","result":1,"error":1}`, `both "result" and "error"`},
		"loose, NaN":                      {rpcx.JSONRPCLoose, `{"id":"0","result":NaN}`, `invalid JSON (ID: "0")`},
		"not known yet, a string":         {rpcx.JSONRPCAutoDetect, `{"jsonrpc":"2.0","id":"0","result":1}`, `the string "0", not the number 0`},
		"a method that is null":           {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":null,"result":1,"id":0}`, `a "method" (ID: 0)`},
		"and null params, and an error":   {rpcx.JSONRPCv2, `{"id":0,"jsonrpc":"2.0","method":null,"params":null,"error":{"code":1,"message":"m"}}`, `a "method" (ID: 0)`},
		"a method that is a number":       {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":5,"result":1,"id":0}`, `a "method" (ID: 0)`},
		"a method that is null, and NaN":  {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":null,"result":NaN,"id":0}`, `invalid JSON (ID: 0)`},
		"1.0, a method that is null":      {rpcx.JSONRPCv1, `{"method":null,"result":1,"error":null,"id":0}`, `a "method" (ID: 0)`},
		"not known yet, an array of NaNs": {rpcx.JSONRPCAutoDetect, `[{"jsonrpc":"2.0","id":0,"result":NaN}]`, `invalid JSON (ID: 0)`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: test.protocol})
				f, other := s.Go(t.Context(), "m", nil), s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(test.say)
				if !isDone(f) {
					t.Fatal("the call waits on")
				}
				var perr *rpcx.ProtocolError
				if !errors.As(f.Err(), &perr) || !strings.Contains(perr.Message, test.want) {
					t.Errorf("its error is %v", f.Err())
				}
				if isDone(other) {
					t.Errorf("another call has ended with %v", other.Err())
				}
				w.expectNothing()
				if stats := s.Stats(); stats.Errors != 1 || stats.UnexpectedReplies != 0 {
					t.Errorf("stats are %+v", stats)
				}
				live(t, s)
			})
		})
	}
}

// What comes in one piece is dealt with as what comes line by line.
func TestBadRepliesInOnePiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		a, b := s.Go(t.Context(), "m", nil), s.Go(t.Context(), "m", nil)
		w.heard()
		w.say(answered("1", 0) + "\n" + `{"jsonrpc":"2.0","id":0}` + "\n" + `{"jsonrpc":"2.0","id":1}`)
		if !isDone(a) || !isDone(b) || a.Err() != nil || b.Err() == nil {
			t.Errorf("the calls have %v and %v", a.Err(), b.Err())
		}
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}`)
	})
}

func TestLooseRepliesAreTakenForWhatTheyMean(t *testing.T) {
	for name, test := range map[string]struct {
		say  string
		want string
	}{
		"no result":                    {`{"jsonrpc":"2.0","id":0}`, "null"},
		"a null error, and no result":  {`{"id":0,"error":null}`, "null"},
		"an id that is a string":       {`{"id":"0","result":[1]}`, "[1]"},
		"that, without a result":       {`{"id":"0"}`, "null"},
		"all in an array":              {`[{"id":"0","result":5}]`, "5"},
		"a null for each other member": {`{"method":null,"params":null,"error":null,"id":0,"result":7}`, "7"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: rpcx.JSONRPCLoose})
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(test.say)
				var got json.RawMessage
				if !isDone(f) || f.Decode(&got) != nil || string(got) != test.want {
					t.Errorf("done: %v, with %s and %v", isDone(f), got, f.Err())
				}
				w.expectNothing()
				if stats := s.Stats(); stats.Errors != 0 {
					t.Errorf("stats are %+v", stats)
				}
			})
		})
	}
}

// The replies are those of ovsdb-server, bitcoind, and others of their kind.
func TestErrorsOfAnyShape(t *testing.T) {
	v1, loose := rpcx.JSONRPCv1, rpcx.JSONRPCLoose
	const none = "no error message provided"
	for name, test := range map[string]struct {
		protocols []rpcx.Protocol
		say       string
		want      rpcx.Error
	}{
		"an object of other members": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"error":"unknown database","details":"no such"},"result":null}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`{"error":"unknown database","details":"no such"}`)}},
		"without a result": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"error":"x"}}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`{"error":"x"}`)}},
		"a string": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":"canceled","result":null}`,
			rpcx.Error{Code: -100, Message: "canceled", Data: json.RawMessage(`"canceled"`)}},
		"an array": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":[1, "two"]}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`[1, "two"]`)}},
		"a number": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":7}`,
			rpcx.Error{Code: 7, Message: none, Data: json.RawMessage(`7`)}},
		"true": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":true}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`true`)}},
		"an empty object": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{}}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`{}`)}},
		"a code alone": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":3,"data":1}}`,
			rpcx.Error{Code: 3, Message: none, Data: json.RawMessage(`{"code":3,"data":1}`)}},
		"a message alone": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"message":"m"}}`,
			rpcx.Error{Code: -100, Message: "m", Data: json.RawMessage(`{"message":"m"}`)}},
		"a code and a message": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":3,"message":"m"}}`,
			rpcx.Error{Code: 3, Message: "m"}},
		"and data": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":3,"message":"m","data":[1]}}`,
			rpcx.Error{Code: 3, Message: "m", Data: json.RawMessage(`[1]`)}},
		"and what has another name": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"name":"JSONRPCError","code":3,"message":"m","error":[1]}}`,
			rpcx.Error{Code: 3, Message: "m", Data: json.RawMessage(`{"name":"JSONRPCError","code":3,"message":"m","error":[1]}`)}},
		"a code in a string": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":"-32000","message":"m"}}`,
			rpcx.Error{Code: -32000, Message: "m"}},
		"a code with a fraction": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":-32000.0,"message":"m"}}`,
			rpcx.Error{Code: -32000, Message: "m"}},
		"a code that is none": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":"E42","message":"m"}}`,
			rpcx.Error{Code: -100, Message: "m", Data: json.RawMessage(`{"code":"E42","message":"m"}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range test.protocols {
				synctest.Test(t, func(t *testing.T) {
					s, w := newWire(t, &rpcx.Options{Protocol: p})
					f := s.Go(t.Context(), "m", nil)
					w.heard()
					w.say(test.say)
					if !isDone(f) {
						t.Fatal("the call waits on")
					}
					if diff := cmp.Diff(error(&test.want), f.Err()); diff != "" {
						t.Errorf("wrong error (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
}

func TestHalfAResponseOfJSONRPC1(t *testing.T) {
	for name, test := range map[string]struct {
		say    string
		result string // or
		code   int
	}{
		"a result without an error":     {`{"id":0,"result":["Open_vSwitch"]}`, `["Open_vSwitch"]`, 0},
		"a null result without one":     {`{"result":null,"id":0}`, `null`, 0},
		"an error without a result":     {`{"id":0,"error":{"code":5,"message":"no"}}`, ``, 5},
		"an error beside a null result": {`{"id":0,"error":{"code":5,"message":"no"},"result":null}`, ``, 5},
		"a result beside a null error":  {`{"id":0,"error":null,"result":1}`, `1`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: rpcx.JSONRPCv1})
				f := s.Go(t.Context(), "list_dbs", nil)
				w.expect(`{"method":"list_dbs","params":[],"id":0}`)
				w.say(test.say)
				var got json.RawMessage
				var e *rpcx.Error
				err := f.Wait(t.Context(), &got)
				switch {
				case test.code == 0 && (err != nil || string(got) != test.result):
					t.Errorf("got %s, %v", got, err)
				case test.code != 0 && (!errors.As(err, &e) || e.Code != test.code):
					t.Errorf("got the error %v", err)
				}
			})
		})
	}
}

const sumCall, sumReply = `{"jsonrpc":"2.0","method":"add","params":[1,2],"id":1}`, `{"jsonrpc":"2.0","result":3,"id":1}`

// adding returns the options of a server that adds.
func adding() *rpcx.Options {
	return &rpcx.Options{Role: rpcx.RoleServer, Handler: methods{"add": add}}
}

// add answers with the sum of the request's arguments, which are integers.
func add(_ context.Context, req *rpcx.Request) (any, error) {
	var terms []json.Number
	if err := req.Bind(&terms); err != nil {
		return nil, err
	}
	sum := int64(0)
	for _, term := range terms {
		n, err := term.Int64()
		if err != nil {
			return nil, rpcx.InvalidParams("%s is no integer", term)
		}
		sum += n
	}
	return sum, nil
}

func TestBlankLinesArePassedOver(t *testing.T) {
	for name, c := range map[string]struct{ before, between string }{
		"two newlines behind each message": {"", "\n"},
		"lines that end as in DOS":         {"\r\n", "\r\n\r\n"},
		"white space":                      {" \t\n", "  \n\t\n \r\n"},
		"as many as there may be":          {strings.Repeat("\n", 100), strings.Repeat("\n", 100)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, adding())
				w.Write([]byte(c.before))
				for range 100 {
					w.say(sumCall)
					w.Write([]byte(c.between))
					w.expect(sumReply)
				}
				if stats := s.Stats(); stats.Errors != 0 || stats.MessagesReceived != 100 || stats.Cost > 1 {
					t.Errorf("%d errors, %d messages, a cost of %v", stats.Errors, stats.MessagesReceived, stats.Cost)
				}
			})
		})
	}
}

// The reader looked for the start of the first message behind input that it had released,
// and panicked: a long line that is no message had come before any message.
func TestLongLineBeforeTheFirstMessage(t *testing.T) {
	long := strings.Repeat(" ", 100_000)
	t.Run("a blank one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, w := newWire(t, adding())
			w.say(long + "\n")
			w.say(sumCall)
			w.expect(sumReply)
		})
	})
	t.Run("to a session that is closing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newDeafWire(t, adding())
			if err := s.Notify(t.Context(), "m", nil); err != nil {
				t.Fatal(err)
			}
			s.Close()
			w.say(sumCall + long + "\n" + sumCall)
			w.listen()
			if err := ended(t, s); err != rpcx.ErrClosed {
				t.Errorf("it ended with %v", err)
			}
		})
	})
}

// Some programs end a message with a newline that its Content-Length does not count.
func TestBlankLinesBeforeHeadersArePassedOver(t *testing.T) {
	for name, blank := range map[string]string{
		"a newline":               "\n",
		"as in headers":           "\r\n",
		"as many as there may be": strings.Repeat("\r\n", 100),
	} {
		for _, chunk := range []int{1, 10_000} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := adding()
					opts.Framer = rpcx.HeaderFramer{}
					s, w := newWire(t, opts)
					call := string(frame(t, opts.Framer, sumCall))
					for part := range slices.Chunk([]byte(blank+call+blank+call+blank), chunk) {
						w.Write(part)
						synctest.Wait()
					}
					if stats := s.Stats(); stats.Errors != 0 || stats.MessagesReceived != 2 || stats.MessagesSent != 2 {
						t.Errorf("%d errors, %d messages, %d replies", stats.Errors, stats.MessagesReceived, stats.MessagesSent)
					}
					w.Close()
					if err := ended(t, s); err != io.EOF {
						t.Errorf("it ended with %v", err)
					}
				})
			})
		}
	}
}

// Blank lines before headers have the bound of others, and the session goes on.
func TestBlankLinesBeforeHeadersHaveABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := adding()
		opts.Framer = rpcx.HeaderFramer{}
		s, w := newWire(t, opts)
		w.Write([]byte(strings.Repeat("\r\n", 101)))
		w.Write(frame(t, opts.Framer, sumCall))
		synctest.Wait()
		if stats := s.Stats(); stats.Errors != 1 || stats.MessagesReceived != 2 || stats.MessagesSent != 2 {
			t.Errorf("%d errors, %d messages, %d replies", stats.Errors, stats.MessagesReceived, stats.MessagesSent)
		}
		live(t, s)
	})
}

// Beyond the bound, one blank line of 101 is a bad message. A peer that sends one from
// time to time, to keep the connection, is not cut off.
func TestBlankLinesHaveABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, adding())
		w.Write([]byte(strings.Repeat("\n", 100)))
		w.expectNothing()
		w.Write([]byte(strings.Repeat("\n", 102)))
		bad := `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`
		w.expect(bad, bad)
		if stats := s.Stats(); stats.Errors != 2 || stats.Cost < 2200 {
			t.Errorf("%d errors, a cost of %v", stats.Errors, stats.Cost)
		}
		for range 24 * 60 {
			time.Sleep(30 * time.Second)
			w.say("")
		}
		w.heard()
		w.say(sumCall)
		w.expect(sumReply)
		go w.Write([]byte(strings.Repeat("\n", 5000)))
		if err, ok := errors.AsType[*rpcx.CostError](ended(t, s)); !ok {
			t.Errorf("it ended with %v", err)
		}
	})
}

// A blank line is a sign of life.
func TestBlankLineKeepsASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := adding()
		opts.Limits.IdleTimeout = time.Minute
		s, w := newWire(t, opts)
		for range 5 {
			time.Sleep(50 * time.Second)
			w.say("")
			synctest.Wait()
		}
		takes(t, time.Minute, func() { <-s.Done() })
		if err := s.Err(); err != rpcx.ErrIdle {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestByteOrderMarkIsPassedOver(t *testing.T) {
	const mark = "\xef\xbb\xbf"
	sized, _ := rpcx.LengthFramer{}.AppendFrame(nil, []byte(mark+sumCall))
	headed, _ := rpcx.HeaderFramer{}.AppendFrame(nil, []byte(sumCall))
	within, _ := rpcx.HeaderFramer{}.AppendFrame(nil, []byte(mark+sumCall))
	for name, c := range map[string]struct {
		framer rpcx.Framer
		input  string
	}{
		"lines":                      {nil, mark + sumCall + "\n"},
		"behind it a blank line":     {nil, mark + "\r\n" + sumCall + "\n"},
		"a framer of somebody else":  {struct{ rpcx.Framer }{rpcx.NewlineFramer{}}, mark + sumCall + "\n"},
		"values":                     {rpcx.JSONFramer{}, mark + sumCall},
		"headers":                    {rpcx.HeaderFramer{}, mark + string(headed)},
		"in a message behind header": {rpcx.HeaderFramer{}, string(within)},
		"in a message behind length": {rpcx.LengthFramer{}, string(sized)},
	} {
		for _, protocol := range []rpcx.Protocol{rpcx.JSONRPCv2, rpcx.JSONRPCAutoDetect} {
			for _, step := range []int{1, 2, 3, len(c.input)} {
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						opts := adding()
						opts.Framer, opts.Protocol = c.framer, protocol
						s, w := newWire(t, opts)
						for part := range slices.Chunk([]byte(c.input), step) {
							w.Write(part)
						}
						heard := w.heard()
						w.Close()
						ended(t, s)
						if stats := s.Stats(); stats.Errors != 0 || stats.MessagesReceived != 1 || stats.MessagesSent != 1 {
							t.Errorf("%d errors, %d messages received; heard %q", stats.Errors, stats.MessagesReceived, heard)
						}
						if s.Protocol() != rpcx.JSONRPCv2 {
							t.Errorf("it speaks %#v", s.Protocol())
						}
					})
				})
			}
		}
	}
	t.Run("only before the first message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, w := newWire(t, adding())
			bad := `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`
			w.say(mark + sumCall)
			w.expect(sumReply)
			w.say(mark + sumCall)
			w.expect(bad)
			_, w = newWire(t, adding())
			w.say(mark + mark + mark + sumCall)
			w.expect(bad)
		})
	})
	t.Run("on a connection that keeps messages apart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := newSockets()
			s := rpcx.NewMessageSession(near, adding())
			far.out <- []byte(mark + sumCall)
			if msg := <-far.in; string(msg) != sumReply {
				t.Errorf("got %s", msg)
			}
			far.Close()
			ended(t, s)
		})
	})
	t.Run("what is no text is left alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var noted events
			opts := &rpcx.Options{
				Framer:   rpcx.BitcoinFramer{Magic: [4]byte{0xef, 0xbb, 0xbf, 1}},
				Protocol: rpcx.BitcoinProtocol,
				Handler:  methods{"ping": func(_ context.Context, _ *rpcx.Request) (any, error) { noted.add("ping"); return nil, nil }},
			}
			a, b := wired(opts, opts)
			if err := a.Notify(t.Context(), "ping", nil); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if got := noted.take(); len(got) != 1 {
				t.Errorf("noted %q", got)
			}
			a.Close()
			ended(t, b)
		})
	})
}

// What cannot be a message is named in the log and by the error with which the session
// ends, also where the peer waits for something else.
func TestForeignInputIsNamed(t *testing.T) {
	const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "0123456789"
	utf16 := "\xff\xfe{\x00\"\x00a\x00\"\x00:\x001\x00}\x00\n\x00"
	text := func(names ...string) []rpcx.Framer {
		framers := map[string]rpcx.Framer{
			"lines": rpcx.NewlineFramer{}, "values": rpcx.JSONFramer{}, "headers": rpcx.HeaderFramer{},
			"lengths": rpcx.LengthFramer{}, "bitcoin": rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet},
			"others": struct{ rpcx.Framer }{rpcx.NewlineFramer{}},
		}
		var list []rpcx.Framer
		for _, name := range names {
			list = append(list, framers[name])
		}
		return list
	}
	for _, c := range []struct {
		name    string
		framers []rpcx.Framer
		input   string
		want    string
		early   bool // whether it ends before the input does
	}{
		{"a response", text("lines", "values", "headers", "lengths", "bitcoin", "others"), "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n400 Bad Request", `HTTP ("HTTP/1.1 400 Bad Request")`, true},
		{"a request", text("lines", "values", "headers", "lengths", "bitcoin", "others"), "GET / HTTP/1.1\r\nHost: localhost:1234\r\nUser-Agent: curl\r\n\r\n", `HTTP ("GET / HTTP/1.1")`, true},
		{"a request with a body", text("lines", "values", "headers", "lengths", "bitcoin", "others"), "POST /rpc HTTP/1.1\r\nHost: localhost:1234\r\nContent-Length: 54\r\n\r\n" + sumCall, `HTTP ("POST /rpc HTTP/1.1")`, true},
		{"a TLS hello", text("lines", "values", "headers"), hello, "a TLS handshake", false},
		{"a TLS hello, and a length", text("lengths"), hello, "a TLS handshake", true},
		{"a TLS hello with a newline in it", text("lines", "values", "headers"), hello + "\r\n", "a TLS handshake", true},
		{"a TLS alert", text("lines", "values", "headers"), "\x15\x03\x03\x00\x02\x02\x46", "a TLS alert", false},
		{"UTF-16", text("lines", "values", "headers", "lengths"), utf16, "UTF-16", true},
		{"headers", text("lines", "values", "lengths", "others"), "Content-Length: " + "54\r\n\r\n" + sumCall, "as HeaderFramer reads", true},
		{"JSON where a length is expected", text("lengths"), sumCall, "JSON with nothing before it", true},
		{"JSON where headers are expected", text("headers"), sumCall, "JSON with nothing before it", false},
		{"JSON where there is no limit", []rpcx.Framer{rpcx.LengthFramer{MaxSize: -1}}, sumCall, "JSON with nothing before it", false},
		{"lengths where lines are expected", text("lines", "values"), "\x00\x00\x00\x36" + sumCall, "as LengthFramer reads", false},
		{"JSON without newlines", text("lines"), sumReply + `{"id":"echo","method":"echo","params":[]}`, "JSON without newlines", false},
		{"much JSON without newlines", text("lines"), strings.Repeat(sumCall, 20_000), "JSON without newlines", true},
	} {
		for _, framer := range c.framers {
			t.Run(c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					log := &records{}
					opts := adding()
					opts.Framer, opts.Logger = framer, slog.New(log)
					s, w := newWire(t, opts)
					f := s.Go(t.Context(), "add", nil)
					synctest.Wait()
					go func() {
						w.Write([]byte(c.input))
						if !c.early {
							w.Close()
						}
					}()
					err := ended(t, s)
					if !strings.Contains(err.Error(), c.want) {
						t.Errorf("%T: it ended with %q, want %q", framer, err, c.want)
					}
					if c.early == errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("%T: it ended with %q", framer, err)
					}
					if err := f.Err(); !errors.Is(err, rpcx.ErrConnectionLost) || !strings.Contains(err.Error(), c.want) {
						t.Errorf("%T: the call fails with %q, want %q", framer, err, c.want)
					}
					if err := s.Call(t.Context(), "add", nil, nil); !strings.Contains(err.Error(), c.want) {
						t.Errorf("%T: a later call fails with %q, want %q", framer, err, c.want)
					}
					if logged := log.attr("error"); !slices.ContainsFunc(logged, func(text string) bool { return strings.Contains(text, c.want) }) {
						t.Errorf("%T: %q was logged, want %q", framer, logged, c.want)
					}
				})
			})
		}
	}
}

// A page in a browser can send lines of JSON in a request's body, to any port.
func TestNothingBehindAnHTTPRequestIsHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var noted events
		opts := &rpcx.Options{Handler: methods{"note": func(context.Context, *rpcx.Request) (any, error) { noted.add("note"); return nil, nil }}}
		s, w := newWire(t, opts)
		w.say("POST / HTTP/1.1\r\nHost: localhost:1234\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\n" + `{"jsonrpc":"2.0","method":"note"}`)
		if err := ended(t, s); !strings.Contains(err.Error(), `HTTP ("POST / HTTP/1.1")`) {
			t.Errorf("it ended with %v", err)
		}
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON; the input looks like HTTP (\"POST / HTTP/1.1\")"},"id":null}`)
		if got := noted.take(); len(got) > 0 {
			t.Errorf("%q was handled", got)
		}
	})
}

// Behind a message, or in other text, the same is a bad message like any other.
func TestForeignInputBehindAMessageIsTolerated(t *testing.T) {
	for name, first := range map[string]string{"a message": sumCall, "text": "Starting server"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				opts := adding()
				opts.Logger, opts.Limits.CostOff = slog.New(log), true
				_, w := newWire(t, opts)
				w.say(first)
				w.heard()
				w.say("GET / HTTP/1.1")
				w.expect(`{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`)
				w.say(sumCall)
				w.expect(sumReply)
				if got := log.attr("looks like"); !slices.Equal(got, []string{`HTTP ("GET / HTTP/1.1")`}) {
					t.Errorf("it looks like %q", got)
				}
			})
		})
	}
}

// A first message that is too large is no foreign input, wherever it is cut.
func TestLargeFirstMessageIsOnlyDropped(t *testing.T) {
	large := `{"a":"0123456789"}`
	for name, framer := range map[string]rpcx.Framer{
		"lines": rpcx.NewlineFramer{MaxSize: 10}, "values": rpcx.JSONFramer{MaxSize: 10},
		"headers": rpcx.HeaderFramer{MaxSize: 10}, "lengths": rpcx.LengthFramer{MaxSize: 10},
	} {
		t.Run(name, func(t *testing.T) {
			frame, _ := framer.AppendFrame(nil, []byte(large))
			small, _ := framer.AppendFrame(nil, []byte("{}"))
			stream := append(frame, small...)
			for cut := range len(stream) {
				synctest.Test(t, func(t *testing.T) {
					s, w := newWire(t, &rpcx.Options{Framer: framer})
					w.Write(stream[:cut])
					synctest.Wait()
					w.Write(stream[cut:])
					synctest.Wait()
					if stats := s.Stats(); stats.MessagesReceived != 1 {
						t.Errorf("cut at %d: %d messages, %v", cut, stats.MessagesReceived, s.Err())
					}
				})
			}
		})
	}
}

func TestUnfinishedMessageIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		framer rpcx.Framer
		input  string
		begin  string
	}{
		"a line":           {rpcx.NewlineFramer{}, sumCall + "\n" + `{"jsonrpc":"2.0","me`, `{"jsonrpc":"2.0","me`},
		"a value":          {rpcx.JSONFramer{}, sumCall + `{"jsonrpc":"2.0","me`, `{"jsonrpc":"2.0","me`},
		"headers":          {rpcx.HeaderFramer{}, "Content-Len", "Content-Len"},
		"behind headers":   {rpcx.HeaderFramer{}, "Content-Length: 99\r\n\r\n{", "Content-Length: 99\r\n\r\n{"},
		"behind a length":  {rpcx.LengthFramer{}, "\x00\x00\x00\x09{", "\x00\x00\x00\x09{"},
		"longer than that": {rpcx.NewlineFramer{}, strings.Repeat("x", 1000), strings.Repeat("x", 64) + "... (1000 bytes)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				opts := adding()
				opts.Framer, opts.Logger = c.framer, slog.New(log)
				s, w := newWire(t, opts)
				w.Write([]byte(c.input))
				synctest.Wait() // for the reply, which could not be written any more
				w.Close()
				if err := ended(t, s); err != io.ErrUnexpectedEOF {
					t.Errorf("it ended with %v", err)
				}
				if got := log.attr("begin"); !slices.Equal(got, []string{c.begin}) {
					t.Errorf("logged is %q, want %q", got, c.begin)
				}
				if got := log.take(); !slices.Contains(got, "WARN the input ended within a message") {
					t.Errorf("logged is %q", got)
				}
			})
		})
	}
	t.Run("not if this side has closed the session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := &records{}
			near, far := net.Pipe()
			s := rpcx.NewSession(near, &rpcx.Options{Logger: slog.New(log)})
			far.Write([]byte(`{"jsonrpc":"2.0","me`))
			synctest.Wait()
			s.Close()
			if err := ended(t, s); err != rpcx.ErrClosed {
				t.Errorf("it ended with %v", err)
			}
			if got := log.take(); len(got) > 0 {
				t.Errorf("logged is %q", got)
			}
			far.Close()
		})
	})
}

// lightningd ends every message with two newlines, and indents what it sends in some
// releases. Its plugins are programs that it calls, and that notify it.
func TestPluginOfCoreLightning(t *testing.T) {
	for name, c := range map[string]struct {
		framer rpcx.Framer
		indent bool
	}{
		"values":           {rpcx.JSONFramer{}, false},
		"indented values":  {rpcx.JSONFramer{}, true},
		"lines":            {rpcx.NewlineFramer{}, false},
		"lines by default": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("getmanifest", rpcx.Func(func(allowDeprecated bool) map[string]any {
					return map[string]any{"options": []any{}, "rpcmethods": []any{}, "dynamic": true}
				}, "allow-deprecated-apis", "..."))
				router.Handle("init", rpcx.Func(func(options, configuration map[string]any) map[string]any {
					return map[string]any{}
				}, "options", "configuration"))
				var blocks []int
				router.Handle("block_added", rpcx.Func(func(block struct{ Height int }) { blocks = append(blocks, block.Height) }, "block"))
				opts := &rpcx.Options{Role: rpcx.RoleServer, Framer: c.framer, Handler: router, Order: rpcx.Sequential}
				s, w := newWire(t, opts)
				say := func(msg string) {
					if c.indent {
						var value any
						if err := json.Unmarshal([]byte(msg), &value); err != nil {
							t.Fatal(err)
						}
						indented, _ := json.MarshalIndent(value, "", "  ")
						msg = string(indented)
					}
					w.Write([]byte(msg + "\n\n"))
				}
				say(`{"jsonrpc":"2.0","id":"cln:getmanifest#1","method":"getmanifest","params":{"allow-deprecated-apis":false,"more":1}}`)
				w.expect(`{"jsonrpc":"2.0","result":{"dynamic":true,"options":[],"rpcmethods":[]},"id":"cln:getmanifest#1"}`)
				say(`{"jsonrpc":"2.0","id":"cln:init#2","method":"init","params":{"options":{"a":"}\n{"},"configuration":{"rpc-file":"lightning-rpc"}}}`)
				w.expect(`{"jsonrpc":"2.0","result":{},"id":"cln:init#2"}`)
				var want []int
				for height := range 100 {
					want = append(want, height)
					say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"block_added","params":{"block":{"height":%d}}}`, height))
				}
				synctest.Wait()
				if !slices.Equal(blocks, want) {
					t.Errorf("the blocks are %v", blocks)
				}
				if stats := s.Stats(); stats.Errors != 0 || stats.MessagesReceived != 102 {
					t.Errorf("%d errors, %d messages", stats.Errors, stats.MessagesReceived)
				}
			})
		})
	}
}

// A session answers what is no JSON, and goes on with what follows.
func TestSessionOverValuesGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := adding()
		opts.Framer, opts.Limits.CostOff = rpcx.JSONFramer{MaxSize: 100}, true
		s, w := newWire(t, opts)
		bad := `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`
		for _, c := range []struct {
			name, say string
			want      []string
		}{
			{"a message", sumCall, []string{sumReply}},
			{"a text and a message", "Starting\n" + sumCall, []string{bad, sumReply}},
			{"a message that is cut short", "{\"jsonrpc\":\"2.0\"\n" + sumCall, []string{bad, sumReply}},
			{"a message that is too large", `["` + strings.Repeat("[", 200) + `"]` + sumCall, []string{sumReply}},
			{"NaN and a message", `{"a":NaN}` + sumCall, []string{bad, sumReply}},
		} {
			w.Write([]byte(c.say + "\n"))
			heard := slices.DeleteFunc(w.heard(), func(line string) bool { return strings.Contains(line, "-32600") }) // about the size
			if !slices.Equal(heard, c.want) {
				t.Errorf("%s: heard %q, want %q", c.name, heard, c.want)
			}
		}
		w.Write([]byte(sumCall + sumCall))
		w.expect(sumReply, sumReply)
		w.Write([]byte("]"))
		if err := ended(t, s); !strings.Contains(err.Error(), "no newline behind which") {
			t.Errorf("it ended with %v", err)
		}
	})
}

// askingError is an error whose text needs the session.
type askingError struct{ session *atomic.Pointer[rpcx.Session] }

func (e askingError) Error() string {
	return fmt.Sprint("errors before: ", e.session.Load().Stats().Errors)
}

// askingProtocol finds an askingError in each message.
type askingProtocol struct {
	rpcx.Protocol
	err askingError
}

func (p askingProtocol) Decode(m *rpcx.Message, msg []byte, most int) {
	p.Protocol.Decode(m, msg, most)
	for i := range m.Items {
		m.Items[i].Kind, m.Items[i].Err = rpcx.KindInvalid, p.err
	}
}

// No method of a protocol's error runs under the session's lock.
func TestErrorsOfAProtocolMayUseTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var session atomic.Pointer[rpcx.Session]
		log := &records{}
		s, w := newWire(t, &rpcx.Options{
			Protocol: askingProtocol{rpcx.JSONRPCv2, askingError{&session}},
			Logger:   slog.New(log),
			Role:     rpcx.RoleServer,
		})
		session.Store(s)
		pending := s.Go(t.Context(), "m", nil)
		w.expect(`{"jsonrpc":"2.0","method":"m","id":0}`)
		for range 2 {
			w.say(ask("m", 1))
			w.expect(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
		}
		w.say("[" + ask("m", 1) + "]")
		time.Sleep(time.Hour)
		if err := pending.Err(); err == nil || !strings.Contains(err.Error(), "a bad message came meanwhile: errors before: ") {
			t.Errorf("the call ended with %v", err)
		}
	})
}
