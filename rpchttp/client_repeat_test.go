package rpchttp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// replyBusy is the reply to the first call of a server that has not started it.
const replyBusy = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy","data":{"started":false,"reason":"queue"}},"id":0}`

// replyLate is replyBusy for a call that has run.
const replyLate = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy","data":{"started":true,"reason":"timeout"}},"id":0}`

// What is sent again after an answer, as the server counts it. Each call is asked for
// twice: as idempotent, and not. The answers before the last are those of the test.
func TestClientRepeatsAfterAnswers(t *testing.T) {
	const batchBusy = `[{"jsonrpc":"2.0","error":{"code":-102,"message":"m","data":{"started":false}},"id":0},{"jsonrpc":"2.0","error":{"code":-102,"message":"m","data":{"started":false}},"id":1}]`
	batchMixed := strings.Replace(batchBusy, "false", "true", 1)
	for _, test := range []struct {
		sentence   string
		status     int
		body       string
		batch      bool
		idempotent int // requests in all for an idempotent call
		other      int // and for another
	}{
		{"not started", 200, replyBusy, false, 2, 2},
		{"not started, with 503", 503, replyBusy, false, 2, 2},
		{"started", 503, replyLate, false, 1, 1},
		{"not started, without saying so", 503, strings.Replace(replyBusy, `"started"`, `"x"`, 1), false, 1, 1},
		{"a batch not started", 200, batchBusy, true, 2, 2},
		{"a batch of which a part was not started", 503, batchMixed, true, 1, 1},
		{"a batch with half of the replies", 200, "[" + replyBusy + "]", true, 1, 1},
		{"a batch refused as a whole", 503, strings.Replace(replyBusy, `"id":0`, `"id":null`, 1), true, 2, 2},
		{"503 of a proxy", 503, "<html>", false, 2, 1},
		{"503 of a proxy to a batch", 503, "<html>", true, 2, 1},
		{"502", 502, "", false, 2, 1},
		{"504", 504, "", false, 2, 1},
		{"429", 429, "slow down", false, 2, 1},
		{"429 with a reply", 429, `{"jsonrpc":"2.0","error":{"code":-32005,"message":"slow down"},"id":0}`, false, 2, 1},
		{"503 with a reply", 503, `{"jsonrpc":"2.0","error":{"code":1,"message":"m"},"id":0}`, false, 1, 1},
		{"500", 500, "", false, 1, 1},
		{"404", 404, "", false, 1, 1},
		{"a page", 200, "<html>", false, 1, 1},
		{"another id", 200, strings.Replace(replyOne, "0}", "9}", 1), false, 1, 1},
		{"nothing", 204, "", false, 1, 1},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			for _, asked := range []struct {
				idempotent func(string) bool
				requests   int
			}{
				{func(method string) bool { return method == "m" || method == "n" }, test.idempotent},
				{nil, test.other},
				{func(method string) bool { return method == "n" }, test.other},
			} {
				s := startWebServer(t, func(w http.ResponseWriter, r webRequest, n int) {
					switch {
					case n == 1:
						answerStatus(test.status, test.body)(w, r, n)
					case test.batch:
						io.WriteString(w, "["+replyOne+","+strings.Replace(replyOne, "0}", "1}", 1)+"]")
					default:
						io.WriteString(w, replyOne)
					}
				})
				c := dialClient(t, rpchttp.Dialer{Idempotent: asked.idempotent, MaxRetryWait: time.Millisecond}, s.URL, nil)
				var err error
				if test.batch {
					var b rpcx.Batch
					b.Call("m", nil, nil)
					b.Call("n", nil, nil)
					err = c.SendBatch(t.Context(), &b)
				} else {
					err = c.Call(t.Context(), "m", nil, nil)
				}
				s.wantSeen(t, asked.requests, 1)
				if (err == nil) != (asked.requests > 1) {
					t.Errorf("after %d requests: %v", asked.requests, err)
				}
				for _, r := range s.seen() {
					if r.body != s.seen()[0].body {
						t.Errorf("the message is now %s", r.body)
					}
				}
			}
		})
	}
}

