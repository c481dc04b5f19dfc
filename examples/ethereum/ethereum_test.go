package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	"example.com/rpcx/websocket"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// connect returns a session with n.
func connect(t *testing.T, n *node) *rpcx.Session {
	t.Helper()
	opts := n.options()
	opts.Logger = nil
	client, server := rpcx.Pipe(nil, &opts)
	t.Cleanup(func() {
		client.Close()
		<-client.Done()
		<-server.Done()
	})
	return client
}

// subscribe subscribes to news of a kind.
func subscribe[T any](t *testing.T, s *rpcx.Session, args ...any) *rpcx.Stream[T] {
	t.Helper()
	stream, err := rpcx.Subscribe[T](t.Context(), s, rpcx.Subscription{Method: "eth_subscribe", Params: rpcx.Args(args)})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// next returns the next value of a stream.
func next[T any](t *testing.T, stream *rpcx.Stream[T]) T {
	t.Helper()
	v, err := stream.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSubscribersLearnOfBlocksAndTheirLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{chain: newChain(0)}
		s := connect(t, n)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go n.mine(ctx, 2*time.Second)

		start := time.Now()
		heads := subscribe[header](t, s, "newHeads")
		all := subscribe[event](t, s, "logs")
		third := subscribe[event](t, s, "logs", map[string]any{
			"address": token, "topics": []any{transferTopic, nil, []any{accounts[0].topic()}},
		})
		other := subscribe[event](t, s, "logs", map[string]any{"address": accounts[0]})
		for i := range quantity(9) {
			head := next(t, heads)
			if head.Number != i+1 || time.Since(start) != time.Duration(i+1)*2*time.Second {
				t.Errorf("block %d after %v", head.Number, time.Since(start))
			}
			if e := next(t, all); e.BlockNumber != head.Number || e.BlockHash != head.Hash || e.Address != token {
				t.Errorf("a log of block %d: %+v", head.Number, e)
			}
			if head.Number%3 != 2 {
				continue
			}
			if e := next(t, third); e.BlockNumber != head.Number {
				t.Errorf("a log of block %d by topic, want one of block %d", e.BlockNumber, head.Number)
			}
		}
		heads.Close()
		all.Close()
		third.Close()
		other.Close()
		synctest.Wait()
		if stats := n.hub.Stats(); stats.Subscribers != 0 || stats.Dropped != 0 {
			t.Errorf("after all streams were closed, the hub has %+v", stats)
		}
		if _, err := other.Next(ctx); err == nil || other.Dropped() != 0 {
			t.Errorf("the stream of another address ended with %v", err)
		}
	})
}

func TestCalls(t *testing.T) {
	const zeros = "000000000000000000000000"
	one, err := json.Marshal(newChain(1).head())
	if err != nil {
		t.Fatal(err)
	}
	s := connect(t, &node{chain: newChain(9)})
	for _, test := range []struct{ method, params, want string }{
		{"net_version", `[]`, `"1337"`},
		{"eth_chainId", `[]`, `"0x539"`},
		{"eth_blockNumber", `[]`, `"0x9"`},
		{"eth_getBlockByNumber", `["0x1",false]`, string(one)},
		{"eth_getBlockByNumber", `["0xa",false]`, `null`},
		{"eth_getBlockByNumber", `["latest",true]`, `code -32602`},
		{"eth_getBlockByNumber", `["newest"]`, `code -32602`},
		{"eth_getBlockByNumber", `[1]`, `code -32602`},
		{"eth_getBlockByHash", `["0x12",false]`, `code -32602`},
		{"eth_call", `[{"to":"` + text(token) + `","data":"0x18160ddd"}]`, `"0x` + zeros + strings.Repeat("0", 34) + `2dc6c0"`},
		{"eth_call", `[{"to":"` + text(token) + `","input":"0x70a08231` + zeros + strings.Repeat("22", 20) + `"},"0x1"]`,
			`"0x` + zeros + strings.Repeat("0", 35) + `f423e"`}, // 999,998
		{"eth_call", `[{"to":"` + text(token) + `","input":"0x70a08231"},"latest"]`, `code 3`},
		{"eth_call", `[{"to":"` + text(token) + `","input":"0x00"},"latest"]`, `code 3`},
		{"eth_call", `[{"to":"` + text(token) + `","input":"0x18160ddd"},"0x10"]`, `code -32602`},
		{"eth_call", `[{"to":"` + text(accounts[0]) + `"},"latest"]`, `"0x"`},
		{"eth_getLogs", `[{"fromBlock":"0x1","address":"` + text(accounts[0]) + `"}]`, `[]`},
		{"eth_getLogs", `[{"blockHash":"` + text(hash{}) + `"}]`, `code -32602`},
		{"eth_subscribe", `[]`, `code -32602`},
		{"eth_subscribe", `["newHeads",{}]`, `code -32602`},
		{"eth_subscribe", `["logs",{"topics":7}]`, `code -32602`},
		{"eth_subscribe", `["logs",{"address":["` + strings.Repeat(text(token)+`","`, 200) + text(token) + `"]}]`, `code -32602`},
		{"eth_subscribe", `["syncing"]`, `code -32601`},
	} {
		got, err := rpcx.Call[json.RawMessage](t.Context(), s, test.method, json.RawMessage(test.params))
		if refused := (*rpcx.Error)(nil); errors.As(err, &refused) {
			if !strings.HasPrefix(test.want, "code ") || !strings.Contains(err.Error(), "("+test.want+")") {
				t.Errorf("%s%.100s: %v, want %s", test.method, test.params, err, test.want)
			}
		} else if err != nil || string(got) != test.want {
			t.Errorf("%s%.100s: %s, %v, want %s", test.method, test.params, got, err, test.want)
		}
	}
}

