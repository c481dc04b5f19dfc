package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// newTestServer returns a server with a new chain.
func newTestServer(t *testing.T) *server {
	t.Helper()
	s, err := newServer("")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// connect returns a session of a client, before server.version.
func connect(t *testing.T, s *server, opts *rpcx.Options) *rpcx.Session {
	t.Helper()
	client, server := rpcx.Pipe(opts, &s.rpcServer().Options)
	t.Cleanup(func() {
		client.Close()
		<-client.Done()
		<-server.Done()
	})
	return client
}

// connectAs returns a session of a client that speaks a version.
func connectAs(t *testing.T, s *server, version string, opts *rpcx.Options) *rpcx.Session {
	t.Helper()
	client := connect(t, s, opts)
	got, err := rpcx.Call[[]string](t.Context(), client, "server.version", rpcx.Args{"test", version})
	if err != nil || len(got) != 2 || got[1] != version {
		t.Fatalf("server.version: %q, %v", got, err)
	}
	return client
}

func TestVersions(t *testing.T) {
	for wanted, want := range map[string]string{
		``:                  "1.4",
		`"1.4"`:             "1.4",
		`"1.4.1"`:           "1.4.1",
		`"1.4.2"`:           "1.4.2",
		`["1.4","1.4.2"]`:   "1.4.2",
		`["1.2","1.4"]`:     "1.4",
		`["1.4.1","1.6"]`:   "1.4.2",
		`["0.10","1.4.1"]`:  "1.4.1",
		`["1.4","99"]`:      "1.4.2",
		`"1.3"`:             "",
		`"1.5"`:             "",
		`"1.4.3"`:           "",
		`["1.5","1.6"]`:     "",
		`["0.9","1.3"]`:     "",
		`["1.4.2","1.4"]`:   "",
		`["1.4"]`:           "",
		`["1.4","1.4","2"]`: "",
		`"x"`:               "",
		`""`:                "",
		`["-1","1.4"]`:      "",
		`["x","1.4"]`:       "",
		`1.4`:               "",
		`{}`:                "",
	} {
		if got, ok := negotiate(json.RawMessage(wanted)); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", wanted, got, ok, want)
		}
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		client := connectAs(t, s, "1.4", nil)
		if err := client.Call(t.Context(), "server.version", rpcx.Args{"test", "1.4"}, nil); !strings.Contains(fmt.Sprint(err), "already sent") {
			t.Errorf("a second server.version: %v", err)
		}
		if err := client.Call(t.Context(), "server.ping", nil, nil); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		client = connect(t, s, nil)
		named := map[string]any{"client_name": "test", "protocol_version": []string{"1.4", "1.4.2"}}
		if got, err := rpcx.Call[[]string](t.Context(), client, "server.version", named); err != nil || got[1] != "1.4.2" {
			t.Errorf("by name: %q, %v", got, err)
		}
		for name, begin := range map[string]func(client *rpcx.Session) error{
			"another method": func(client *rpcx.Session) error { return client.Call(t.Context(), "server.ping", nil, nil) },
			"another version": func(client *rpcx.Session) error {
				return client.Call(t.Context(), "server.version", rpcx.Args{"test", "1.5"}, nil)
			},
		} {
			client := connect(t, s, nil)
			if err := begin(client); !errors.Is(err, &rpcx.Error{Code: codeBadRequest}) {
				t.Errorf("%s: %v", name, err)
			}
			<-client.Done()
			if err := client.Err(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: the session has ended with %v", name, err)
			}
		}
	})
}

// call calls a method, and returns the result as JSON.
func call(t *testing.T, client *rpcx.Session, method string, args ...any) string {
	t.Helper()
	result, err := rpcx.Call[json.RawMessage](t.Context(), client, method, rpcx.Args(args))
	if err != nil {
		t.Errorf("%s %v: %v", method, args, err)
	}
	return string(result)
}

// expect calls a method, and compares the result with JSON.
func expect(t *testing.T, client *rpcx.Session, want, method string, args ...any) {
	t.Helper()
	got := call(t, client, method, args...)
	var gotValue, wantValue any
	if err := errors.Join(json.Unmarshal([]byte(got), &gotValue), json.Unmarshal([]byte(want), &wantValue)); err != nil {
		t.Errorf("%s %v: %s: %v", method, args, got, err)
	}
	if !reflect.DeepEqual(gotValue, wantValue) {
		t.Errorf("%s %v: %s, want %s", method, args, got, want)
	}
}

func TestMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		client := connectAs(t, s, "1.4.2", nil)
		paid, err := s.chain.pay(testScript(1), 5*coin)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.mine(1); err != nil {
			t.Fatal(err)
		}
		waiting, err := s.chain.pay(testScript(1), coin)
		if err != nil {
			t.Fatal(err)
		}
		fee := s.chain.records[waiting.id].fee
		sh, none := scriptHash(testScript(1)).String(), scriptHash(testScript(2)).String()
		height := firstBlocks + 1
		first := hex.EncodeToString(genesis().header[:])
		raw := hex.EncodeToString(paid.raw)

		expect(t, client, `null`, "server.ping")
		expect(t, client, `""`, "server.donation_address")
		expect(t, client, `[]`, "server.peers.subscribe")
		expect(t, client, `false`, "server.add_peer", map[string]any{})
		expect(t, client, `0.00001`, "blockchain.relayfee")
		expect(t, client, `0.00001`, "blockchain.estimatefee", 6)
		expect(t, client, fmt.Sprintf(`[[2,%d]]`, waiting.virtualSize()), "mempool.get_fee_histogram")
		expect(t, client, `{"genesis_hash":"0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206","hosts":{},
			"protocol_min":"1.4","protocol_max":"1.4.2","pruning":null,"server_version":"rpcx example 1.0","hash_function":"sha256"}`, "server.features")

		expect(t, client, `"`+first+`"`, "blockchain.block.header", 0)
		expect(t, client, `{"count":1,"hex":"`+first+`","max":2016}`, "blockchain.block.headers", 0, 1)
		expect(t, client, `{"count":0,"hex":"","max":2016}`, "blockchain.block.headers", height+1, 10, height)
		checkHeaders(t, s.chain, client)

		expect(t, client, `[]`, "blockchain.scripthash.get_history", none)
		expect(t, client, `[]`, "blockchain.scripthash.get_mempool", none)
		expect(t, client, `[]`, "blockchain.scripthash.listunspent", none)
		expect(t, client, `{"confirmed":0,"unconfirmed":0}`, "blockchain.scripthash.get_balance", none)
		mempool := fmt.Sprintf(`{"height":0,"tx_hash":"%v","fee":%d}`, waiting.id, fee)
		expect(t, client, fmt.Sprintf(`[{"height":%d,"tx_hash":"%v"},%s]`, height, paid.id, mempool), "blockchain.scripthash.get_history", sh)
		expect(t, client, `[`+mempool+`]`, "blockchain.scripthash.get_mempool", strings.ToUpper(sh))
		expect(t, client, `{"confirmed":500000000,"unconfirmed":100000000}`, "blockchain.scripthash.get_balance", sh)
		expect(t, client, fmt.Sprintf(`[{"height":%d,"tx_hash":"%v","tx_pos":0,"value":500000000},{"height":0,"tx_hash":"%v","tx_pos":0,"value":100000000}]`,
			height, paid.id, waiting.id), "blockchain.scripthash.listunspent", sh)

		coinbase := s.chain.blocks[height].txs[0].id
		expect(t, client, `"`+raw+`"`, "blockchain.transaction.get", paid.id)
		expect(t, client, fmt.Sprintf(`{"block_height":%d,"merkle":["%v"],"pos":1}`, height, coinbase), "blockchain.transaction.get_merkle", paid.id, height)
		expect(t, client, fmt.Sprintf(`"%v"`, paid.id), "blockchain.transaction.id_from_pos", height, 1)
		expect(t, client, fmt.Sprintf(`{"tx_hash":"%v","merkle":["%v"]}`, coinbase, paid.id), "blockchain.transaction.id_from_pos", height, 0, true)
		expect(t, client, `{"block_height":0,"merkle":[],"pos":0}`, "blockchain.transaction.get_merkle", genesis().txs[0].id, 0)
		var verbose struct {
			TxID, Hash, Hex, BlockHash string
			Confirmations, Size, VSize int
			Vin                        []struct{ TxID string }
			Vout                       []struct{ Value json.Number }
		}
		text := call(t, client, "blockchain.transaction.get", paid.id, true)
		if err := json.Unmarshal([]byte(text), &verbose); err != nil || verbose.TxID != paid.id.String() || verbose.Hex != raw ||
			verbose.Confirmations != 1 || verbose.BlockHash != s.chain.tip().hash.String() || verbose.Vout[0].Value != "5.00000000" {
			t.Errorf("the verbose form is %s (%v)", text, err)
		}
	})
}