// The number of repetitions is Retries. The last answer is the outcome.
func TestDialerRetries(t *testing.T) {
	for _, test := range []struct{ retries, want int }{{0, 3}, {1, 2}, {5, 6}, {-1, 1}} {
		s := startWebServer(t, answerStatus(503, "<html>", "Retry-After", "0"))
		c := dialClient(t, rpchttp.Dialer{Retries: test.retries, MaxRetryWait: time.Millisecond, Idempotent: func(string) bool { return true }}, s.URL, nil)
		for i, send := range []func() error{
			func() error { return c.Call(t.Context(), "m", nil, nil) },
			func() error { return c.Notify(t.Context(), "m", nil) },
		} {
			if e, ok := errors.AsType[*rpchttp.StatusError](send()); !ok || e.StatusCode != 503 {
				t.Errorf("the error is %v", e)
			}
			s.wantSeen(t, (i+1)*test.want, 1)
		}
	}
}

// testNet is a network in a bubble: connections are pipes.
type testNet struct {
	t     *testing.T
	serve func(conn net.Conn, n int) // serves a connection, whose number is n from 1
	conns atomic.Int32
	wg    sync.WaitGroup
}

// client returns an http.Client over the network. The test must call its
// CloseIdleConnections, and then wait for the network.
func (n *testNet) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.dialClient}}
}

func (n *testNet) dialClient(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	number := int(n.conns.Add(1))
	// Owner: the test, which waits. End: serve returns, at the latest when the client hangs
	// up.
	n.wg.Go(func() {
		defer far.Close()
		n.serve(far, number)
	})
	return near, nil
}

// readRequest reads a request and returns its body.
func readRequest(r *bufio.Reader) (string, error) {
	request, err := http.ReadRequest(r)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(request.Body)
	return string(body), err
}

// writeResponse writes a response.
func writeResponse(w io.Writer, status int, header, body string) {
	fmt.Fprintf(w, "HTTP/1.1 %d Status\r\nContent-Length: %d\r\n%s\r\n%s", status, len(body), header, body)
}

// The wait before a repetition is what the server asks for, within limits.
func TestClientWaitsToRepeat(t *testing.T) {
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, test := range []struct {
		sentence   string
		retryAfter func() string
		min, max   time.Duration // until the end of the call
		requests   int
		left       time.Duration // RetryAfter of the error; 0 if the call succeeds
	}{
		{"seconds", func() string { return "7" }, 7 * time.Second, 7 * time.Second, 2, 0},
		{"a date", func() string { return date(20 * time.Second) }, 20 * time.Second, 20 * time.Second, 2, 0},
		{"a date in the past", func() string { return date(-time.Hour) }, 0, 100 * time.Millisecond, 2, 0},
		{"nothing", func() string { return "" }, 0, 100 * time.Millisecond, 2, 0},
		{"nonsense", func() string { return "soon" }, 0, 100 * time.Millisecond, 2, 0},
		{"a negative number", func() string { return "-5" }, 0, 100 * time.Millisecond, 2, 0},
		{"the longest time", func() string { return "30" }, 30 * time.Second, 30 * time.Second, 2, 0},
		{"longer than MaxRetryWait", func() string { return "31" }, 0, 0, 1, 31 * time.Second},
		{"a date after MaxRetryWait", func() string { return date(time.Hour) }, 0, 0, 1, time.Hour},
		{"a huge number", func() string { return "99999999999999999999999" }, 0, 0, 1, 365 * 24 * time.Hour},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				n := &testNet{t: t}
				n.serve = func(conn net.Conn, _ int) {
					for r := bufio.NewReader(conn); ; {
						if _, err := readRequest(r); err != nil {
							return
						}
						if requests++; requests > 1 {
							writeResponse(conn, 200, "", replyOne)
							continue
						}
						writeResponse(conn, 503, "Retry-After: "+test.retryAfter()+"\r\n", "busy")
					}
				}
				client := n.client()
				c := dialClient(t, rpchttp.Dialer{Client: client, Idempotent: func(string) bool { return true }}, "http://a/", &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: time.Minute}})
				start := time.Now()
				err := c.Call(t.Context(), "m", nil, nil)
				if took := time.Since(start); took < test.min || took > test.max || requests != test.requests {
					t.Errorf("the call took %v and %d requests", took, requests)
				}
				e, _ := errors.AsType[*rpchttp.StatusError](err)
				if (err != nil) != (test.left > 0) || e != nil && (e.RetryAfter != test.left || !strings.Contains(err.Error(), "it asks to try again in "+test.left.String())) {
					t.Errorf("the error is %v", err)
				}
				client.CloseIdleConnections()
				n.wg.Wait()
			})
		})
	}
}

