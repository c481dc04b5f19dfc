package rpcx_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// payloadSizes are sizes on both sides of each limit on the way of a payload.
var payloadSizes = []int{1, 100, 2040, 2046, 2047, 3000, 8100, 8192, 8300, 20_000, 65_500, 65_536, 100_000, 300_000}

// payload returns a JSON string of n bytes that differs from the payload of any other i.
func payload(i, n int) string {
	text := strings.Repeat(fmt.Sprintf("%d,", i), n/2+1)[:max(n-2, 0)]
	return `"` + text + `"`
}

// eachConnection runs test with a client and a server for each kind of connection.
func eachConnection(t *testing.T, server *rpcx.Options, test func(t *testing.T, s *rpcx.Session)) {
	t.Run("a socket", func(t *testing.T) { test(t, dialServer(t, server)) })
	t.Run("a pipe", func(t *testing.T) {
		s, _ := newPipe(t, nil, server)
		test(t, s)
	})
	t.Run("a message connection", func(t *testing.T) {
		s, other := socketed(nil, server)
		defer func() {
			s.Close()
			other.Close()
			<-s.Done()
			<-other.Done()
		}()
		test(t, s)
	})
}

// dialServer returns a client of a server with the given options.
func dialServer(t *testing.T, opts *rpcx.Options) *rpcx.Session {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &rpcx.Server{Options: *opts}
	go server.Serve(l)
	s, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), &rpcx.Options{Limits: rpcx.Limits{Outgoing: -1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		server.Close()
		server.Wait(context.Background())
		<-s.Done()
	})
	return s
}

// unlimited returns options that let large payloads pass at any rate.
func unlimited(h rpcx.Handler) *rpcx.Options {
	return &rpcx.Options{Handler: h, Limits: rpcx.Limits{CostOff: true}}
}

