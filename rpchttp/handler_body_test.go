package rpchttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// zipped returns text as a gzip member.
func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.String()
}

// padded returns a request of the given size.
func padded(size int) string {
	return strings.Replace(echoing, "hi", strings.Repeat("x", size-len(echoing)+2), 1)
}

// endless is a reader that counts what is read.
type endless struct {
	begin io.Reader
	read  int
}

func (e *endless) Read(p []byte) (int, error) {
	if n, _ := e.begin.Read(p); n > 0 {
		e.read += n
		return n, nil
	}
	for i := range p {
		p[i] = ' '
	}
	e.read += len(p)
	return len(p), nil
}

const tooLarge = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"message too large (over 1,000 bytes)"},"id":%s}`

// A body over MaxSize is answered with 413, and is not read to its end.
func TestBodySize(t *testing.T) {
	h := &rpchttp.Handler{Server: newServer(nil), MaxSize: 1000}
	for _, size := range []int{900, 1000} {
		answering(t, h, post(padded(size)), 200, "")
	}
	t.Run("the length is known", func(t *testing.T) {
		r := post(padded(1001))
		body := &endless{begin: strings.NewReader("")}
		r.Body = io.NopCloser(body)
		w := answering(t, h, r, 413, fmt.Sprintf(tooLarge, "null"))
		if body.read != 0 {
			t.Errorf("%d bytes were read", body.read)
		}
		if w.Header().Get("Connection") != "close" {
			t.Error("the connection stays, with the rest of the body on it")
		}
	})
	t.Run("the length is unknown", func(t *testing.T) {
		for text, id := range map[string]string{
			`{"jsonrpc":"2.0","id":5,"method":"echo","params":`: "5", // the id is at the beginning
			`{"jsonrpc":"2.0","params":`:                        "null",
			"[":                                                 "null",
		} {
			r := post(text)
			body := &endless{begin: strings.NewReader(text)}
			r.Body, r.ContentLength = io.NopCloser(body), -1
			answering(t, h, r, 413, fmt.Sprintf(tooLarge, id))
			if body.read > 8<<10+len(text) {
				t.Errorf("%d bytes were read", body.read)
			}
		}
	})
	t.Run("a response", func(t *testing.T) { // nobody waits for an answer in JSON-RPC
		r := post(`{"jsonrpc":"2.0","id":5,"result":"` + strings.Repeat("x", 1000))
		r.ContentLength = -1
		answering(t, h, r, 413, "request entity too large\n")
	})
	t.Run("the limit of a middleware", func(t *testing.T) {
		limited := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 500)
			h.ServeHTTP(w, r)
		})
		answering(t, limited, post(padded(501)), 413, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"message too large (over 500 bytes)"},"id":null}`)
		answering(t, limited, post(padded(500)), 200, "")
	})
	t.Run("no body", func(t *testing.T) {
		r := post("")
		r.Body = nil
		answering(t, h, r, 200, emptyReply)
	})
	t.Run("no limit", func(t *testing.T) {
		answering(t, &rpchttp.Handler{Server: newServer(nil), MaxSize: -1}, post(padded(3_000_000)), 200, "")
	})
	t.Run("the default", func(t *testing.T) {
		h := &rpchttp.Handler{Server: newServer(nil)}
		answering(t, h, post(padded(rpcx.DefaultMaxSize)), 200, "")
		answering(t, h, post(padded(rpcx.DefaultMaxSize+1)), 413, "")
	})
}

// MaxSize is also the size of the largest reply.
func TestReplySize(t *testing.T) {
	srv := newServer(methods{"large": func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", 2000), nil }})
	want := `{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 1,000 bytes)"},"id":1}`
	answering(t, &rpchttp.Handler{Server: srv, MaxSize: 1000}, post(`{"jsonrpc":"2.0","method":"large","id":1}`), 200, want)
	answering(t, &rpchttp.Handler{Server: srv}, post(`{"jsonrpc":"2.0","method":"large","id":1}`), 200, "")
}

// emptyReply is the answer to an empty body.
const emptyReply = `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON: the request body is empty"},"id":null}`