// A wait that the context does not allow is not begun, and the error says why the call has
// failed. A context that is cancelled ends the wait.
func TestClientWaitsWithinContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		n := &testNet{t: t}
		n.serve = func(conn net.Conn, _ int) {
			for r := bufio.NewReader(conn); ; {
				if _, err := readRequest(r); err != nil {
					return
				}
				requests++
				writeResponse(conn, 503, "Retry-After: 10\r\n", "busy")
			}
		}
		client := n.client()
		c := dialClient(t, rpchttp.Dialer{Client: client, Idempotent: func(string) bool { return true }}, "http://a/", nil)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		e, ok := errors.AsType[*rpchttp.StatusError](c.Call(ctx, "m", nil, nil))
		if !ok || e.RetryAfter != 10*time.Second || time.Since(start) != 0 || requests != 1 {
			t.Errorf("after %v and %d requests: %v", time.Since(start), requests, e)
		}
		cause := errors.New("given up")
		ctx2, cancel2 := context.WithCancelCause(t.Context())
		f := c.Go(ctx2, "m", nil)
		time.Sleep(3 * time.Second)
		cancel2(cause)
		<-f.Done()
		if f.Err() != cause || time.Since(start) != 3*time.Second || requests != 2 {
			t.Errorf("after %v and %d requests: %v", time.Since(start), requests, f.Err())
		}
		patient := dialClient(t, rpchttp.Dialer{Client: client, MaxRetryWait: time.Second, Idempotent: func(string) bool { return true }}, "http://a/", nil)
		if err := patient.Call(t.Context(), "m", nil, nil); err == nil || requests != 3 {
			t.Errorf("with a MaxRetryWait of 1 s, after %d requests: %v", requests, err)
		}
		patient = dialClient(t, rpchttp.Dialer{Client: client, MaxRetryWait: -1, Idempotent: func(string) bool { return true }}, "http://a/", nil)
		if err := patient.Call(t.Context(), "m", nil, nil); err == nil || requests != 6 {
			t.Errorf("without a limit, after %d requests: %v", requests, err)
		}
		requests = 2
		closed := c.Go(t.Context(), "m", nil)
		time.Sleep(3 * time.Second)
		c.Close()
		if <-closed.Done(); !errors.Is(closed.Err(), rpcx.ErrClosed) || requests != 3 {
			t.Errorf("after Close and %d requests: %v", requests, closed.Err())
		}
		client.CloseIdleConnections()
		n.wg.Wait()
	})
}

// A connection that breaks: what the server has received decides whether the message is
// sent again. The oracle is the number of whole messages that it has seen.
func TestClientConnectionBreaks(t *testing.T) {
	type conversation struct {
		r *bufio.Reader
		net.Conn
	}
	for _, test := range []struct {
		sentence string
		params   any
		serve    func(c conversation) (received int) // on the first connection; then it hangs up
		whole    bool                                // the message may have arrived as a whole
	}{
		{"before anything is read", nil, func(conversation) int { return 0 }, false},
		{"within the header", nil, func(c conversation) int {
			c.r.ReadString('\n')
			return 0
		}, true}, // package http has handed all to one write
		{"within a long body", strings.Repeat("x", 200_000), func(c conversation) int {
			request, _ := http.ReadRequest(c.r)
			io.CopyN(io.Discard, request.Body, 100_000)
			return 0
		}, false},
		{"after the message", nil, func(c conversation) int {
			readRequest(c.r)
			return 1
		}, true},
		{"after a long message", strings.Repeat("x", 200_000), func(c conversation) int {
			readRequest(c.r)
			return 1
		}, true},
		{"within the header of the response", nil, func(c conversation) int {
			readRequest(c.r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			return 1
		}, true},
		{"within the reply", nil, func(c conversation) int {
			readRequest(c.r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{")
			return 1
		}, true},
		{"with a response that is not HTTP", nil, func(c conversation) int {
			readRequest(c.r)
			io.WriteString(c, "SSH-2.0\r\n\r\n")
			return 1
		}, true},
	} {
		for _, idempotent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, idempotent: %v", test.sentence, idempotent), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var received atomic.Int32
					n := &testNet{t: t}
					n.serve = func(conn net.Conn, number int) {
						r := bufio.NewReader(conn)
						if number == 1 {
							received.Add(int32(test.serve(conversation{r, conn})))
							return
						}
						for {
							if _, err := readRequest(r); err != nil {
								return
							}
							received.Add(1)
							writeResponse(conn, 200, "", replyOne)
						}
					}
					client := n.client()
					c := dialClient(t, rpchttp.Dialer{Client: client, Idempotent: func(string) bool { return idempotent }}, "http://a/", nil)
					err := c.Call(t.Context(), "m", rpcx.Args{test.params}, nil)
					repeated := idempotent || !test.whole
					if (err == nil) != repeated {
						t.Errorf("the error is %v", err)
					}
					if e, ok := errors.AsType[*rpcx.ConnectionError](err); err != nil && (!ok || !e.Written) {
						t.Errorf("the error is %v", err)
					}
					if received := received.Load(); !idempotent && received > 1 {
						t.Errorf("the server has received the message %d times", received)
					}
					if conns := n.conns.Load(); (conns == 2) != repeated {
						t.Errorf("there were %d connections", conns)
					}
					client.CloseIdleConnections()
					n.wg.Wait()
				})
			})
		}
	}
}