// A handler may keep the params and the id of a request. Later requests leave both unchanged.
func TestHandlerMayKeepItsRequest(t *testing.T) {
	var mu sync.Mutex
	var kept []*rpcx.Request
	var copies []string
	handler := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		kept, copies = append(kept, req), append(copies, string(req.ID)+string(req.Params.Positional))
		return req.Params.Positional, nil
	})
	eachConnection(t, unlimited(handler), func(t *testing.T, s *rpcx.Session) {
		kept, copies = nil, nil
		for i := range 5 {
			for _, n := range payloadSizes {
				if err := s.Call(t.Context(), "m", rpcx.Args{json.RawMessage(payload(i, n))}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, req := range kept {
			if got := string(req.ID) + string(req.Params.Positional); got != copies[i] {
				t.Errorf("request %d has changed to %.60s, and was %.60s", i, got, copies[i])
			}
		}
	})
}

// A caller may keep a result. Later replies leave the result unchanged.
func TestCallerMayKeepItsResult(t *testing.T) {
	eachConnection(t, unlimited(rpcx.HandlerFunc(reply)), func(t *testing.T, s *rpcx.Session) {
		var raws []json.RawMessage
		var anys []any
		var want []string
		for i := range 5 {
			for _, n := range payloadSizes {
				text := payload(i, n)
				var raw json.RawMessage
				var x any
				if err := s.Call(t.Context(), "m", rpcx.Args{json.RawMessage(text)}, &raw); err != nil {
					t.Fatal(err)
				}
				if err := s.Call(t.Context(), "m", rpcx.Args{json.RawMessage(text)}, &x); err != nil {
					t.Fatal(err)
				}
				raws, anys, want = append(raws, raw), append(anys, x), append(want, text)
			}
		}
		for i, raw := range raws {
			if string(raw) != want[i] || `"`+anys[i].(string)+`"` != want[i] {
				t.Errorf("result %d has changed to %.60s and %.60s, and was %.60s", i, raw, anys[i], want[i])
			}
		}
	})
}

// A future, and a member of a batch, can be decoded at any time, any number of times.
func TestFutureKeepsItsResult(t *testing.T) {
	eachConnection(t, unlimited(rpcx.HandlerFunc(reply)), func(t *testing.T, s *rpcx.Session) {
		var futures []*rpcx.Future
		var want []string
		for i, n := range payloadSizes {
			text := payload(i, n)
			futures, want = append(futures, s.Go(t.Context(), "m", rpcx.Args{json.RawMessage(text)})), append(want, text)
			var b rpcx.Batch
			member := b.Call("m", rpcx.Args{json.RawMessage(text)}, nil)
			if err := s.SendBatch(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			futures, want = append(futures, member), append(want, text)
		}
		for range 2 {
			for i, f := range futures {
				var raw json.RawMessage
				if err := f.Wait(t.Context(), &raw); err != nil || string(raw) != want[i] {
					t.Errorf("future %d has %.60s, %v, want %.60s", i, raw, err, want[i])
				}
				var other json.RawMessage
				if err := s.Call(t.Context(), "m", rpcx.Args{json.RawMessage(payload(7, len(want[i])))}, &other); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// Replies that arrive together, whole or in part, go to their calls, and stay there.
func TestLargeRepliesThatArriveTogether(t *testing.T) {
	for _, sizes := range [][]int{
		{10, 60_000, 10},
		{60_000, 10, 60_000},
		{5000, 5000, 5000, 5000, 5000, 5000, 5000},
		{100_000, 9000, 20_000, 1},
		{9000, 9000, 2047, 2048, 2049, 40_000},
		{200_000, 200_000, 200_000},
	} {
		for name, connect := range map[string]func(*testing.T) (near, far net.Conn){
			"a pipe":   func(*testing.T) (near, far net.Conn) { return net.Pipe() },
			"a socket": tcpConns,
		} {
			t.Run(fmt.Sprint(name, sizes), func(t *testing.T) {
				near, far := connect(t)
				s := rpcx.NewSession(near, nil)
				defer func() {
					s.Close()
					far.Close()
					<-s.Done()
				}()
				requests := bufio.NewReader(far)
				for round := range 3 {
					callTogether(t, s, requests, far, round, sizes)
				}
			})
		}
	}
}

// callTogether makes a call for each size, by Call and by Go in turn, and answers all calls
// in one write.
func callTogether(t *testing.T, s *rpcx.Session, requests *bufio.Reader, far io.Writer, round int, sizes []int) {
	t.Helper()
	var running sync.WaitGroup
	defer running.Wait()
	results := make([]json.RawMessage, len(sizes))
	for i := range sizes {
		running.Go(func() {
			method := strconv.Itoa(i)
			var err error
			if i%2 == round%2 {
				err = s.Call(t.Context(), method, nil, &results[i])
			} else {
				err = s.Go(t.Context(), method, nil).Wait(t.Context(), &results[i])
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	replies := make([]string, len(sizes))
	for range sizes {
		line, err := requests.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var request struct {
			ID     json.RawMessage
			Method string
		}
		if err := json.Unmarshal([]byte(line), &request); err != nil {
			t.Fatal(err)
		}
		i, _ := strconv.Atoi(request.Method)
		replies[i] = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`+"\n", request.ID, payload(100*round+i, sizes[i]))
	}
	if _, err := io.WriteString(far, strings.Join(replies, "")); err != nil {
		t.Fatal(err)
	}
	running.Wait()
	for i, n := range sizes {
		if want := payload(100*round+i, n); string(results[i]) != want {
			t.Errorf("result %d of round %d is %.60s, want %.60s", i, round, results[i], want)
		}
	}
}

// tcpConns returns the ends of a TCP connection.
func tcpConns(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// A batch may be answered by separate large replies, and by replies that nobody expects.
func TestBatchAnsweredByLargeReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{FirstID: 1})
		var b rpcx.Batch
		one, two := b.Call("one", nil, nil), b.Call("two", nil, nil)
		if err := s.GoBatch(t.Context(), &b).Err(); err != nil {
			t.Fatal(err)
		}
		w.heard()
		w.say(`{"jsonrpc":"2.0","id":2,"result":` + payload(2, 30_000) + `}`)
		w.say(`{"jsonrpc":"2.0","id":77,"result":` + payload(7, 30_000) + `}`)
		w.say(`{"jsonrpc":"2.0","id":1,"result":` + payload(1, 40_000) + `}`)
		for f, want := range map[*rpcx.Future]string{one: payload(1, 40_000), two: payload(2, 30_000)} {
			var got json.RawMessage
			if err := f.Wait(t.Context(), &got); err != nil || string(got) != want {
				t.Errorf("the result is %.60s, %v, want %.60s", got, err, want)
			}
		}
		if n := s.Stats().UnexpectedReplies; n != 1 {
			t.Errorf("%d unexpected replies, want 1", n)
		}
	})
}

// A call that is given up while its large reply is on the way leaves the buffer of the reply
// to others.
func TestCallGivenUpBeforeItsLargeReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{FirstID: 1})
		for i, n := range payloadSizes {
			ctx, cancel := context.WithCancel(t.Context())
			abandoned := make(chan error, 1)
			given := payload(1000, 5)
			go func() { abandoned <- s.Call(ctx, "m", nil, (*json.RawMessage)(nil)) }()
			late := idOf(t, w.heard()[0])
			reply := `{"jsonrpc":"2.0","id":` + late + `,"result":` + payload(i, n) + "}\n"
			io.WriteString(w, reply[:len(reply)/2])
			cancel()
			if err := <-abandoned; err != context.Canceled {
				t.Errorf("the call ends with %v", err)
			}
			io.WriteString(w, reply[len(reply)/2:])

			var got json.RawMessage
			other := make(chan error, 1)
			go func() { other <- s.Call(t.Context(), "m", nil, &got) }()
			w.say(`{"jsonrpc":"2.0","id":` + idOf(t, w.heard()[0]) + `,"result":` + given + `}`)
			if err := <-other; err != nil || string(got) != given {
				t.Errorf("the next call has %.60s, %v", got, err)
			}
		}
		if n := s.Stats().LateReplies; n != uint64(len(payloadSizes)) {
			t.Errorf("%d late replies, want %d", n, len(payloadSizes))
		}
	})
}

// A large echo allocates what the users of both ends may keep, and little more: the params
// and the result.
func TestLargeEchoAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	raw := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		p := req.Params.Positional
		return p[1 : len(p)-1], nil
	})
	typed := rpcx.Func(func(_ context.Context, text string) (string, error) { return text, nil }, "text")
	for _, c := range []struct {
		name    string
		handler rpcx.Handler
		copies  float64 // of the payload
	}{
		{"params and a string", raw, 2},
		{"params and two strings", typed, 3},
	} {
		for _, size := range []int{8 << 10, 64 << 10, 512 << 10} {
			t.Run(fmt.Sprintf("%s of %d bytes", c.name, size), func(t *testing.T) {
				s := dialServer(t, unlimited(c.handler))
				text := strings.Repeat("x", size)
				echo := func() {
					var got string
					if err := s.Call(t.Context(), "m", rpcx.Args{text}, &got); err != nil || got != text {
						t.Fatalf("got %.40q, %v", got, err)
					}
				}
				// The collector empties the pools.
				defer debug.SetGCPercent(debug.SetGCPercent(-1))
				for range 20 {
					echo()
				}
				const runs = 50
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				allocs := testing.AllocsPerRun(runs, echo)
				runtime.ReadMemStats(&after)
				bytes := float64(after.TotalAlloc-before.TotalAlloc) / (runs + 1)
				t.Logf("%v allocations and %.0f bytes", allocs, bytes)
				if allocs > 12 {
					t.Errorf("%v allocations, want at most 12", allocs)
				}
				// Sizes are rounded up, and now and then a pool has no buffer for its processor.
				if most := 1.25*c.copies*float64(size) + 8<<10; bytes > most {
					t.Errorf("%.0f bytes, want at most %.0f", bytes, most)
				}
			})
		}
	}
}