// A compressed body is a single gzip member, and MaxSize is for what comes out.
func TestCompressedBody(t *testing.T) {
	const noMember = `{"jsonrpc":"2.0","error":{"code":-32700,"message":"request body is no single gzip member"},"id":1}`
	noID := strings.Replace(noMember, "1}", "null}", 1)
	whole := zipped(echoing)
	broken := []byte(whole)
	broken[len(broken)-5] ^= 1 // the checksum
	for _, c := range []struct {
		name, body, encoding string
		status               int
		want                 string
	}{
		{"a member", whole, "gzip", 200, echoed},
		{"the old name, and capitals", whole, "X-Gzip", 200, echoed},
		{"no compression", echoing, "identity", 200, echoed},
		{"two members", whole + zipped(" "), "gzip", 400, noMember},
		{"data after the member", whole + "x", "gzip", 400, noMember},
		{"a truncated member", whole[:len(whole)-9], "gzip", 400, noMember},
		{"a wrong checksum", string(broken), "gzip", 400, noMember},
		{"no gzip", echoing, "gzip", 400, noID},
		{"nothing", "", "gzip", 400, noID},
		{"an empty member", zipped(""), "gzip", 200, emptyReply},
		{"a member of the largest size", zipped(padded(1000)), "gzip", 200, ""},
		{"a larger member", zipped(padded(1001)), "gzip", 413, fmt.Sprintf(tooLarge, "1")},
		{"another encoding", whole, "br", 415, "Content-Encoding \"br\": write gzip, or no compression\n"},
		{"two encodings", whole, "gzip, gzip", 415, "Content-Encoding \"gzip, gzip\": write gzip, or no compression\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &rpchttp.Handler{Server: newServer(nil), MaxSize: 1000}
			for range 2 { // also with a reused reader
				w := answering(t, h, post(c.body, "Content-Encoding", c.encoding), c.status, c.want)
				if got := w.Header().Get("Accept-Encoding"); c.status == 415 && got != "gzip" {
					t.Errorf("Accept-Encoding is %q", got)
				}
			}
		})
	}
}

// A small body that would become a large message is read up to the limit, and costs its
// client as much as any message of that size. When the budget is used up, one body a second
// is decompressed.
func TestGzipBomb(t *testing.T) {
	bomb := zipped(strings.Repeat(" ", 50_000_000))
	if len(bomb) > 100_000 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(nil)
		srv.Options.Limits.CostSoft, srv.Options.Limits.CostHard = -1, 1000 // a bomb costs 100, and 10 for its size
		h := &rpchttp.Handler{Server: srv}
		statuses := make(map[int]int)
		body := strings.NewReader(bomb)
		unread := 0
		for i := range 40 {
			body.Reset(bomb)
			r := post("", "Content-Encoding", "gzip")
			r.Body, r.ContentLength = io.NopCloser(body), int64(len(bomb))
			w := serve(h, r)
			if statuses[w.Code]++; w.Code == 429 && w.Header().Get("Retry-After") == "" {
				t.Error("a 429 has no Retry-After")
			}
			switch read := len(bomb) - body.Len(); {
			case read > 10_000: // about 1,000 bytes for a megabyte
				t.Fatalf("%d bytes of the bomb were read", read)
			case read == 0:
				unread++
			}
			if i == 29 {
				answering(t, h, from("198.51.100.1:1", zipped(echoing), "Content-Encoding", "gzip"), 200, echoed)
				answering(t, h, post(echoing), 429, "")
				time.Sleep(time.Second)
			}
		}
		if statuses[413] != 9 && statuses[413] != 10 || statuses[413]+statuses[429] != 40 || unread < 26 || unread > 30 {
			t.Errorf("the statuses are %v, and %d were not read", statuses, unread)
		}
	})
}

// Compressed bytes without any output end at MaxSize, too.
func TestCompressedBodyWithoutOutput(t *testing.T) {
	member := zipped("")[:10] // the header
	blocks := strings.NewReader(member + strings.Repeat("\x00\x00\x00\xff\xff", 10_000_000))
	r := post("", "Content-Encoding", "gzip")
	r.Body, r.ContentLength = io.NopCloser(blocks), -1
	size := blocks.Len()
	answering(t, &rpchttp.Handler{Server: newServer(nil), MaxSize: 100_000}, r, 413, "")
	if read := size - blocks.Len(); read > 110_000 {
		t.Errorf("%d bytes were read", read)
	}
}

