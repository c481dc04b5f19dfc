package rpchttp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// costly is a server whose method "work" uses a tenth of the budget.
func costly() *rpcx.Server {
	srv := newServer(methods{"work": func(_ context.Context, req *rpcx.Request) (any, error) {
		req.Session().BumpCost(100)
		return "done", nil
	}})
	srv.Options.Limits.CostSoft, srv.Options.Limits.CostHard, srv.Options.Limits.CostDecay = -1, 1000, 1
	return srv
}

const workRequest = `{"jsonrpc":"2.0","method":"work","id":1}`

// from returns a request from the address.
func from(addr, msg string, header ...string) *http.Request {
	r := post(msg, header...)
	r.RemoteAddr = addr
	return r
}

// Thousands of connections of one client share one budget: an address, or a /64 of IPv6,
// also on this machine, and behind a local proxy that is listed.
func TestOneBudgetForAClient(t *testing.T) {
	local := netip.MustParsePrefix("127.0.0.1/32")
	for _, c := range []struct {
		name    string
		client  func(*http.Request) netip.Addr
		same    func(i int) *http.Request
		another *http.Request
	}{
		{"IPv4", nil,
			func(i int) *http.Request { return from(fmt.Sprint("198.51.100.1:", i), workRequest) },
			from("198.51.100.2:1", workRequest)},
		{"IPv6", nil,
			func(i int) *http.Request { return from(fmt.Sprintf("[2001:db8::%x]:1", i), workRequest) },
			from("[2001:db8:0:1::1]:1", workRequest)},
		{"IPv4 in IPv6", nil,
			func(i int) *http.Request {
				return from([]string{"198.51.100.1:1", "[::ffff:198.51.100.1]:1"}[i%2], workRequest)
			},
			from("[::ffff:198.51.100.2]:1", workRequest)},
		{"loopback", nil,
			func(i int) *http.Request { return from(fmt.Sprint("127.0.0.1:", i), workRequest) },
			from("127.0.0.2:1", workRequest)},
		{"a unix socket", nil,
			func(int) *http.Request { return from("@", workRequest) },
			from("127.0.0.1:1", workRequest)},
		{"a local proxy", rpchttp.XForwardedFor(local),
			func(i int) *http.Request {
				return from(fmt.Sprint("127.0.0.1:", i), workRequest, "X-Forwarded-For", fmt.Sprintf("10.0.0.%d, 198.51.100.1", i%200))
			},
			from("127.0.0.1:1", workRequest, "X-Forwarded-For", "198.51.100.2")},
		{"somebody who plays the proxy", rpchttp.XForwardedFor(local),
			func(i int) *http.Request {
				return from(fmt.Sprint("198.51.100.1:", i), workRequest, "X-Forwarded-For", fmt.Sprintf("10.0.0.%d", i%200))
			},
			from("127.0.0.1:1", workRequest)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &rpchttp.Handler{Server: costly(), Client: c.client}
				statuses := make(map[int]int)
				for i := range 2000 {
					statuses[serve(h, c.same(i)).Code]++
				}
				if statuses[200] != 10 || statuses[429] != 1990 {
					t.Errorf("the statuses are %v", statuses)
				}
				answering(t, h, c.another, 200, "")
			})
		})
	}
}

// The budget is also that of the same client's other sessions, by Limits.Group.
func TestOneBudgetWithOtherSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := costly()
		srv.Options.Limits.Group = rpcx.GroupBySubnet(24, 64)
		here, there := net.Pipe()
		s := srv.ServeConn(farConn{there}) // 198.51.100.7
		s.BumpCost(990)
		h := &rpchttp.Handler{Server: srv}
		answering(t, h, from("198.51.100.1:1", workRequest), 200, "")
		answering(t, h, from("198.51.100.2:1", workRequest), 429, "")
		answering(t, h, from("198.51.101.2:1", workRequest), 200, "")
		here.Close()
		<-s.Done()
	})
}

