package rpcx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"github.com/google/go-cmp/cmp"
)

// serving returns a server with a handler.
func serving(h rpcx.Handler) *rpcx.Server {
	return &rpcx.Server{Options: rpcx.Options{Handler: h}}
}

// request returns a request of method with the id 1.
func request(method string, params ...string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":[%s],"id":1}`, method, strings.Join(params, ","))
}

// exchanging says that the server answers msg with want and without an error.
func exchanging(t *testing.T, srv *rpcx.Server, msg, want string) {
	t.Helper()
	reply, err := srv.ServeMessage(t.Context(), nil, []byte(msg), nil)
	if string(reply) != want || err != nil {
		t.Errorf("%.100s is answered\n%s, %v; want\n%s", msg, reply, err, want)
	}
}

// idleServer says that the server has no session left.
func idleServer(t *testing.T, srv *rpcx.Server) {
	t.Helper()
	synctest.Wait()
	if stats := srv.Stats(); stats.Sessions != 0 || stats.HandledBytes != 0 || stats.QueuedBytes != 0 {
		t.Errorf("the server has %+v", stats)
	}
}

// A message has the same answer with and without a connection.
func TestServeMessageAnswersAsASession(t *testing.T) {
	invalid := strings.TrimSuffix(strings.Repeat("1,", 17), ",")
	many := strings.TrimSuffix(strings.Repeat(request("echo", "1")+",", 11), ",")
	messages := []string{
		request("echo", `"hello"`),
		request("fail"), request("panic"), request("none"), request("wrong"),
		request("disconnect"), request("large"),
		`{"jsonrpc":"2.0","method":"echo","params":{"a":1},"id":"x"}`,
		`{"jsonrpc":"2.0","method":"echo","params":[1]}`,
		`{"jsonrpc":"2.0","method":"none"}`,
		`{"jsonrpc":"2.0","method":"echo","params":1,"id":1}`,
		`{"jsonrpc":"2.0","method":1,"id":1}`, `{"jsonrpc":"2.0","id":null,"method":"echo"}`,
		`{"method":"echo","params":[2],"id":3}`, `{"method":"echo","params":[2],"id":null}`,
		`{"result":1,"error":null,"id":9}`, `{"jsonrpc":"2.0","result":1,"id":1}`,
		`{"jsonrpc":"2.0","error":{"code":1,"message":"x"},"id":null}`,
		`[{"jsonrpc":"2.0","result":1,"id":1},{"jsonrpc":"2.0","result":2,"id":2}]`,
		``, `   `, `{`, `nonsense`, `1`, `null`, `"text"`, `{}`, `[]`, "\ufeff" + request("echo", "1"), "\xff\xfe",
		`GET / HTTP/1.1`,
		`[` + request("echo", "1") + `,1,` + request("fail") + `,{"jsonrpc":"2.0","method":"echo"}]`,
		`[{"jsonrpc":"2.0","method":"echo"}]`, `[1]`, `[1,{"jsonrpc":"2.0","method":"echo"}]`,
		`[` + invalid + `]`, `[` + many + `]`,
		`[` + request("large") + `,` + request("echo", "1") + `]`,
		`[` + request("disconnect") + `,` + request("echo", "1") + `]`,
		`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`,
	}
	protocols := map[string]rpcx.Protocol{
		"2.0": rpcx.JSONRPCv2, "1.0": rpcx.JSONRPCv1, "loose": rpcx.JSONRPCLoose, "auto": rpcx.JSONRPCAutoDetect,
	}
	handler := methods{
		"echo": reply,
		"fail": func(context.Context, *rpcx.Request) (any, error) {
			return nil, rpcx.Errorf(7, "failed").WithData("why")
		},
		"wrong": func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("a secret") },
		"panic": func(context.Context, *rpcx.Request) (any, error) { panic("a secret") },
		"large": func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", 400), nil },
		"disconnect": func(context.Context, *rpcx.Request) (any, error) {
			return rpcx.ReplyAndDisconnect("bye"), nil
		},
	}
	for name, protocol := range protocols {
		t.Run(name, func(t *testing.T) {
			opts := rpcx.Options{Handler: handler, Protocol: protocol, Cancellation: rpcx.LSPCancellation,
				Order:  rpcx.Sequential, // which replies are too large depends on the order
				Limits: rpcx.Limits{Batch: 20, Response: 300}}
			if protocol == rpcx.JSONRPCv2 {
				opts.Limits.Batch = 10
			}
			for _, msg := range messages {
				synctest.Test(t, func(t *testing.T) {
					_, w := newWire(t, &opts)
					w.say(msg)
					want := strings.Join(w.heard(), "\n")
					srv := &rpcx.Server{Options: opts}
					got, err := srv.ServeMessage(t.Context(), nil, []byte(msg), nil)
					if string(got) != want {
						t.Errorf("%.200q is answered\n%q, and by a session\n%q", msg, got, want)
					}
					if len(want) == 0 && got != nil {
						t.Errorf("%.200q: the reply is empty and not nil", msg)
					}
					if err != nil {
						t.Errorf("%.200q: the error is %v", msg, err)
					}
					idleServer(t, srv)
				})
			}
		})
	}
}

// aConn is a connection for ServeMessage.
type aConn struct {
	addr  net.Addr
	group string
	max   int
}