// A server that cannot be reached is tried again; the message was not sent.
func TestClientUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			err      error
			failures int
			dials    int
		}{
			{errors.New("refused"), 2, 3},
			{errors.New("refused"), 9, 3},
			{&net.DNSError{Err: "no such host", Name: "a", IsNotFound: true}, 9, 1},
			{&net.DNSError{Err: "server misbehaving", Name: "a", IsTemporary: true}, 1, 2},
		} {
			dials := 0
			n := &testNet{t: t, serve: func(conn net.Conn, _ int) {
				readRequest(bufio.NewReader(conn))
				writeResponse(conn, 200, "Connection: close\r\n", replyOne)
			}}
			client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dials++; dials <= test.failures {
					return nil, test.err
				}
				return n.dialClient(ctx, network, addr)
			}}}
			c := dialClient(t, rpchttp.Dialer{Client: client}, "http://a/", nil)
			err := c.Call(t.Context(), "m", nil, nil)
			e, ok := errors.AsType[*rpcx.ConnectionError](err)
			if dials != test.dials || (err == nil) != (dials > test.failures) || ok && (e.Written || !errors.Is(err, test.err) || err.Error() != "request not sent: "+test.err.Error()) {
				t.Errorf("%v: %d dials, %v", test.err, dials, err)
			}
			client.CloseIdleConnections()
			n.wg.Wait()
		}
	})
}

// A certificate that is not trusted is not tried again, and nothing is sent.
func TestClientUntrusted(t *testing.T) {
	s := newWebServer(answeringBy(sumMethods()))
	s.Config.ErrorLog = discardLog
	s.StartTLS()
	t.Cleanup(s.Close)
	c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
	err := c.Call(t.Context(), "sum", nil, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the error is %v", err)
	}
	s.wantSeen(t, 0, 1)

	s = startWebServer(t, answeringBy(sumMethods())) // speaks no TLS
	s.Config.ErrorLog = discardLog
	c = dialClient(t, rpchttp.Dialer{}, strings.Replace(s.URL, "http:", "https:", 1), nil)
	err = c.Call(t.Context(), "sum", nil, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written || !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("the error is %v", err)
	}
	s.wantSeen(t, 0, 1)
}

// Stale idle connections: a server has closed the connection before the second call. What
// package http finds out before it writes is sent again, without a wait, on a new
// connection.
func TestClientStaleConnections(t *testing.T) {
	for _, test := range []struct {
		sentence string
		when     string
	}{
		{"closed long before", "before"},
		{"closed when package http has chosen the connection", "chosen"},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				received := 0
				hangUp := make(chan struct{}, 1)
				n := &testNet{t: t}
				n.serve = func(conn net.Conn, number int) {
					for r := bufio.NewReader(conn); ; {
						if _, err := readRequest(r); err != nil {
							return
						}
						received++
						writeResponse(conn, 200, "", strings.Replace(replyOne, "0}", fmt.Sprintf("%d}", received-1), 1))
						if number == 1 {
							<-hangUp
							return
						}
					}
				}
				client := n.client()
				c := dialClient(t, rpchttp.Dialer{Client: client, Retries: 1}, "http://a/", nil)
				if err := c.Call(t.Context(), "m", nil, nil); err != nil {
					t.Fatal(err)
				}
				ctx := t.Context()
				if test.when == "before" {
					hangUp <- struct{}{}
					synctest.Wait()
				} else {
					ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
						if info.Reused {
							hangUp <- struct{}{}
							synctest.Wait()
						}
					}})
				}
				start := time.Now()
				if err := c.Call(ctx, "m", nil, nil); err != nil {
					t.Errorf("the second call: %v", err)
				}
				if received != 2 || n.conns.Load() != 2 || time.Since(start) != 0 {
					t.Errorf("%d messages on %d connections, after %v", received, n.conns.Load(), time.Since(start))
				}
				client.CloseIdleConnections()
				n.wg.Wait()
			})
		})
	}
}