// A client over its budget is told when to come back.
func TestExcessiveCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := costly()
		srv.Options.Limits.HideCost = true
		h := &rpchttp.Handler{Server: srv}
		for range 10 {
			answering(t, h, post(workRequest), 200, "")
		}
		w := answering(t, h, post(workRequest), 429, `{"jsonrpc":"2.0","error":{"code":-101,"message":"excessive resource usage"},"id":1}`)
		seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
		if err != nil || seconds < 900 || seconds > 1110 {
			t.Fatalf("Retry-After is %q", w.Header().Get("Retry-After"))
		}
		answering(t, h, post(strings.Replace(workRequest, `,"id":1`, "", 1)), 429, "too many requests\n") // a notification
		answering(t, h, post(`{`), 429, "")
		time.Sleep(time.Duration(seconds) * time.Second)
		answering(t, h, post(workRequest), 200, "")
	})
}

// What was not started, and may be sent again, has the status 503 and a Retry-After.
func TestNotStarted(t *testing.T) {
	busy := func(t *testing.T, h http.Handler, reason string) http.Header {
		t.Helper()
		w := serve(h, post(workRequest))
		var e struct{ Error *rpcx.Error }
		if err := rpcx.JSON.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != 503 || w.Header().Get("Retry-After") != "1" {
			t.Fatalf("the answer is %d %s, %v", w.Code, w.Body, w.Header())
		}
		if want := fmt.Sprintf(`"started":false,"reason":%q`, reason); !strings.Contains(w.Body.String(), want) {
			t.Errorf("the answer is %s", w.Body)
		}
		answering(t, h, post(strings.Replace(workRequest, `,"id":1`, "", 1)), 503, "service unavailable\n")
		return w.Header()
	}
	t.Run("full", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := costly()
			srv.MaxSessions = 1
			here, there := net.Pipe()
			s := srv.ServeConn(there)
			if header := busy(t, &rpchttp.Handler{Server: srv}, "sessions"); header.Get("Connection") != "" {
				t.Errorf("the header is %v", header)
			}
			here.Close()
			<-s.Done()
		})
	})
	t.Run("too many of one client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			running := make(chan struct{})
			srv := newServer(methods{"wait": func(context.Context, *rpcx.Request) (any, error) { <-running; return nil, nil }})
			srv.MaxGroup, srv.Options.Limits.Group = 1, rpcx.GroupBySubnet(32, 64)
			h := &rpchttp.Handler{Server: srv}
			done := make(chan int, 1)
			// Owner: the test. End: running is closed.
			go func() { done <- serve(h, post(`{"jsonrpc":"2.0","method":"wait","id":1}`)).Code }()
			synctest.Wait()
			busy(t, h, "sessions")
			answering(t, h, from("198.51.100.1:1", echoing), 200, echoed)
			close(running)
			if status := <-done; status != 200 {
				t.Errorf("the status is %d", status)
			}
			answering(t, h, post(echoing), 200, echoed)
		})
	})
	t.Run("stopped", func(t *testing.T) {
		srv := costly()
		srv.StopListening()
		if header := busy(t, &rpchttp.Handler{Server: srv}, "shutting down"); header.Get("Connection") != "close" {
			t.Errorf("the header is %v", header)
		}
	})
	t.Run("started and too late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(methods{"work": func(ctx context.Context, _ *rpcx.Request) (any, error) {
				<-ctx.Done()
				return nil, nil
			}})
			w := answering(t, &rpchttp.Handler{Server: srv}, post(workRequest), 200, `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out","data":{"started":true,"reason":"timeout"}},"id":1}`)
			if w.Header().Get("Retry-After") != "" {
				t.Errorf("the header is %v", w.Header())
			}
		})
	})
}

// A Shutdown of the server lets the requests under way finish, and refuses others.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		srv := newServer(methods{"work": func(context.Context, *rpcx.Request) (any, error) {
			<-release
			return "done", nil
		}})
		web := newWeb(t, &rpchttp.Handler{Server: srv})
		a, b := web.wire(), web.wire()
		a.send(posting(workRequest))
		synctest.Wait()
		shut := make(chan error, 1)
		// Owner: the test. End: Shutdown returns.
		go func() { shut <- srv.Shutdown(context.Background()) }()
		synctest.Wait()
		b.send(posting(workRequest))
		if resp := b.answer(); resp.StatusCode != 503 || !resp.Close {
			t.Errorf("the answer is %s, %v", resp.Status, resp.Header)
		}
		select {
		case err := <-shut:
			t.Errorf("Shutdown has not waited: %v", err)
		default:
		}
		close(release)
		a.answering(200, `{"jsonrpc":"2.0","result":"done","id":1}`)
		if err := <-shut; err != nil {
			t.Error(err)
		}
	})
}

