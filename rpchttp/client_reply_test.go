package rpchttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"example.com/rpcx/rpchttp"
)

// gzipText returns text compressed by gzip.
func gzipText(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// paddedReply returns replyOne, filled with spaces to the given size.
func paddedReply(size int) string { return replyOne + strings.Repeat(" ", size-len(replyOne)) }

// A reply of MaxSize bytes is taken, and a byte more is not, in all forms.
func TestDialerMaxSize(t *testing.T) {
	const limit = 5000
	for _, test := range []struct {
		sentence string
		send     func(w http.ResponseWriter, text string)
	}{
		{"with its size", func(w http.ResponseWriter, text string) {
			w.Header().Set("Content-Length", fmt.Sprint(len(text)))
			io.WriteString(w, text)
		}},
		{"without its size", func(w http.ResponseWriter, text string) {
			for len(text) > 0 {
				n := min(1000, len(text))
				io.WriteString(w, text[:n])
				w.(http.Flusher).Flush()
				text = text[n:]
			}
		}},
		{"compressed", func(w http.ResponseWriter, text string) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, gzipText(text))
		}},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			size := 0
			s := startWebServer(t, func(w http.ResponseWriter, _ webRequest, _ int) {
				w.Header().Set("Content-Type", "application/json")
				test.send(w, paddedReply(size))
			})
			for _, d := range []int{-1, 0, 1} {
				size = limit + d
				c := dialClient(t, rpchttp.Dialer{MaxSize: limit, Idempotent: func(string) bool { return true }}, s.URL, nil)
				err := c.Call(t.Context(), "m", nil, nil)
				e, tooLarge := errors.AsType[*rpcx.SizeError](err)
				if tooLarge != (d > 0) || !tooLarge && err != nil {
					t.Errorf("%d bytes: %v", size, err)
				}
				if tooLarge && (e.Limit != limit || !strings.Contains(err.Error(), "over 5,000 bytes (Dialer.MaxSize)")) {
					t.Errorf("the error is %v", err)
				}
			}
			if n := len(s.seen()); n != 3 {
				t.Errorf("the server has seen %d requests", n)
			}
			c := dialClient(t, rpchttp.Dialer{MaxSize: -1}, s.URL, nil)
			if size = 3_000_000; c.Call(t.Context(), "m", nil, nil) != nil {
				t.Error("refused without a limit")
			}
			c = dialClient(t, rpchttp.Dialer{}, s.URL, nil)
			if size = rpcx.DefaultMaxSize; c.Call(t.Context(), "m", nil, nil) != nil {
				t.Error("refused at the default limit")
			}
		})
	}
}

// A large page beside an error's status is no reply that is too large.
func TestClientLargePages(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, declared := range []bool{false, true} {
		s := startWebServer(t, func(w http.ResponseWriter, _ webRequest, _ int) {
			if declared {
				w.Header().Set("Content-Length", fmt.Sprint(len(long)))
			}
			w.WriteHeader(500)
			io.WriteString(w, long)
		})
		c := dialClient(t, rpchttp.Dialer{MaxSize: 10_000}, s.URL, nil)
		e, ok := errors.AsType[*rpchttp.StatusError](c.Call(t.Context(), "m", nil, nil))
		if !ok || e.StatusCode != 500 || e.Body != long[:4<<10] {
			t.Errorf("the error is %v", e)
		}
	}
}