// text returns v as it is in JSON.
func text(v interface{ MarshalText() ([]byte, error) }) string {
	b, _ := v.MarshalText()
	return string(b)
}

func TestLogsOfThePast(t *testing.T) {
	n := &node{chain: newChain(3000)}
	s := connect(t, n)
	logs := func(query map[string]any) ([]event, error) {
		return rpcx.Call[[]event](t.Context(), s, "eth_getLogs", rpcx.Args{query})
	}
	sent := []any{transferTopic, accounts[0].topic()}
	got, err := logs(map[string]any{"fromBlock": "earliest", "toBlock": "0x9", "topics": sent})
	if err != nil || len(got) != 3 || got[0].BlockNumber != 3 || got[2].BlockNumber != 9 {
		t.Errorf("what an account has sent until block 9: %+v, %v", got, err)
	}
	got, err = logs(map[string]any{"blockHash": n.chain.head().Hash})
	if err != nil || len(got) != 1 || got[0].BlockNumber != 3000 {
		t.Errorf("the logs of the newest block: %+v, %v", got, err)
	}
	if got, err = logs(map[string]any{"fromBlock": "0x1"}); !errors.Is(err, rpcx.Errorf(-32005, "")) {
		t.Errorf("all logs: %d, %v", len(got), err)
	}
}

func TestChainForgetsOldBlocks(t *testing.T) {
	c := newChain(kept + 5)
	old, err := c.block("0x5")
	if err != nil || old != nil || len(c.blocks) != kept {
		t.Errorf("block 5 is %v (%v) in a chain of %d blocks", old, err, len(c.blocks))
	}
	first, err := c.block("0x6")
	if err != nil || first == nil || first.Number != 6 || c.byHash(first.Hash) != first {
		t.Errorf("block 6 is %v (%v)", first, err)
	}
	var sum uint64
	for _, balance := range c.head().balances {
		sum += balance
	}
	if sum != supply {
		t.Errorf("the accounts have %d of %d", sum, supply)
	}
}

func TestRunServesWebSocketsAndASocket(t *testing.T) {
	folder, err := os.MkdirTemp("", "rpcx") // a short name: the path of a socket must fit into 104 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	socket := "unix://" + filepath.Join(folder, "node.ipc")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	lines, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, out, []string{"ws://127.0.0.1:0", socket}, time.Millisecond, 10) }()
	var addrs [2]string
	for i := range addrs {
		if _, err := fmt.Fscanf(lines, "listening on %s\n", &addrs[i]); err != nil {
			t.Fatal(err)
		}
	}
	web, err := websocket.Dial(ctx, addrs[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	local, err := rpcx.Dial(ctx, addrs[1], &rpcx.Options{Framer: rpcx.JSONFramer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for _, s := range []*rpcx.Session{web, local} {
		heads := subscribe[header](t, s, "newHeads")
		first := next(t, heads).Number
		for i := range quantity(20) {
			if number := next(t, heads).Number; first <= 10 || number != first+i+1 {
				t.Errorf("block %d, after block %d and %d more", number, first, i)
			}
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the program ended with %v", err)
	}
	<-web.Done()
	<-local.Done()
}

func TestRunRefuses(t *testing.T) {
	for _, test := range []struct {
		addrs  []string
		period time.Duration
	}{
		{[]string{"ws://127.0.0.1:0"}, 0},
		{[]string{"127.0.0.1:8546"}, time.Second},
		{[]string{"ws://127.0.0.1:0", "udp://127.0.0.1:8546"}, time.Second},
	} {
		if err := run(t.Context(), io.Discard, test.addrs, test.period, 0); err == nil {
			t.Errorf("run(%q, %v) has served", test.addrs, test.period)
		}
	}
}