// Close of the server ends the contexts of handlers. The client learns that it ended, and
// not that the request can be repeated.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(methods{"work": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			return nil, nil
		}})
		w := newWeb(t, &rpchttp.Handler{Server: srv}).wire()
		w.send(posting(workRequest))
		synctest.Wait()
		srv.Close()
		if resp := w.answering(500, "internal server error\n"); resp.Header.Get("Retry-After") != "" {
			t.Errorf("the header is %v", resp.Header)
		}
	})
}

// The header and the URL are bounded by the http.Server.
func TestHeaderSize(t *testing.T) {
	srv := httptest.NewUnstartedServer(&rpchttp.Handler{Server: newServer(nil)})
	srv.Config.MaxHeaderBytes = 4096
	srv.Start()
	defer srv.Close()
	for name, r := range map[string]*http.Request{
		"a header": post(echoing, "X-Large", strings.Repeat("x", 10_000)),
		"a URL":    httptest.NewRequest("POST", "/"+strings.Repeat("x", 10_000), strings.NewReader(echoing)),
	} {
		r.RequestURI = ""
		r.URL.Scheme, r.URL.Host = "http", srv.Listener.Addr().String()
		resp, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != 431 {
			t.Errorf("%s is answered %s", name, resp.Status)
		}
	}
}

// Over TLS with HTTP/2, a connection carries several requests at once, and the deadline of
// one body does not concern the others.
func TestHTTP2(t *testing.T) {
	release := make(chan struct{})
	rpc := newServer(methods{
		"work":  func(context.Context, *rpcx.Request) (any, error) { <-release; return "done", nil },
		"count": counting(3, 0),
	})
	srv := httptest.NewUnstartedServer(&rpchttp.Handler{Server: rpc, SSE: true, MaxSize: 100_000})
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	do := func(msg string) (int, string, error) {
		r, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL, strings.NewReader(msg))
		if err != nil {
			return 0, "", err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "text/event-stream")
		resp, err := srv.Client().Do(r)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Errorf("the protocol is %s", resp.Proto)
		}
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	slow := make(chan string, 1)
	// Owner: the test. End: the answer.
	go func() {
		status, body, err := do(workRequest)
		slow <- fmt.Sprint(status, body, err)
	}()
	for msg, want := range map[string]string{
		echoing:         "200" + echoed,
		countRequest:    "200" + countEvent(0) + countEvent(1) + countEvent(2) + event(countReply),
		padded(100_001): `413{"jsonrpc":"2.0","error":{"code":-32600,"message":"message too large (over 100,000 bytes)"},"id":null}`,
		padded(100_000): "",
	} {
		status, body, err := do(msg)
		if got := strconv.Itoa(status) + body; want != "" && got != want || status == 0 || err != nil {
			t.Errorf("%.100s is answered %.300s, %v; want %s", msg, got, err, want)
		}
	}
	close(release)
	if got := <-slow; got != `200{"jsonrpc":"2.0","result":"done","id":1}<nil>` {
		t.Error(got)
	}
}

// A client that asks again too early waits longer, but not for ever: a refusal costs nothing.
func TestRefusedClientIsLetInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		router := rpcx.NewRouter()
		router.Handle("ok", rpcx.Func(func() {}))
		srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
		h := &rpchttp.Handler{Server: srv}
		for range 12 {
			serve(h, post(`{`))
		}
		for range 200 { // 100 minutes; the cost decays in an hour and a few minutes
			if serve(h, post(`{"jsonrpc":"2.0","method":"ok","id":1}`)).Code == http.StatusOK {
				return
			}
			time.Sleep(30 * time.Second)
		}
		t.Error("the client is refused for ever")
	})
}

// A handler that reports progress works for clients that take only the reply.
func TestProgressWithoutEvents(t *testing.T) {
	router := rpcx.NewRouter()
	router.Handle("work", rpcx.Func(func(ctx context.Context) error { return rpcx.Progress(ctx)(1) }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router, Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone}}}
	answering(t, &rpchttp.Handler{Server: srv}, post(`{"jsonrpc":"2.0","method":"work","params":{"workDoneToken":1},"id":1}`), 200,
		`{"jsonrpc":"2.0","result":null,"id":1}`)
}