// A body that drips is refused after ReadTimeout, also by a bare http.Server, and the
// connection is closed.
func TestSlowBody(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWeb(t, &rpchttp.Handler{Server: newServer(nil), ReadTimeout: 10 * time.Second}).wire()
			start := time.Now()
			if chunked {
				w.send(head + "Transfer-Encoding: chunked\r\n\r\n")
			} else {
				w.send(head + "Content-Length: 1000\r\n\r\n")
			}
			answered := make(chan struct{})
			// Owner: the test. End: the answer.
			go func() {
				defer close(answered)
				resp := w.answering(408, "request body too slow (rpchttp.Handler.ReadTimeout)\n")
				if !resp.Close {
					t.Error("the connection stays")
				}
			}()
			for i := 0; ; i++ {
				time.Sleep(time.Second)
				drip := " "
				if chunked {
					drip = "1\r\n \r\n"
				}
				if _, err := io.WriteString(w, drip); err != nil {
					break
				}
			}
			<-answered
			w.closed()
			if took := time.Since(start); took < 10*time.Second || took > 12*time.Second {
				t.Errorf("the answer came after %v", took)
			}
		})
	}
}

// A request that is refused by its header is answered within ReadTimeout, too, although
// package http reads the body before the answer.
func TestSlowBodyOfARefusedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb(t, &rpchttp.Handler{Server: newServer(nil), ReadTimeout: 10 * time.Second}).wire()
		start := time.Now()
		w.send(strings.Replace(head, "json", "xml", 1) + "Content-Length: 1000\r\n\r\n")
		if resp := w.answer(); resp.StatusCode != 415 || time.Since(start) > 10*time.Second {
			t.Errorf("the answer is %s after %v", resp.Status, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) { // with its body, the connection stays
		w := newWeb(t, &rpchttp.Handler{Server: newServer(nil), ReadTimeout: 10 * time.Second}).wire()
		for range 3 {
			w.send(strings.Replace(head, "json", "xml", 1) + "Content-Length: 2\r\n\r\n{}")
			resp := w.answer()
			if io.Copy(io.Discard, resp.Body); resp.StatusCode != 415 || resp.Close {
				t.Errorf("the answer is %s", resp.Status)
			}
			time.Sleep(time.Hour)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a slow client has its answer after the body
		w := newWeb(t, &rpchttp.Handler{Server: newServer(nil), ReadTimeout: time.Hour}).wire()
		w.send(strings.Replace(head, "json", "xml", 1) + "Content-Length: 2\r\n\r\n{")
		time.Sleep(59 * time.Minute)
		w.send("}")
		if resp := w.answer(); resp.StatusCode != 415 || resp.Close {
			t.Errorf("the answer is %s", resp.Status)
		}
	})
	synctest.Test(t, func(t *testing.T) { // of a preflight, too
		w := newWeb(t, &rpchttp.Handler{Server: newServer(nil), ReadTimeout: 10 * time.Second}).wire()
		w.send(strings.Replace(head, "POST", "OPTIONS", 1) + "Content-Length: 1000\r\n\r\n")
		if resp := w.answer(); resp.StatusCode != 204 {
			t.Errorf("the answer is %s", resp.Status)
		}
	})
}

// A message that is dropped before its end is answered within ReadTimeout, too. The rest of
// the body does not hold the connection longer.
func TestSlowBodyOfADroppedMessage(t *testing.T) {
	const chunk = "200\r\n" // of 512 bytes
	for _, c := range []struct {
		name, rest string
		status     int
	}{
		{"no gzip", "Content-Encoding: gzip\r\nContent-Length: 400\r\n\r\n" + echoing, 400},
		{"data after the member", "Content-Encoding: gzip\r\nContent-Length: 400\r\n\r\n" + zipped(echoing) + "x", 400},
		{"too large", "Content-Length: 1000\r\n\r\n", 413},
		{"too large in chunks", "Transfer-Encoding: chunked\r\n\r\n" + chunk + strings.Repeat(" ", 512) + "\r\n", 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWeb(t, &rpchttp.Handler{Server: newServer(nil), MaxSize: 500, ReadTimeout: 10 * time.Second}).wire()
				start := time.Now()
				w.send(head + c.rest)
				ended := make(chan struct{})
				// Owner: the test. End: the server closes the connection.
				go func() {
					defer close(ended)
					if resp := w.answer(); resp.StatusCode != c.status {
						t.Errorf("the answer is %s", resp.Status)
					}
					_, _ = io.Copy(io.Discard, w.in)
				}()
				select {
				case <-ended:
				case <-time.After(time.Hour):
					w.Close()
					<-ended
				}
				if took := time.Since(start); took > 11*time.Second {
					t.Errorf("the connection was closed after %v", took)
				}
			})
		})
	}
}