func (c *aConn) RemoteAddr() net.Addr { return c.addr }
func (c *aConn) Group() string        { return c.group }
func (c *aConn) MaxMessage() int      { return c.max }

// Handlers see a session, which lives as long as the exchange.
func TestServeMessageSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		conn := &aConn{addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80"))}
		var s *rpcx.Session
		var closedWith error
		srv := serving(methods{"look": func(ctx context.Context, req *rpcx.Request) (any, error) {
			s = req.Session()
			if s.Conn() != any(conn) || s.NetConn() != nil || s.LocalAddr() != nil || s.RemoteAddr() != conn.addr || s.Role() != rpcx.RoleServer {
				t.Errorf("the session has %v, %v, %v, %v", s.Conn(), s.NetConn(), s.RemoteAddr(), s.Role())
			}
			s.SetValue(key{}, 1)
			if s.Value(key{}) != 1 || ctx.Value(key{}) != 1 || ctx.Value(callersKey{}) != 2 {
				t.Errorf("the values are %v, %v and %v", s.Value(key{}), ctx.Value(key{}), ctx.Value(callersKey{}))
			}
			s.OnClose(func(err error) { closedWith = err })
			select {
			case <-s.Done():
				t.Error("the session is over")
			default:
			}
			if err := s.Err(); err != nil {
				t.Errorf("the session has ended: %v", err)
			}
			if stats := s.Stats(); stats.Running != 1 || stats.RequestsReceived != 1 {
				t.Errorf("the session has %+v", stats)
			}
			if err := s.Shutdown(ctx); err != rpcx.ErrInHandler {
				t.Errorf("Shutdown: %v", err)
			}
			return srvSessions(req), nil
		}})
		ctx := context.WithValue(t.Context(), callersKey{}, 2)
		msg := request("look")
		got, err := srv.ServeMessage(ctx, conn, []byte(msg), nil)
		if want := `{"jsonrpc":"2.0","result":"a session","id":1}`; string(got) != want || err != nil {
			t.Errorf("the reply is %s, %v", got, err)
		}
		if err := ended(t, s); err != io.EOF || closedWith != io.EOF {
			t.Errorf("the session ended with %v, and OnClose got %v", err, closedWith)
		}
		stats := s.Stats()
		if stats.MessagesReceived != 1 || stats.MessagesSent != 1 || stats.BytesReceived != uint64(len(msg)) || stats.BytesSent != uint64(len(got)) {
			t.Errorf("the session has counted %+v", stats)
		}
		idleServer(t, srv)
	})
}

// srvSessions is a result that needs the session of the request.
func srvSessions(req *rpcx.Request) string {
	if req.Session() == nil {
		return "no session"
	}
	return "a session"
}

// A server has its hooks called for an exchange as for any session.
func TestServeMessageHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		var mu sync.Mutex
		event := func(text string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, text)
		}
		srv := serving(methods{"f": func(ctx context.Context, req *rpcx.Request) (any, error) {
			event(fmt.Sprint("handler ", ctx.Value("set")))
			return nil, nil
		}})
		srv.Options.Trace = &rpcx.Trace{
			Connected:       func(*rpcx.Session) { event("connected") },
			RequestReceived: func(*rpcx.Request) { event("received") },
			ReplySent:       func(*rpcx.Request, error, time.Duration) { event("sent") },
			Closed:          func(_ *rpcx.Session, err error) { event(fmt.Sprint("closed ", err)) },
		}
		srv.OnSession = func(s *rpcx.Session) {
			if err := s.Call(t.Context(), "m", nil, nil); err != rpcx.ErrNoCallback {
				t.Errorf("a call in OnSession: %v", err)
			}
			s.SetValue("set", "by OnSession")
			event("OnSession")
		}
		exchanging(t, srv, request("f"), `{"jsonrpc":"2.0","result":null,"id":1}`)
		synctest.Wait()
		want := []string{"connected", "OnSession", "received", "handler by OnSession", "sent", "closed EOF"}
		if diff := cmp.Diff(want, events); diff != "" {
			t.Errorf("wrong events (-want +got):\n%s", diff)
		}
		idleServer(t, srv)
	})
}

// If OnSession hangs, the request times out as on a connection, and was not started.
func TestServeMessageWithSlowOnSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		srv := serving(g)
		srv.OnSession = func(*rpcx.Session) { <-g }
		takes(t, 30*time.Second, func() {
			reply, err := srv.ServeMessage(t.Context(), nil, []byte(request("f")), nil)
			e, ok := errors.AsType[*rpcx.Error](err)
			if !ok || !e.NotStarted() || !strings.Contains(string(reply), `"started":false`) {
				t.Errorf("the reply is %s, %v", reply, err)
			}
		})
		close(g)
		idleServer(t, srv)
	})
}