// checkHeaders checks the proofs of headers as a client does.
func checkHeaders(t *testing.T, c *chain, client *rpcx.Session) {
	t.Helper()
	for _, v := range []struct{ start, count, checkpoint int }{{0, 1, 1}, {3, 2, 8}, {0, 9, 8}, {50, 61, 110}, {110, 1, 111}} {
		var reply struct {
			Count       int
			Hex, Header string
			Root        string
			Branch      []string
		}
		if err := json.Unmarshal([]byte(call(t, client, "blockchain.block.headers", v.start, v.count, v.checkpoint)), &reply); err != nil {
			t.Fatal(err)
		}
		last := v.start + reply.Count - 1
		headers, err := hex.DecodeString(reply.Hex)
		if err != nil || reply.Count != v.count || len(headers) != 80*v.count {
			t.Fatalf("%+v: %d headers in %d bytes, %v", v, reply.Count, len(headers), err)
		}
		leaf := sha256d(headers[len(headers)-80:])
		if root := rootOf(leaf, last, hashes(t, reply.Branch...)); root.String() != reply.Root || leaf != c.blocks[last].hash {
			t.Errorf("%+v: the branch leads to %v, the root is %s", v, root, reply.Root)
		}
		root, branch := reply.Root, reply.Branch
		if err := json.Unmarshal([]byte(call(t, client, "blockchain.block.header", last, v.checkpoint)), &reply); err != nil {
			t.Fatal(err)
		}
		if reply.Root != root || !reflect.DeepEqual(reply.Branch, branch) || reply.Header != hex.EncodeToString(headers[len(headers)-80:]) {
			t.Errorf("%+v: the proof of one header differs", v)
		}
	}
}

func TestWrongArguments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		client := connectAs(t, s, "1.4.2", nil)
		sh := scriptHash(testScript(1)).String()
		height := s.chain.height()
		for _, v := range []struct {
			code   int
			method string
			args   rpcx.Args
		}{
			{codeBadRequest, "blockchain.block.header", rpcx.Args{-1}},
			{codeBadRequest, "blockchain.block.header", rpcx.Args{height + 1}},
			{codeBadRequest, "blockchain.block.header", rpcx.Args{5, 4}},
			{codeBadRequest, "blockchain.block.header", rpcx.Args{5, height + 1}},
			{codeBadRequest, "blockchain.block.header", rpcx.Args{5, -1}},
			{codeBadRequest, "blockchain.block.headers", rpcx.Args{-1, 5}},
			{codeBadRequest, "blockchain.block.headers", rpcx.Args{5, -1}},
			{codeBadRequest, "blockchain.block.headers", rpcx.Args{5, 5, 6}},
			{codeBadRequest, "blockchain.estimatefee", rpcx.Args{-1}},
			{codeBadRequest, "blockchain.scripthash.get_history", rpcx.Args{"00"}},
			{codeBadRequest, "blockchain.scripthash.get_balance", rpcx.Args{sh[:63] + "g"}},
			{rpcx.CodeInvalidParams, "blockchain.headers.subscribe", rpcx.Args{1}},
			{codeBadRequest, "blockchain.scripthash.subscribe", rpcx.Args{""}},
			{rpcx.CodeInvalidParams, "blockchain.scripthash.subscribe", nil},
			{rpcx.CodeInvalidParams, "blockchain.scripthash.subscribe", rpcx.Args{sh, sh}},
			{rpcx.CodeInvalidParams, "blockchain.scripthash.subscribe", rpcx.Args{5}},
			{rpcx.CodeInvalidParams, "blockchain.scripthash.get_history", rpcx.Args{sh, 1}},
			{codeBadRequest, "blockchain.transaction.get", rpcx.Args{"x"}},
			{codeNotFound, "blockchain.transaction.get", rpcx.Args{sh}},
			{codeNotFound, "blockchain.transaction.get_merkle", rpcx.Args{sh, 1}},
			{codeBadRequest, "blockchain.transaction.get_merkle", rpcx.Args{sh, height + 1}},
			{codeNotFound, "blockchain.transaction.id_from_pos", rpcx.Args{1, 1}},
			{codeNotFound, "blockchain.transaction.id_from_pos", rpcx.Args{1, -1}},
			{codeBadRequest, "blockchain.transaction.id_from_pos", rpcx.Args{-1, 0}},
			{codeBadRequest, "blockchain.transaction.broadcast", rpcx.Args{"x"}},
			{codeBadRequest, "blockchain.transaction.broadcast", rpcx.Args{""}},
			{codeBadRequest, "blockchain.transaction.broadcast", rpcx.Args{strings.Repeat("00", 400_001)}},
			{codeBadRequest, "blockchain.transaction.broadcast", rpcx.Args{hex.EncodeToString(genesis().txs[0].raw)}},
			{rpcx.CodeMethodNotFound, "blockchain.address.get_history", rpcx.Args{sh}},
		} {
			if err := client.Call(t.Context(), v.method, v.args, nil); !errors.Is(err, &rpcx.Error{Code: v.code}) {
				t.Errorf("%s %.80v: %v, want code %d", v.method, v.args, err, v.code)
			}
		}
		err := client.Call(t.Context(), "blockchain.scripthash.subscribe", map[string]any{"scripthash": sh}, nil)
		if !errors.Is(err, rpcx.ErrInvalidParams) || !strings.Contains(err.Error(), "positional") {
			t.Errorf("a subscription by name: %v", err)
		}
		old := connectAs(t, s, "1.4.1", nil)
		if err := old.Call(t.Context(), "blockchain.scripthash.unsubscribe", rpcx.Args{sh}, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
			t.Errorf("unsubscribe before version 1.4.2: %v", err)
		}
	})
}