// A compressed reply is decompressed only up to the limit, in memory and in time.
func TestClientGzipBomb(t *testing.T) {
	bomb := gzipText(strings.Repeat(" ", 20<<20))
	endless := strings.Repeat("\x00\x00\x00\xff\xff", 1<<18) // empty blocks of deflate
	for _, test := range []struct{ sentence, body string }{
		{"much from little", bomb},
		{"nothing from much", gzipText("")[:10] + endless},
	} {
		s := startWebServer(t, answerStatus(200, test.body, "Content-Type", "application/json", "Content-Encoding", "gzip"))
		c := dialClient(t, rpchttp.Dialer{Compress: true}, s.URL, nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := c.Call(t.Context(), "m", nil, nil)
		runtime.ReadMemStats(&after)
		if _, ok := errors.AsType[*rpcx.SizeError](err); !ok {
			t.Errorf("%s: %v", test.sentence, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 10<<20 && !race.Enabled {
			t.Errorf("%s has taken %d bytes", test.sentence, used)
		}
	}
}

// Encodings that cannot be read are errors that say so.
func TestClientEncodings(t *testing.T) {
	for _, test := range []struct{ encoding, body, want string }{
		{"gzip", gzipText(replyOne), "<nil>"},
		{"x-gzip", gzipText(replyOne), "<nil>"},
		{"Identity", replyOne, "<nil>"},
		{"br", replyOne, `no reply to the request: the reply has the Content-Encoding "br", which was not asked for`},
		{"gzip", replyOne, "no reply to the request: decompress the reply: gzip: invalid header"},
		{"gzip", gzipText(replyOne)[:30], "no reply to the request: read the reply: unexpected EOF"},
		{"gzip", gzipText(replyOne) + "x", "no reply to the request: decompress the reply: there is more after the compressed reply"},
		{"gzip", strings.Repeat(gzipText(""), 1000), "no reply to the request: decompress the reply: there is more after the compressed reply"},
		{"gzip", gzipText(replyOne)[:10] + "\xff\xff", "no reply to the request: decompress the reply: flate: corrupt input"},
		{"gzip", "", "rpcx: no response to the call"},
	} {
		s := startWebServer(t, answerStatus(200, test.body, "Content-Encoding", test.encoding))
		c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
		if err := c.Call(t.Context(), "m", nil, nil); !strings.HasPrefix(fmt.Sprint(err), test.want) {
			t.Errorf("%s of %d bytes: %v", test.encoding, len(test.body), err)
		}
	}
}

// Compress compresses messages of some size, and asks for compressed replies.
func TestDialerCompress(t *testing.T) {
	answer := answeringBy(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) { return req.Params.Positional, nil }))
	s := startWebServer(t, func(w http.ResponseWriter, r webRequest, n int) {
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(strings.NewReader(r.body))
			if err != nil {
				t.Error(err)
				return
			}
			text, _ := io.ReadAll(z)
			if r.body = string(text); n > 4 {
				answerStatus(415, "")(w, r, n)
				return
			}
		}
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			w = zippingWriter{w, z}
		}
		answer(w, r, n)
	})
	c := dialClient(t, rpchttp.Dialer{Compress: true}, s.URL, nil)
	for i, test := range []struct {
		text string
		want string // Content-Encoding
	}{
		{"short", ""},
		{strings.Repeat("x", 10_000), "gzip"},
		{strings.Repeat("y", 500_000), "gzip"},
		{"short", ""},
	} {
		got, err := rpcx.Call[[]string](t.Context(), c, "echo", rpcx.Args{test.text})
		if err != nil || len(got) != 1 || got[0] != test.text {
			t.Errorf("call %d: %d, %v", i+1, len(got), err)
		}
		r := s.seen()[i]
		if r.Header.Get("Content-Encoding") != test.want || r.ContentLength != int64(len(r.body)) || test.want != "" && len(r.body) > 2000 {
			t.Errorf("request %d has %d bytes, %v", i+1, len(r.body), r.Header)
		}
	}
	s.wantSeen(t, 4, 1)
	err := c.Call(t.Context(), "echo", rpcx.Args{strings.Repeat("x", 10_000)}, nil)
	if err == nil || !strings.Contains(err.Error(), "it may not take gzip: switch Dialer.Compress off") {
		t.Errorf("the error is %v", err)
	}
}

// zippingWriter compresses what is written.
type zippingWriter struct {
	http.ResponseWriter
	zip io.Writer
}

func (w zippingWriter) Write(p []byte) (int, error) { return w.zip.Write(p) }