// What handlers send to their peer.
func TestServeMessageNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken pipe")
		var sent []string
		var running atomic.Int32
		notify := func(msg []byte) error {
			if running.Add(1) != 1 {
				t.Error("two calls of notify at once")
			}
			defer running.Add(-1)
			time.Sleep(time.Second)
			if strings.Contains(string(msg), "broken") {
				return broken
			}
			sent = append(sent, string(msg))
			return nil
		}
		noCallback := func(s *rpcx.Session, ctx context.Context) {
			t.Helper()
			var b rpcx.Batch
			member := b.Call("m", nil, nil)
			f := s.Go(ctx, "m", nil)
			if !isDone(f) {
				t.Error("the future of Go is not done")
			}
			for i, err := range []error{s.Call(ctx, "m", nil, nil), f.Err(), s.SendBatch(ctx, &b), member.Err()} {
				if err != rpcx.ErrNoCallback {
					t.Errorf("call %d: %v", i, err)
				}
			}
		}
		srv := serving(methods{
			"many": func(ctx context.Context, req *rpcx.Request) (any, error) {
				s := req.Session()
				noCallback(s, ctx)
				for i := range 3 {
					if err := s.Notify(ctx, "n", rpcx.Args{i}); err != nil {
						t.Error(err)
					}
				}
				if err := s.Notify(ctx, "broken", nil); err != broken {
					t.Errorf("the error of Notify is %v", err)
				}
				var b rpcx.Batch
				b.Notify("a", nil)
				b.Notify("b", nil)
				return nil, s.SendBatch(ctx, &b)
			},
			"none": func(ctx context.Context, req *rpcx.Request) (any, error) {
				noCallback(req.Session(), ctx)
				return nil, req.Session().Notify(ctx, "n", nil)
			},
			"one": func(ctx context.Context, req *rpcx.Request) (any, error) {
				return nil, req.Session().Notify(ctx, "one", nil)
			},
		})
		reply, err := srv.ServeMessage(t.Context(), nil, []byte(request("many")), notify)
		if string(reply) != `{"jsonrpc":"2.0","result":null,"id":1}` || err != nil {
			t.Errorf("the reply is %s, %v", reply, err)
		}
		want := []string{
			`{"jsonrpc":"2.0","method":"n","params":[0]}`, `{"jsonrpc":"2.0","method":"n","params":[1]}`, `{"jsonrpc":"2.0","method":"n","params":[2]}`,
			`[{"jsonrpc":"2.0","method":"a"}, {"jsonrpc":"2.0","method":"b"}]`,
		}
		if diff := cmp.Diff(want, sent); diff != "" {
			t.Errorf("wrong notifications (-want +got):\n%s", diff)
		}
		exchanging(t, srv, request("none"), `{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)

		sent = nil
		batch := "[" + request("one") + "," + request("one") + "," + request("one") + "]"
		takes(t, 3*time.Second, func() {
			if _, err := srv.ServeMessage(t.Context(), nil, []byte(batch), notify); err != nil || len(sent) != 3 {
				t.Errorf("%d were sent: %v", len(sent), err)
			}
		})
		idleServer(t, srv)
	})
}

// A notification waits neither for its turn nor for ever: its context, or the end of the
// exchange, ends the wait. ServeMessage returns after the last call of notify.
func TestServeMessageNotifyEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *rpcx.Session
		var late, impatient error
		srv := serving(methods{"f": func(_ context.Context, req *rpcx.Request) (any, error) {
			s = req.Session()
			go func() { t.Log(s.Notify(context.Background(), "slow", nil)) }()
			synctest.Wait()
			go func() { late = s.Notify(context.Background(), "late", nil) }()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			impatient = s.Notify(ctx, "impatient", nil)
			return nil, nil
		}})
		calls := 0
		takes(t, 10*time.Second, func() {
			srv.ServeMessage(t.Context(), nil, []byte(request("f")), func([]byte) error {
				calls++
				time.Sleep(10 * time.Second)
				return nil
			})
		})
		synctest.Wait()
		matches(t, impatient, context.DeadlineExceeded)
		matches(t, late, rpcx.ErrClosed)
		matches(t, s.Notify(t.Context(), "after the end", nil), rpcx.ErrClosed)
		if calls != 1 {
			t.Errorf("notify was called %d times", calls)
		}
	})
}

// A message of notifications has no reply, and ServeMessage returns after their handlers.
func TestServeMessageOfNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled atomic.Int32
		srv := serving(methods{"n": func(context.Context, *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			handled.Add(1)
			return nil, nil
		}})
		const n = `{"jsonrpc":"2.0","method":"n"}`
		takes(t, time.Second, func() { exchanging(t, srv, "["+n+","+n+"]", "") })
		takes(t, time.Second, func() { exchanging(t, srv, n, "") })
		if handled.Load() != 3 {
			t.Errorf("%d were handled", handled.Load())
		}
	})
}

// The members of a batch run at once, as far as Limits.Concurrency and Options.Order allow.
func TestServeMessageConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		batch := "[" + strings.TrimSuffix(strings.Repeat(request("f")+",", 12), ",") + "]"
		for _, test := range []struct {
			limit, want int
			order       rpcx.Order
		}{{4, 4, rpcx.Concurrent}, {20, 12, rpcx.Concurrent}, {4, 1, rpcx.Sequential}} {
			var running, most atomic.Int32
			srv := serving(methods{"f": func(context.Context, *rpcx.Request) (any, error) {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(time.Second)
				running.Add(-1)
				return nil, nil
			}})
			srv.Options.Limits.Concurrency, srv.Options.Order = test.limit, test.order
			takes(t, time.Duration(12/test.want)*time.Second, func() {
				reply, err := srv.ServeMessage(t.Context(), nil, []byte(batch), nil)
				if n := strings.Count(string(reply), "result"); n != 12 || err != nil {
					t.Errorf("%d results, %v", n, err)
				}
			})
			if int(most.Load()) != test.want {
				t.Errorf("%+v: %d handlers ran at once", test, most.Load())
			}
			idleServer(t, srv)
		}
	})
}

const timedOutReply = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out","data":{"started":true,"reason":"timeout"}},"id":1}`

// At ProcessingTimeout the context of the handler ends, and the reply says that it was
// started. A handler that goes on delays the return; further exchanges return in time.
func TestServeMessageDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		srv := serving(methods{
			"hang": hang, "stuck": g.ServeRPC,
			"deadline": func(ctx context.Context, _ *rpcx.Request) (any, error) {
				at, ok := ctx.Deadline()
				return time.Until(at).Seconds(), nilUnless(!ok, errors.New("no deadline"))
			},
		})
		takes(t, 30*time.Second, func() { exchanging(t, srv, request("hang"), timedOutReply) })
		exchanging(t, srv, request("deadline"), `{"jsonrpc":"2.0","result":30,"id":1}`)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if reply, _ := srv.ServeMessage(ctx, nil, []byte(request("deadline")), nil); !strings.Contains(string(reply), `"result":20,`) {
			t.Errorf("the deadline of the caller: %s", reply)
		}
		idleServer(t, srv)

		var first sync.WaitGroup
		first.Go(func() {
			takes(t, 60*time.Second, func() { exchanging(t, srv, request("stuck"), timedOutReply) })
		})
		time.Sleep(30 * time.Second)
		synctest.Wait()
		takes(t, 30*time.Second, func() { exchanging(t, srv, request("stuck"), timedOutReply) })
		if n := srv.Stats().Sessions; n != 2 {
			t.Errorf("the server has %d sessions", n)
		}
		close(g)
		first.Wait()
		idleServer(t, srv)
		if reply, err := srv.ServeMessage(t.Context(), nil, []byte(request("stuck")), nil); err != nil || !strings.Contains(string(reply), "through") {
			t.Errorf("the reply is %s, %v", reply, err)
		}
	})
}