// Redirects: 307 and 308 send the message to the new place. The others would lose it.
func TestClientRedirects(t *testing.T) {
	target := startWebServer(t, answeringBy(sumMethods()))
	for _, code := range []int{301, 302, 303, 307, 308} {
		s := startWebServer(t, answerStatus(code, "", "Location", target.URL+"/new"))
		before := len(target.seen())
		c := dialClient(t, rpchttp.Dialer{Idempotent: func(string) bool { return true }}, s.URL, nil)
		sum, err := rpcx.Call[int](t.Context(), c, "sum", rpcx.Args{1, 2})
		s.wantSeen(t, 1, 1)
		if seen := target.seen()[before:]; code >= 307 {
			if err != nil || sum != 3 || len(seen) != 1 || seen[0].RequestURI != "/new" || seen[0].Method != "POST" {
				t.Errorf("%d: %d, %v", code, sum, err)
			}
			continue
		} else if len(seen) > 0 {
			t.Errorf("%d: %s %s has arrived", code, seen[0].Method, seen[0].RequestURI)
		}
		e, ok := errors.AsType[*rpchttp.StatusError](err)
		if !ok || e.StatusCode != code || !strings.Contains(err.Error(), "it redirects to "+target.URL+"/new with a status that would make a GET of the POST") {
			t.Errorf("%d: %v", code, err)
		}
	}
}

// No redirect leads from https to http, or round and round.
func TestClientRefusesRedirects(t *testing.T) {
	target := startWebServer(t, answeringBy(sumMethods()))
	s := newWebServer(answerStatus(307, "", "Location", target.URL))
	s.StartTLS()
	t.Cleanup(s.Close)
	for i, d := range []rpchttp.Dialer{{TLS: trusting(s)}, {Client: s.Client()}} {
		err := dialClient(t, d, s.URL, nil).Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
		if e, ok := errors.AsType[*rpchttp.StatusError](err); !ok || e.StatusCode != 307 || !strings.Contains(err.Error(), "which is not followed from https to http") {
			t.Errorf("%d: %v", i, err)
		}
	}
	if len(target.seen()) > 0 {
		t.Error("the message has arrived in the clear")
	}
	allowing := *s.Client()
	allowing.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
	if err := dialClient(t, rpchttp.Dialer{Client: &allowing}, s.URL, nil).Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err != nil {
		t.Errorf("with a CheckRedirect of the program: %v", err)
	}
	allowing.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if err := dialClient(t, rpchttp.Dialer{Client: &allowing}, s.URL, nil).Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err == nil || !strings.Contains(err.Error(), "which is not followed from https") {
		t.Errorf("with a CheckRedirect that forbids: %v", err)
	}

	round := startWebServer(t, answerStatus(307, "", "Location", "/"))
	err := dialClient(t, rpchttp.Dialer{}, round.URL, nil).Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || !strings.HasSuffix(err.Error(), "stopped after 10 redirects") || !e.Written {
		t.Errorf("round and round: %v", err)
	}
	round.wantSeen(t, 10, 1)
}

// A redirect to another host takes no secrets there.
func TestClientRedirectKeepsSecrets(t *testing.T) {
	for _, test := range []struct {
		location string
		secrets  int
	}{{"http://a:81/new", 3}, {"/new", 3}, {"http://b/new", 0}, {"http://sub.a/new", 0}} {
		synctest.Test(t, func(t *testing.T) {
			var last http.Header
			n := &testNet{t: t, serve: func(conn net.Conn, _ int) {
				for r := bufio.NewReader(conn); ; {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, request.Body)
					if last = request.Header; request.URL.Path == "/new" {
						writeResponse(conn, 200, "", replyOne)
					} else {
						writeResponse(conn, 307, "Location: "+test.location+"\r\n", "")
					}
				}
			}}
			client := n.client()
			c := dialClient(t, rpchttp.Dialer{
				Client: client,
				Header: http.Header{"X-Api-Key": {"secret"}, "User-Agent": {"me"}},
				Auth: func(_ context.Context, r *http.Request) error {
					r.Header.Set("Authorization", "Bearer secret")
					r.Header.Set("X-Signature", "secret")
					return nil
				},
			}, "http://a/secret", nil)
			if err := c.Call(t.Context(), "m", nil, nil); err != nil {
				t.Fatal(err)
			}
			client.CloseIdleConnections()
			n.wg.Wait()
			secrets := 0
			for _, name := range []string{"X-Api-Key", "Authorization", "X-Signature"} {
				if last.Get(name) != "" {
					secrets++
				}
			}
			if secrets != test.secrets || secrets == 0 && last.Get("Referer") != "" || last.Get("User-Agent") != "me" || last.Get("Content-Type") == "" {
				t.Errorf("%s: the header is %v", test.location, last)
			}
		})
	}
}

