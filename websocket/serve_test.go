package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// slowWeb is a web server with WebSockets at /rpc and a page at /page, whose method
// "slow" and page take the given times.
func slowWeb(t *testing.T, timeout, method, page time.Duration) (srv *rpcx.Server, web *http.Server, started chan string) {
	started = make(chan string, 2)
	router := rpcx.NewRouter()
	router.Handle("slow", rpcx.Func(func() string {
		started <- "method"
		time.Sleep(method)
		return "done"
	}))
	srv = &rpcx.Server{Options: rpcx.Options{Handler: router}, ShutdownTimeout: timeout}
	mux := http.NewServeMux()
	mux.Handle("/rpc", websocket.Handler(srv))
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		started <- "page"
		time.Sleep(page)
		io.WriteString(w, "done")
	})
	return srv, &http.Server{Handler: mux}, started
}

// ListenAndServe listens at the address of the web server. During the notice, both go on.
func TestListenAndServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	srv, web, _ := slowWeb(t, 0, 0, 0)
	web.Addr = addr
	if err := websocket.ListenAndServe(t.Context(), srv, web); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("at an address in use: %v", err)
	}
	l.Close()
	srv.ShutdownNotice = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	// Owner: the test. End: srv.Close.
	go func() { served <- websocket.ListenAndServe(ctx, srv, web) }()
	dial := func() (s *rpcx.Session) {
		for s, err = websocket.Dial(t.Context(), "ws://"+addr+"/rpc", nil); err != nil && t.Context().Err() == nil; {
			s, err = websocket.Dial(t.Context(), "ws://"+addr+"/rpc", nil)
		}
		return s
	}
	first := dial()
	cancel()
	for srv.Ready() {
		runtime.Gosched()
	}
	second := dial()
	for _, s := range []*rpcx.Session{first, second} {
		if got, err := rpcx.Call[string](t.Context(), s, "slow", nil); err != nil || got != "done" {
			t.Errorf("during the notice: %q, %v", got, err)
		}
	}
	srv.StopListening()
	if err := <-served; err != nil {
		t.Errorf("served: %v", err)
	}
	<-first.Done()
	<-second.Done()
}

// At the end of its context ServeContext waits for calls and pages, as long as it may.
func TestServeContextDrainsBoth(t *testing.T) {
	for _, c := range []struct {
		name                  string
		timeout, method, page time.Duration
		takes                 time.Duration // at most a second more: package http looks every 500 ms, and by chance up to 10 % later
		call, request         bool          // succeed
		err                   string
	}{
		{"the call is the last", 0, 20 * time.Second, 10 * time.Second, 20 * time.Second, true, true, ""},
		{"the page is the last", 0, 10 * time.Second, 20 * time.Second, 20 * time.Second, true, true, ""},
		{"both are over at once", 0, time.Nanosecond, time.Nanosecond, time.Nanosecond, true, true, ""},
		{"the call takes too long", 5 * time.Second, 20 * time.Second, time.Second, 5 * time.Second, false, true, "sessions were not finished after 5s"},
		{"the page takes too long", 5 * time.Second, time.Second, 20 * time.Second, 5 * time.Second, true, false, "HTTP requests were not finished after 5s"},
		{"without a limit nothing does", -1, time.Hour, 2 * time.Hour, 2 * time.Hour, true, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, web, started := slowWeb(t, c.timeout, c.method, c.page)
				srv.Options.Limits.ProcessingTimeout = -1
				l := newMemory()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				served := make(chan error)
				go func() { served <- websocket.ServeContext(ctx, srv, web, l) }()

				d := websocket.Dialer{
					Dialer: rpcx.Dialer{DialContext: l.dial},
					Config: websocket.Config{PingInterval: -1}, // two that ping each other at once wait for each other over a net.Pipe
				}
				s, err := d.Dial(t.Context(), "ws://memory/rpc", &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: -1}})
				if err != nil {
					t.Fatal(err)
				}
				call := s.Go(t.Context(), "slow", nil)
				<-started
				page := make(chan error)
				go func() {
					client := &http.Client{Transport: &http.Transport{DialContext: l.dial, DisableKeepAlives: true}}
					resp, err := client.Get("http://memory/page")
					if err == nil {
						_, err = io.ReadAll(resp.Body)
						resp.Body.Close()
					}
					page <- err
				}()
				<-started

				began := time.Now()
				cancel()
				pageErr := make(chan error, 1)
				go func() { pageErr <- <-page }()
				err = <-served
				if took := time.Since(began); took < c.takes || took > c.takes+time.Second {
					t.Errorf("it took %v, want %v", took, c.takes)
				}
				switch {
				case c.err == "" && err != nil:
					t.Errorf("it returns %v", err)
				case c.err != "" && (!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), c.err)):
					t.Errorf("it returns %v, want %q", err, c.err)
				}
				if err := call.Wait(t.Context(), nil); (err == nil) != c.call {
					t.Errorf("the call: %v", err)
				}
				if err := <-pageErr; (err == nil) != c.request {
					t.Errorf("the page: %v", err)
				}
				<-s.Done()
				srv.Wait(context.Background()) // for the handler that ServeContext has given up
				time.Sleep(24 * time.Hour)     // for the page that it has given up
			})
		})
	}
}