func nilUnless(failed bool, err error) error {
	if failed {
		return err
	}
	return nil
}

// In a batch, the members that have finished keep their results.
func TestServeMessageDeadlineInBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{"hang": hang, "echo": reply})
		takes(t, 30*time.Second, func() {
			exchanging(t, srv, "["+request("hang")+","+request("echo", "5")+"]", "["+timedOutReply+`, {"jsonrpc":"2.0","result":5,"id":1}]`)
		})
		idleServer(t, srv)
	})
}

// The end of the caller's context ends the handlers' contexts, with its cause.
func TestServeMessageCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("the client is gone")
		var log logged
		begun, causes := 0, []error(nil)
		var mu sync.Mutex
		srv := serving(methods{"f": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			mu.Lock()
			begun++
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			causes = append(causes, context.Cause(ctx))
			return nil, context.Cause(ctx)
		}})
		srv.Options.Logger = log.logger()
		srv.Options.Limits.Concurrency = 2
		for _, msg := range []string{request("f"), "[" + request("f") + "," + request("f") + "," + request("f") + "]"} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(gone) })
			takes(t, time.Second, func() {
				reply, err := srv.ServeMessage(ctx, nil, []byte(msg), nil)
				if reply != nil || err != gone {
					t.Errorf("%s is answered %s, %v", msg, reply, err)
				}
			})
			idleServer(t, srv)
		}
		if begun != 3 || len(causes) != 3 || causes[0] != gone || causes[2] != gone {
			t.Errorf("%d handlers began, with the causes %v", begun, causes)
		}
		if text := log.take(); text != "" {
			t.Errorf("the log has %s", text)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		if _, err := srv.ServeMessage(ctx, nil, []byte(request("f")), nil); err != gone || begun != 3 {
			t.Errorf("with an ended context: %v, and %d handlers", err, begun)
		}
	})
}

// With handlers on other goroutines, too, the end of the context ends the exchange, without
// a wait for the handlers.
func TestServeMessageCancelledBesideOnSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		srv := serving(g)
		srv.OnSession = func(*rpcx.Session) {}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		takes(t, time.Second, func() {
			reply, err := srv.ServeMessage(ctx, nil, []byte(request("f")), nil)
			if reply != nil || err != context.DeadlineExceeded {
				t.Errorf("the reply is %s, %v", reply, err)
			}
		})
		if n := srv.Stats().Sessions; n != 1 {
			t.Errorf("the server has %d sessions", n)
		}
		close(g)
		idleServer(t, srv)
	})
}

// refusesMessages says that the server refuses a request as not started.
func refusesMessages(t *testing.T, srv *rpcx.Server, conn any, reason string, targets ...error) {
	t.Helper()
	for _, msg := range []string{request("f"), "[" + request("f") + "]", `{"jsonrpc":"2.0","method":"f"}`} {
		reply, err := srv.ServeMessage(t.Context(), conn, []byte(msg), nil)
		e, ok := errors.AsType[*rpcx.Error](err)
		if !ok || !e.NotStarted() {
			t.Errorf("%s: the error is %v", msg, err)
		}
		matches(t, err, targets...)
		answered := strings.Contains(string(reply), `"data":{"started":false,"reason":"`+reason+`"}`)
		if notification := !strings.Contains(msg, "id"); answered == notification {
			t.Errorf("%s is answered %s", msg, reply)
		}
	}
}