// A message that is redirected to a server that cannot be reached was not sent.
func TestClientRedirectToNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		received := 0
		n := &testNet{t: t, serve: func(conn net.Conn, _ int) {
			for r := bufio.NewReader(conn); ; {
				if _, err := readRequest(r); err != nil {
					return
				}
				received++
				writeResponse(conn, 307, "Location: http://nowhere/\r\n", "")
			}
		}}
		refused := errors.New("refused")
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.HasPrefix(addr, "nowhere") {
				return nil, refused
			}
			return n.dialClient(ctx, network, addr)
		}}}
		c := dialClient(t, rpchttp.Dialer{Client: client}, "http://a/", nil)
		err := c.Call(t.Context(), "m", nil, nil)
		if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written || !errors.Is(err, refused) || received != 3 {
			t.Errorf("after %d messages: %v", received, err)
		}
		client.CloseIdleConnections()
		n.wg.Wait()
	})
}

// A RoundTripper of the program may have sent the message once it has read the body.
func TestClientForeignTransport(t *testing.T) {
	failure := errors.New("failed")
	for _, reads := range []bool{false, true} {
		trips := 0
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			trips++
			if reads {
				var b bytes.Buffer
				b.ReadFrom(r.Body)
			}
			return nil, failure
		})}
		c := dialClient(t, rpchttp.Dialer{Client: client, MaxRetryWait: time.Millisecond}, "http://a/", nil)
		err := c.Call(t.Context(), "m", nil, nil)
		want := 3
		if reads {
			want = 1
		}
		if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written != reads || !errors.Is(err, failure) || trips != want {
			t.Errorf("%d trips: %v", trips, err)
		}
	}
}

// roundTripper is an http.RoundTripper that is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A server that aborts a stream of HTTP/2 has had the message.
func TestClientHTTP2Aborts(t *testing.T) {
	for _, idempotent := range []bool{false, true} {
		s := newWebServer(func(w http.ResponseWriter, r webRequest, n int) {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, replyOne)
		})
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		c := dialClient(t, rpchttp.Dialer{TLS: trusting(s), Idempotent: func(string) bool { return idempotent }}, s.URL, nil)
		err := c.Call(t.Context(), "m", nil, nil)
		if idempotent {
			s.wantSeen(t, 2, 1)
		} else {
			s.wantSeen(t, 1, 1)
		}
		if e, ok := errors.AsType[*rpcx.ConnectionError](err); (err == nil) != idempotent || ok && !e.Written {
			t.Errorf("idempotent %v: %v", idempotent, err)
		}
	}
}

// The time for a connection is bounded by Timeout, which the error names.
func TestDialerTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := rpchttp.Dialer{Timeout: 10 * time.Millisecond, Retries: -1, SOCKS: &rpcx.SOCKSProxy{Addr: l.Addr().String()}}
	err = dialClient(t, d, "http://a/", nil).Call(t.Context(), "m", nil, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written || !strings.Contains(err.Error(), "(Dialer.Timeout)") {
		t.Errorf("a proxy that says nothing: %v", err)
	}
	d.SOCKS = nil
	err = dialClient(t, d, "https://"+l.Addr().String(), nil).Call(t.Context(), "m", nil, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written || !strings.Contains(err.Error(), "TLS handshake timeout") {
		t.Errorf("a TLS server that says nothing: %v", err)
	}
}

// A header of a response is bounded, and the error says by what.
func TestClientLargeHeader(t *testing.T) {
	s := startWebServer(t, answerStatus(200, replyOne, "X-Large", strings.Repeat("x", 100_000)))
	err := dialClient(t, rpchttp.Dialer{}, s.URL, nil).Call(t.Context(), "m", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "(MaxResponseHeaderBytes of the Transport of Dialer.Client)") {
		t.Errorf("the error is %v", err)
	}
}