// What ends for another reason than the context is told, and the other server left alone.
func TestServeContextThatSomebodyElseEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*rpcx.Server, *http.Server, net.Listener)
		want error
	}{
		"the RPC server":          {func(srv *rpcx.Server, _ *http.Server, _ net.Listener) { srv.Shutdown(context.Background()) }, rpcx.ErrServerClosed},
		"the web server":          {func(_ *rpcx.Server, web *http.Server, _ net.Listener) { web.Shutdown(context.Background()) }, http.ErrServerClosed},
		"the listener":            {func(_ *rpcx.Server, _ *http.Server, l net.Listener) { l.Close() }, net.ErrClosed},
		"nobody, options are bad": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, web, _ := slowWeb(t, 0, 0, 0)
				l := newMemory()
				if c.end == nil {
					srv.Options.Limits.RequestTimeout = 30
					err := websocket.ServeContext(t.Context(), srv, web, l)
					if err == nil || err.Error() != "serve: Limits.RequestTimeout is 30ns: write 30*time.Second" {
						t.Errorf("it returns %v", err)
					}
					if _, err := l.Accept(); err != net.ErrClosed {
						t.Errorf("the listener is open: %v", err)
					}
					return
				}
				ctx, cancel := context.WithCancel(t.Context())
				served := make(chan error)
				go func() { served <- websocket.ServeContext(ctx, srv, web, l) }()
				synctest.Wait()
				c.end(srv, web, l)
				if err := <-served; !errors.Is(err, c.want) {
					t.Errorf("it returns %v, want %v", err, c.want)
				}
				cancel() // does nothing
			})
		})
	}
}

// A context that has ended before is a shutdown like any other, and closes the listener.
func TestServeContextThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, web, _ := slowWeb(t, 0, 0, 0)
		l := newMemory()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := websocket.ServeContext(ctx, srv, web, l); err != nil {
			t.Error(err)
		}
		if _, err := l.Accept(); err != net.ErrClosed {
			t.Errorf("the listener is open: %v", err)
		}
	})
}

// Options that are wrong are told before anything is connected.
func TestDialWithWrongOptions(t *testing.T) {
	for want, c := range map[string]struct {
		dialer websocket.Dialer
		opts   rpcx.Options
	}{
		"Limits.RequestTimeout is 30ns: write 30*time.Second":                {websocket.Dialer{}, rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 30}}},
		"Options.Types without Options.Objects: set that, too, at both ends": {websocket.Dialer{}, rpcx.Options{Types: []rpcx.Type{{}}}},
		"Dialer.Timeout is 10ns: write 10*time.Second":                       {websocket.Dialer{Dialer: rpcx.Dialer{Timeout: 10}}, rpcx.Options{}},
		"websocket.Config.PingInterval is 5ns: write 5*time.Second":          {websocket.Dialer{Config: websocket.Config{PingInterval: 5}}, rpcx.Options{}},
	} {
		c.dialer.DialContext = func(context.Context, string, string) (net.Conn, error) {
			t.Error("it is dialled")
			return nil, errors.New("not here")
		}
		if _, err := c.dialer.Dial(t.Context(), "ws://localhost:1", &c.opts); err == nil || err.Error() != "dial ws://localhost:1: "+want {
			t.Errorf("it is %v, want %q", err, want)
		}
	}
}

// An Acceptor cannot return an error, and so panics, which package http logs.
func TestAcceptorWithoutUnit(t *testing.T) {
	a := &websocket.Acceptor{Server: &rpcx.Server{}, Config: websocket.Config{PingInterval: 30}}
	defer func() {
		if got := fmt.Sprint(recover()); got != "rpcx: websocket.Config.PingInterval is 30ns: write 30*time.Second" {
			t.Errorf("it panics with %q", got)
		}
	}()
	a.ServeHTTP(nil, nil)
}

func TestAcceptorWithoutAServer(t *testing.T) {
	defer func() {
		if text := fmt.Sprint(recover()); text != "rpcx: websocket.Acceptor without a Server: set that field" {
			t.Errorf("it panics with %q", text)
		}
	}()
	new(websocket.Acceptor).ServeHTTP(nil, nil)
}