// An exchange counts as a session while it runs.
func TestServeMessageSessionLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		srv := serving(methods{"stuck": g.ServeRPC, "f": func(context.Context, *rpcx.Request) (any, error) { return nil, nil }})
		srv.MaxSessions, srv.MaxGroup = 3, 2
		srv.Options.Limits.Group = func(*rpcx.Session) string { return "" } // then the conn is asked
		var stuck sync.WaitGroup
		begin := func(conn *aConn) {
			stuck.Go(func() { srv.ServeMessage(t.Context(), conn, []byte(request("stuck")), nil) })
			synctest.Wait()
		}
		one, two := &aConn{group: "one"}, &aConn{group: "two"}
		for range 5 { // none is left behind
			if _, err := srv.ServeMessage(t.Context(), one, []byte(request("f")), nil); err != nil {
				t.Fatal(err)
			}
		}
		begin(one)
		begin(one)
		refusesMessages(t, srv, one, "sessions", rpcx.ErrServerFull, rpcx.ErrServerBusy)
		begin(two)
		refusesMessages(t, srv, two, "sessions", rpcx.ErrServerFull)
		want := map[string]uint64{"Server.MaxGroup": 3, "Server.MaxSessions": 3}
		if diff := cmp.Diff(want, srv.Stats().Refused); diff != "" {
			t.Errorf("wrong refusals (-want +got):\n%s", diff)
		}
		close(g)
		stuck.Wait()
		idleServer(t, srv)
		if _, err := srv.ServeMessage(t.Context(), two, []byte(request("f")), nil); err != nil {
			t.Error(err)
		}
	})
}

// A server that was stopped refuses messages; Shutdown and Wait wait for the exchanges that
// run, and Close ends their contexts.
func TestServeMessageShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := methods{"f": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(5 * time.Second):
				return "done", nil
			}
		}}
		srv := serving(slow)
		var exchange sync.WaitGroup
		exchange.Go(func() { exchanging(t, srv, request("f"), `{"jsonrpc":"2.0","result":"done","id":1}`) })
		synctest.Wait()
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if !srv.Accepts() && srv.Stats().Sessions != 0 {
			t.Error("Shutdown has not waited")
		}
		exchange.Wait()
		refusesMessages(t, srv, nil, "shutting down", rpcx.ErrServerClosed, net.ErrClosed)
		if err := srv.Wait(t.Context()); err != nil {
			t.Error(err)
		}

		srv = serving(slow)
		exchange.Go(func() {
			takes(t, time.Second, func() {
				if reply, err := srv.ServeMessage(t.Context(), nil, []byte(request("f")), nil); reply != nil || err != rpcx.ErrClosed {
					t.Errorf("after Close: %s, %v", reply, err)
				}
			})
		})
		time.Sleep(time.Second)
		srv.Close()
		if err := srv.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		exchange.Wait()
		idleServer(t, srv)

		// A batch with members that have not begun: they are refused, the others finish.
		srv = serving(slow)
		srv.Options.Limits.Concurrency = 1
		exchange.Go(func() {
			reply, err := srv.ServeMessage(t.Context(), nil, []byte("["+request("f")+","+request("f")+"]"), nil)
			want := `[{"jsonrpc":"2.0","result":"done","id":1}, {"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - shutting down","data":{"started":false,"reason":"shutting down"}},"id":1}]`
			if string(reply) != want || err != nil {
				t.Errorf("the reply is %s, %v", reply, err)
			}
		})
		synctest.Wait()
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		exchange.Wait()
	})
}

// A handler may end its exchange, and nothing else ends.
func TestServeMessageClosedByHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{
			"close": func(_ context.Context, req *rpcx.Request) (any, error) { return "late", req.Session().Close() },
			"bye":   func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
			"exit":  func(context.Context, *rpcx.Request) (any, error) { runtime.Goexit(); return nil, nil },
		})
		if reply, err := srv.ServeMessage(t.Context(), nil, []byte(request("close")), nil); reply != nil || err != rpcx.ErrClosed {
			t.Errorf("the reply is %s, %v", reply, err)
		}
		idleServer(t, srv)
		exchanging(t, srv, request("bye"), `{"jsonrpc":"2.0","result":"bye","id":1}`)
		idleServer(t, srv)
		go srv.ServeMessage(t.Context(), nil, []byte(request("exit")), func([]byte) error { return nil })
		synctest.Wait()
		idleServer(t, srv)
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The cost of a group stays after its exchanges: at CostHard, its messages are refused, and
// the caller is told when to come again.
func TestServeMessageCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{"f": func(_ context.Context, req *rpcx.Request) (any, error) {
			req.Session().BumpCost(600)
			return nil, nil
		}})
		srv.Options.Limits = rpcx.Limits{CostSoft: 500, CostHard: 1000, CostDecay: 1, CostDelay: time.Second}
		ended := 0
		srv.Options.OnExcessiveCost = func(*rpcx.Session) { ended++ }
		a, b := &aConn{group: "a"}, &aConn{group: "b"}
		serve := func(conn any) (string, error) {
			reply, err := srv.ServeMessage(t.Context(), conn, []byte(request("f")), nil)
			synctest.Wait()
			return string(reply), err
		}
		const ok = `{"jsonrpc":"2.0","result":null,"id":1}`
		if reply, err := serve(a); reply != ok || err != nil {
			t.Fatal(reply, err)
		}
		start := time.Now()
		if reply, err := serve(a); reply != ok || err != nil {
			t.Fatal(reply, err)
		}
		if took := time.Since(start).Round(time.Millisecond); took != 200*time.Millisecond { // over CostSoft by a fifth
			t.Errorf("the delay is %v", took)
		}
		reply, err := serve(a)
		e, excessive := errors.AsType[*rpcx.CostError](err)
		if !strings.Contains(reply, `"code":-101`) || !excessive || e.RetryAfter < 600 || e.RetryAfter > 1000 {
			t.Errorf("the reply is %s, %+v", reply, err)
		}
		matches(t, err, rpcx.ErrExcessiveResourceUsage)
		if ended != 1 {
			t.Errorf("OnExcessiveCost was called %d times", ended)
		}
		for _, conn := range []any{b, nil, nil, nil} { // another group, and none
			if reply, err := serve(conn); reply != ok || err != nil {
				t.Errorf("the reply is %s, %v", reply, err)
			}
		}
		time.Sleep(time.Duration(e.RetryAfter) * time.Second)
		if reply, err := serve(a); reply != ok || err != nil {
			t.Errorf("after RetryAfter: %s, %v", reply, err)
		}
		idleServer(t, srv)
	})
}