// ReadTimeout ends with the body: a handler may take longer, the connection may be idle
// longer, and the next request has its own time.
func TestReadTimeoutIsCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(methods{"slow": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			select {
			case <-time.After(20 * time.Second):
				return "done", nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}})
		h := &rpchttp.Handler{Server: srv, ReadTimeout: time.Second}
		reading := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // a middleware
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			h.ServeHTTP(w, r)
		})
		msg := `{"jsonrpc":"2.0","method":"slow","id":1}`
		for _, h := range []http.Handler{h, reading} {
			w := newWeb(t, h).wire()
			for range 3 {
				w.send(head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(msg), msg))
				w.answering(200, `{"jsonrpc":"2.0","result":"done","id":1}`)
				time.Sleep(time.Hour)
			}
		}
	})
}

// A negative ReadTimeout means no limit.
func TestNoReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeb(t, &rpchttp.Handler{Server: newServer(nil), ReadTimeout: -1}).wire()
		w.send(head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(echoing)))
		time.Sleep(time.Hour)
		w.send(echoing)
		w.answering(200, echoed)
	})
}

// The end of a connection within a body is no message.
func TestIncompleteBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(methods{"never": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("an incomplete message is handled")
			return nil, nil
		}})
		w := newWeb(t, &rpchttp.Handler{Server: srv}).wire()
		w.send(head + "Content-Length: 1000\r\n\r\n" + `{"jsonrpc":"2.0","method":"never"}`)
		w.Close()
		synctest.Wait()
	})
}

// Large bodies that arrive count together for Server.MaxQueuedBytes.
func TestManyLargeBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(nil)
		srv.MaxQueuedBytes = 3 * 128 << 10
		web := newWeb(t, &rpchttp.Handler{Server: srv})
		begin := func() *wire {
			w := web.wire()
			w.send(head + "Content-Length: 120000\r\n\r\n" + strings.Repeat(" ", 100_000))
			synctest.Wait()
			return w
		}
		first := []*wire{begin(), begin(), begin()}
		refused := web.wire()
		// Owner: the test. End: the server closes the connection.
		go io.WriteString(refused, head+"Content-Length: 120000\r\n\r\n"+strings.Repeat(" ", 100_000))
		resp := refused.answering(503, "too many large requests: over 393,216 bytes (Server.MaxQueuedBytes)\n")
		if resp.Header.Get("Retry-After") != "1" {
			t.Errorf("the header is %v", resp.Header)
		}
		small := web.wire()
		small.send(head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(echoing), echoing))
		small.answering(200, echoed)
		for _, w := range first {
			w.send(strings.Repeat(" ", 20_000-len(echoing)) + echoing)
			w.answering(200, echoed)
		}
		for _, w := range []*wire{begin(), begin(), begin()} { // the memory is free again
			w.send(strings.Repeat(" ", 20_000-len(echoing)) + echoing)
			w.answering(200, echoed)
		}
	})
}

// Expect: 100-continue has the client send the body only if the header is accepted.
func TestExpectContinue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := newWeb(t, &rpchttp.Handler{Server: newServer(nil), MaxSize: 1000})
		w := web.wire()
		w.send(head + fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(echoing)))
		if resp := w.answer(); resp.StatusCode != http.StatusContinue {
			t.Fatal(resp.Status)
		}
		w.send(echoing)
		w.answering(200, echoed)

		w = web.wire()
		w.send(head + "Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
		w.answering(413, fmt.Sprintf(tooLarge, "null"))

		w = web.wire()
		w.send(strings.Replace(head, "json", "xml", 1) + "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n")
		if resp := w.answer(); resp.StatusCode != 415 {
			t.Error(resp.Status)
		}
	})
}