// No arguments make a method fail by a fault of the server.
func TestAnyArguments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		opts := s.rpcServer().Options
		opts.Limits.CostOff = true
		client, server := rpcx.Pipe(nil, &opts)
		defer func() { client.Close(); <-server.Done() }()
		if err := client.Call(t.Context(), "server.version", rpcx.Args{"test", "1.4.2"}, nil); err != nil {
			t.Fatal(err)
		}
		coinbase := s.chain.tip().txs[0]
		values := []any{
			nil, true, -1, 0, 1, 111, 1 << 53, math.MaxInt, -math.MaxInt, uint64(math.MaxUint64), 0.5, 1e300, "", "x", "é", strings.Repeat("0", 64),
			coinbase.id, scriptHash(ownScript), hex.EncodeToString(coinbase.raw), []any{}, map[string]any{}, strings.Repeat("ff", 1000),
		}
		args := []any{nil, map[string]any{}, map[string]any{"scripthash": 1}, map[string]any{"height": -5}, map[string]any{"x": 1}}
		for _, a := range values {
			args = append(args, rpcx.Args{a})
			for i, b := range values {
				args = append(args, rpcx.Args{a, b})
				if i%4 == 0 {
					args = append(args, rpcx.Args{0, a, b})
				}
			}
		}
		answered := 0
		for _, method := range []string{
			"blockchain.block.header", "blockchain.block.headers", "blockchain.estimatefee", "blockchain.headers.subscribe", "blockchain.relayfee",
			"blockchain.scripthash.get_balance", "blockchain.scripthash.get_history", "blockchain.scripthash.get_mempool",
			"blockchain.scripthash.listunspent", "blockchain.scripthash.subscribe", "blockchain.scripthash.unsubscribe",
			"blockchain.transaction.broadcast", "blockchain.transaction.get", "blockchain.transaction.get_merkle", "blockchain.transaction.id_from_pos",
			"mempool.get_fee_histogram", "server.add_peer", "server.banner", "server.donation_address", "server.features",
			"server.peers.subscribe", "server.ping", "server.version",
		} {
			for _, params := range args {
				err := client.Call(t.Context(), method, params, nil)
				e, ok := errors.AsType[*rpcx.Error](err)
				if err != nil && (!ok || e.Code == rpcx.CodeInternalError || e.Code == rpcx.CodeMethodNotFound) {
					t.Fatalf("%s %.100v: %v", method, params, err)
				}
				answered++
			}
		}
		if err := client.Call(t.Context(), "server.ping", nil, nil); err != nil {
			t.Errorf("after %d calls: %v", answered, err)
		}
	})
}

// A client that asks for nonsense all the time is refused for its cost.
func TestNonsenseCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := connectAs(t, newTestServer(t), "1.4", nil)
		for n := 1; ; n++ {
			err := client.Call(t.Context(), "blockchain.transaction.get", rpcx.Args{hash{}}, nil)
			if errors.Is(err, rpcx.ErrExcessiveResourceUsage) || client.Err() != nil {
				t.Logf("after %d requests: %v", n, err)
				return
			}
			if n == 2_000 {
				t.Fatalf("%d unknown transactions, and still served", n)
			}
		}
	})
}

// contextWithTimeout returns a context that ends after a minute.
func contextWithTimeout(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), time.Minute)
}