// The group of an exchange is that of Limits.Group, so that it shares the budget of the same
// client's other sessions, and otherwise that of its conn.
func TestServeMessageGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{"f": func(_ context.Context, req *rpcx.Request) (any, error) {
			req.Session().BumpCost(100)
			return req.Session().Cost() >= 200, nil
		}})
		srv.Options.Limits.Group = rpcx.GroupBySubnet(24, 64)
		at := func(addr, group string) *aConn {
			return &aConn{addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1)), group: group}
		}
		for _, c := range []struct {
			conn   *aConn
			shared bool
		}{
			{at("192.0.2.1", "a"), false},
			{at("192.0.2.2", "b"), true},
			{at("127.0.0.1", "a"), false},
			{at("127.0.0.1", "a"), true},
			{at("127.0.0.1", "b"), false},
			{at("198.51.100.1", "b"), false},
		} {
			reply, err := srv.ServeMessage(t.Context(), c.conn, []byte(request("f")), nil)
			if want := fmt.Sprintf(`{"jsonrpc":"2.0","result":%t,"id":1}`, c.shared); string(reply) != want || err != nil {
				t.Errorf("%v of group %q: the reply is %s, %v; want %s", c.conn.addr, c.conn.group, reply, err, want)
			}
		}
	})
}

// A handler that returns ErrExcessiveCost makes the caller see a CostError.
func TestServeMessageExcessiveCostByHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{"f": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ErrExcessiveCost }})
		reply, err := srv.ServeMessage(t.Context(), nil, []byte(request("f")), nil)
		if _, ok := errors.AsType[*rpcx.CostError](err); !ok || !strings.Contains(string(reply), `"code":-101`) {
			t.Errorf("the reply is %s, %v", reply, err)
		}
		idleServer(t, srv)
	})
}

// The connection's largest message bounds the reply, and Server.MaxQueuedBytes the message.
func TestServeMessageSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{"f": func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", 200), nil }})
		srv.MaxQueuedBytes = 1000
		reply, err := srv.ServeMessage(t.Context(), &aConn{max: 150}, []byte(request("f")), nil)
		if !strings.Contains(string(reply), "response too large (over 150 bytes)") || err != nil {
			t.Errorf("the reply is %s, %v", reply, err)
		}
		reply, err = srv.ServeMessage(t.Context(), nil, []byte(request("f", `"`+strings.Repeat("y", 2000)+`"`)), nil)
		if e, ok := errors.AsType[*rpcx.Error](err); !ok || !e.NotStarted() || !strings.Contains(string(reply), "Server.MaxQueuedBytes") {
			t.Errorf("the reply is %s, %v", reply, err)
		}
		idleServer(t, srv)
	})
}

// Server.MaxHandledBytes counts exchanges: beyond it, they wait for each other.
func TestServeMessageHandledBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		srv := serving(methods{"f": func(context.Context, *rpcx.Request) (any, error) {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(time.Second)
			running.Add(-1)
			return nil, nil
		}})
		srv.MaxHandledBytes = 5000
		msg := []byte(request("f", `"`+strings.Repeat("y", 2000)+`"`))
		var exchanges sync.WaitGroup
		for range 10 {
			exchanges.Go(func() {
				if reply, err := srv.ServeMessage(t.Context(), nil, msg, nil); reply == nil || err != nil {
					t.Errorf("the reply is %s, %v", reply, err)
				}
			})
		}
		takes(t, 5*time.Second, exchanges.Wait)
		if most.Load() != 2 {
			t.Errorf("%d handlers ran at once", most.Load())
		}
		idleServer(t, srv)
	})
}

