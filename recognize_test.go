package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

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
