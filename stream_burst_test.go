package rpcx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// A reply and 100 news in one write: no value is early, lost or out of order.
func TestSubscriptionBurst(t *testing.T) {
	const news = 100
	rounds := 10000
	if testing.Short() {
		rounds = 500
	}
	for _, kind := range []string{"pipe", "TCP"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			near, far := net.Pipe()
			if kind == "TCP" {
				near, far = socketPair(t, "tcp", "127.0.0.1:0")
			}
			s := rpcx.NewSession(near, nil)
			defer func() {
				s.Close()
				far.Close()
				<-s.Done()
			}()
			go serveBursts(far, news)
			for round := range rounds / 2 {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				st, err := rpcx.Subscribe[int](ctx, s, ethereum())
				if err != nil {
					t.Fatal(err)
				}
				for want := range news {
					if got, err := st.Next(ctx); err != nil || got != want {
						t.Fatalf("round %d: value %d is %d, %v", round, want, got, err)
					}
				}
				if st.Dropped() > 0 {
					t.Fatalf("round %d: %d values were dropped", round, st.Dropped())
				}
				st.Close()
				cancel()
			}
		})
	}
}

// serveBursts answers each subscription with news in the same write, until conn is closed.
func serveBursts(conn net.Conn, news int) {
	lines := bufio.NewScanner(conn)
	var out bytes.Buffer
	for lines.Scan() {
		var req struct {
			ID     json.RawMessage
			Method string
		}
		if json.Unmarshal(lines.Bytes(), &req) != nil {
			return
		}
		out.Reset()
		if req.Method != "eth_subscribe" {
			fmt.Fprintf(&out, `{"jsonrpc":"2.0","result":true,"id":%s}`+"\n", req.ID)
		} else {
			fmt.Fprintf(&out, `{"jsonrpc":"2.0","result":"s%s","id":%s}`+"\n", req.ID, req.ID)
			for i := range news {
				fmt.Fprintf(&out, `{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"s%s","result":%d}}`+"\n", req.ID, i)
			}
		}
		if _, err := conn.Write(out.Bytes()); err != nil {
			return
		}
	}
}

// Calls that read for themselves sort notifications, too.
func TestStreamsBesideLoneCalls(t *testing.T) {
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	s := rpcx.NewSession(near, &rpcx.Options{Correlations: []*rpcx.Correlation{rpcx.EthSubscription}})
	defer func() {
		s.Close()
		far.Close()
		<-s.Done()
	}()
	go serveBursts(far, 1)
	for range 100 { // until the reading is lent to callers
		if err := s.Call(t.Context(), "lone", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		st, err := rpcx.Subscribe[int](t.Context(), s, ethereum())
		if err != nil {
			t.Fatal(err)
		}
		for range i % 3 {
			if err := s.Call(t.Context(), "lone", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if v, err := st.Next(t.Context()); v != 0 || err != nil {
			t.Fatalf("the value is %d, %v", v, err)
		}
		st.Close()
		for range i % 20 {
			if err := s.Call(t.Context(), "lone", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Sorting costs ordinary notifications nothing, and a value at most two allocations.
func TestSortingAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	measure := func(forms []*rpcx.Correlation, subscribe bool, line string) float64 {
		handled := make(chan struct{}, 1)
		opts := handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			handled <- struct{}{}
			return nil, nil
		}))
		opts.Correlations = forms
		near, far := net.Pipe()
		s := rpcx.NewSession(near, opts)
		defer func() {
			s.Close()
			far.Close()
			<-s.Done()
		}()
		next := func() { <-handled }
		if subscribe {
			st, err := rpcx.StreamOf[json.RawMessage](s, rpcx.LSPWorkDone, 1)
			if err != nil {
				t.Fatal(err)
			}
			next = func() { _, _ = st.Next(t.Context()) }
		}
		msg := []byte(line + "\n")
		once := func() {
			_, _ = far.Write(msg)
			next()
		}
		for range 100 {
			once()
		}
		return testing.AllocsPerRun(1000, once)
	}
	plain := `{"jsonrpc":"2.0","method":"log","params":{"token":1,"value":1}}`
	base := measure(nil, false, plain)
	with := []*rpcx.Correlation{rpcx.LSPWorkDone, rpcx.EthSubscription}
	if got := measure(with, false, plain); got > base {
		t.Errorf("a notification of another method takes %v allocations, without Correlations %v", got, base)
	}
	if got := measure(nil, true, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":1,"value":1}}`); got > 4 {
		t.Errorf("a value takes %v allocations", got) // two of them for the decoded json.RawMessage
	} else {
		t.Logf("a handled notification takes %v allocations, a value %v", base, got)
	}
}