// A message that the protocol cannot answer is an error.
func TestServeMessageWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{})
		srv.Options.Protocol = rpcx.Aiomas
		reply, err := srv.ServeMessage(t.Context(), nil, []byte("nonsense"), nil)
		if _, ok := errors.AsType[*rpcx.ProtocolError](err); !ok || reply != nil {
			t.Errorf("the reply is %s, %v", reply, err)
		}
		idleServer(t, srv)
	})
}

// A panic of notify is that of the handler, and the next notification has its turn.
func TestServeMessageNotifyPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{"f": func(ctx context.Context, req *rpcx.Request) (any, error) {
			return nil, req.Session().Notify(ctx, "n", nil)
		}})
		calls := 0
		reply, err := srv.ServeMessage(t.Context(), nil, []byte("["+request("f")+","+request("f")+"]"), func([]byte) error {
			if calls++; calls == 1 {
				panic("broken")
			}
			return nil
		})
		if text := string(reply); !strings.Contains(text, "-32603") || !strings.Contains(text, "null") || err != nil {
			t.Errorf("the reply is %s, %v", reply, err)
		}
		idleServer(t, srv)
	})
}

// Invalid options are an error, and no panic in the goroutine of a request.
func TestServeMessageInvalidOptions(t *testing.T) {
	srv := &rpcx.Server{MaxGroup: 1}
	if _, err := srv.ServeMessage(t.Context(), nil, []byte(request("f")), nil); err == nil || !strings.Contains(err.Error(), "Limits.Group") {
		t.Errorf("the error is %v", err)
	}
}

// ServeMessage keeps nothing of the message.
func TestServeMessageLeavesTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var params string
		srv := serving(methods{"f": func(_ context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			params = string(req.Params.Positional)
			return nil, nil
		}})
		srv.OnSession = func(*rpcx.Session) {}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		msg := []byte(request("f", `"kept"`))
		srv.ServeMessage(ctx, nil, msg, nil)
		clear(msg)
		time.Sleep(time.Second)
		synctest.Wait()
		if params != `["kept"]` {
			t.Errorf("the params are %q", params)
		}
	})
}

// With objects, references to services go out as on a connection, and a proxy to the peer
// cannot be called.
func TestServeMessageObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := rpcx.NewRouter()
		root.Handle("call", rpcx.Func(func(ctx context.Context, p *rpcx.Proxy) error {
			if err := p.Call(ctx, nil, "m"); err != rpcx.ErrNoCallback {
				t.Errorf("a call of the peer: %v", err)
			}
			return nil
		}))
		srv := serving(root)
		srv.Options.Objects = true
		exchanging(t, srv, request("call", `{"__type__":[0,"a"]}`), `{"jsonrpc":"2.0","result":null,"id":1}`)
	})
}

// Many goroutines use one server, and every exchange has the answer to its own message.
func TestServeMessageStress(t *testing.T) {
	srv := serving(methods{"echo": reply, "say": func(ctx context.Context, req *rpcx.Request) (any, error) {
		req.Session().Notify(ctx, "said", nil)
		return reply(ctx, req)
	}})
	srv.Options.Limits.Group = func(*rpcx.Session) string { return "all" }
	srv.Options.Limits.CostOff = true
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for j := range 50 {
				ctx, cancel := context.WithCancel(t.Context())
				n := fmt.Sprint(1000*i + j)
				msg, want := request("echo", n), `{"jsonrpc":"2.0","result":`+n+`,"id":1}`
				switch j % 4 {
				case 1:
					msg = "[" + msg + "," + request("say", n) + "," + msg + "]"
					want = "[" + want + ", " + want + ", " + want + "]"
				case 2:
					go cancel()
				}
				said := 0
				reply, err := srv.ServeMessage(ctx, nil, []byte(msg), func([]byte) error { said++; return nil })
				cancel()
				if cancelled := j%4 == 2 && errors.Is(err, context.Canceled); !cancelled && (string(reply) != want || err != nil || said > 1) {
					t.Errorf("%s is answered %s, %v", msg, reply, err)
				}
			}
		})
	}
	all.Wait()
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if n := srv.Stats().Sessions; n != 0 {
		t.Errorf("the server has %d sessions", n)
	}
}

// Shutdown and Close may come at any point of an exchange.
func TestServeMessageStopStress(t *testing.T) {
	for i := range 200 {
		srv := serving(methods{"echo": func(ctx context.Context, req *rpcx.Request) (any, error) {
			runtime.Gosched()
			return reply(ctx, req)
		}})
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					reply, err := srv.ServeMessage(t.Context(), nil, []byte(request("echo", "1")), nil)
					if err == nil && string(reply) != `{"jsonrpc":"2.0","result":1,"id":1}` {
						t.Errorf("the reply is %s", reply)
					}
					if err != nil {
						if !errors.Is(err, rpcx.ErrServerClosed) && !errors.Is(err, rpcx.ErrClosed) {
							t.Errorf("the error is %v", err)
						}
						return
					}
				}
			})
		}
		runtime.Gosched()
		if i%2 == 0 {
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		} else {
			srv.Close()
			if err := srv.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		all.Wait()
	}
}

// An exchange makes few allocations: for the exchange, the session, the request, the reply.
func TestServeMessageAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	srv := serving(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		return json.RawMessage(req.Params.Positional), nil
	}))
	msg := []byte(request("f"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := testing.AllocsPerRun(200, func() {
		if _, err := srv.ServeMessage(ctx, nil, msg, nil); err != nil {
			t.Error(err)
		}
	})
	if got > 7 {
		t.Errorf("%v allocations", got)
	}
}

// callersKey is the key of a value in the context of a caller.
type callersKey struct{}

// admittedConn is the conn of an exchange that needs no login, or of one that does.
type admittedConn bool

func (c admittedConn) Admitted() bool { return bool(c) }

// A server with a gate lets in an exchange by its conn, or by a login in the same message.
func TestServeMessageThroughAGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := serving(methods{"work": func(context.Context, *rpcx.Request) (any, error) { return "done", nil }})
		srv.Options.Gate = methods{"login": func(_ context.Context, req *rpcx.Request) (any, error) {
			req.Session().Admit()
			return "in", nil
		}}
		const refused = `{"jsonrpc":"2.0","error":{"code":-32601,"message":"unknown method \"work\""},"id":1}`
		const done = `{"jsonrpc":"2.0","result":"done","id":1}`
		const in = `{"jsonrpc":"2.0","result":"in","id":1}`
		for _, c := range []struct {
			conn      any
			msg, want string
		}{
			{nil, request("work"), refused},
			{admittedConn(false), request("work"), refused},
			{admittedConn(true), request("work"), done},
			{nil, request("login"), in},
			{nil, request("work"), refused}, // the login was that of another exchange
			{nil, "[" + request("login") + "," + request("work") + "]", "[" + in + ", " + done + "]"},
			{nil, "[" + request("work") + "," + request("login") + "]", "[" + refused + ", " + in + "]"},
		} {
			reply, err := srv.ServeMessage(t.Context(), c.conn, []byte(c.msg), nil)
			if string(reply) != c.want || err != nil {
				t.Errorf("with the conn %v %s is answered\n%s, %v; want\n%s", c.conn, c.msg, reply, err, c.want)
			}
		}
		idleServer(t, srv)
	})
}

const sumRequest = `{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":1}`

func newSumServer() *rpcx.Server {
	r := rpcx.NewRouter()
	r.Handle("sum", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		return json.RawMessage(req.Params.Positional), nil
	}))
	return &rpcx.Server{Options: rpcx.Options{Handler: r}}
}

// BenchmarkServeMessage measures an exchange without HTTP.
func BenchmarkServeMessage(b *testing.B) {
	srv, msg := newSumServer(), []byte(sumRequest)
	b.ReportAllocs()
	for b.Loop() {
		if reply, err := srv.ServeMessage(context.Background(), nil, msg, nil); reply == nil || err != nil {
			b.Fatal(string(reply), err)
		}
	}
}

// BenchmarkServeMessageHTTP measures requests over loopback HTTP, one at a time. The three
// handlers take turns, so that other work on the machine concerns all alike. The metrics
// are medians: of a handler that echoes the request, of ServeMessage, and of a whole
// session for each request.
func BenchmarkServeMessageHTTP(b *testing.B) {
	handlers := []struct {
		name  string
		serve func(ctx context.Context, w io.Writer, body []byte)
	}{
		{"echo", func(_ context.Context, w io.Writer, body []byte) { w.Write(body) }},
		{"message", func() func(context.Context, io.Writer, []byte) {
			srv := newSumServer()
			return func(ctx context.Context, w io.Writer, body []byte) {
				reply, err := srv.ServeMessage(ctx, nil, body, nil)
				if err != nil {
					panic(err)
				}
				w.Write(reply)
			}
		}()},
		{"session", func() func(context.Context, io.Writer, []byte) {
			srv := newSumServer()
			return func(ctx context.Context, w io.Writer, body []byte) {
				conn := &oneMessage{msg: body, w: w, closed: make(chan struct{}), written: make(chan struct{})}
				<-srv.ServeMessageConn(conn).Done()
			}
		}()},
	}
	type target struct {
		url   string
		times []time.Duration
	}
	targets := make([]target, len(handlers))
	for i, h := range handlers {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			h.serve(r.Context(), w, body)
		}))
		defer srv.Close()
		targets[i].url = srv.URL
	}
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	for b.Loop() {
		for i := range targets {
			t := &targets[i]
			start := time.Now()
			resp, err := client.Post(t.url, "application/json", strings.NewReader(sumRequest))
			if err != nil {
				b.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			t.times = append(t.times, time.Since(start))
			if resp.StatusCode != 200 || len(body) == 0 {
				b.Fatal(resp.Status, string(body))
			}
		}
	}
	for i, t := range targets {
		slices.Sort(t.times)
		b.ReportMetric(float64(t.times[len(t.times)/2])/1e3, handlers[i].name+"-µs")
	}
}

// oneMessage is a connection that brings one message and takes one reply.
type oneMessage struct {
	msg     []byte
	w       io.Writer
	read    bool
	written chan struct{}
	closed  chan struct{}
}

func (c *oneMessage) ReadMessage() ([]byte, error) {
	if !c.read {
		c.read = true
		return c.msg, nil
	}
	select {
	case <-c.written:
	case <-c.closed:
	}
	return nil, io.EOF
}

func (c *oneMessage) WriteMessages(msgs [][]byte) error {
	_, err := c.w.Write(bytes.Join(msgs, nil))
	close(c.written)
	return err
}

func (c *oneMessage) Close() error {
	close(c.closed)
	return nil
}
