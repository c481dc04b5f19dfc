package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// watch is a subscription of a client, and the last value.
type watch[T any] struct {
	stream *rpcx.Stream[T]
	last   T
}

// subscribe subscribes a client, and takes the present value.
func subscribe[T any](t *testing.T, client *rpcx.Session, method string, form *rpcx.Correlation, args ...any) *watch[T] {
	t.Helper()
	stream, err := rpcx.Subscribe[T](t.Context(), client, rpcx.Subscription{
		Method: method, Params: rpcx.Args(args), Correlation: form, Overflow: rpcx.EndStream,
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &watch[T]{stream: stream}
	w.next(t)
	return w
}

func subscribeHeaders(t *testing.T, client *rpcx.Session) *watch[tip] {
	return subscribe[tip](t, client, "blockchain.headers.subscribe", rpcx.ElectrumHeaders)
}

func subscribeScript(t *testing.T, client *rpcx.Session, sh hash) *watch[any] {
	return subscribe[any](t, client, "blockchain.scripthash.subscribe", rpcx.ElectrumScriptHash, sh)
}

// next takes the next value.
func (w *watch[T]) next(t *testing.T) T {
	t.Helper()
	value, err := w.stream.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.last = value
	return value
}

// catchUp takes all values that have come, and returns their number. The caller is in a
// bubble.
func (w *watch[T]) catchUp(t *testing.T) (n int) {
	t.Helper()
	for ; ; n++ {
		synctest.Wait()
		ctx, cancel := contextWithTimeout(t)
		value, err := w.stream.Next(ctx)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				t.Fatal(err)
			}
			return n
		}
		w.last = value
	}
}

// statusOf computes the status of a script from its history, as a client does.
func statusOf(t *testing.T, client *rpcx.Session, sh hash) any {
	t.Helper()
	var history []struct {
		Height int
		TxHash string `json:"tx_hash"`
	}
	if err := json.Unmarshal([]byte(call(t, client, "blockchain.scripthash.get_history", sh)), &history); err != nil {
		t.Fatal(err)
	}
	if len(history) == 0 {
		return nil
	}
	var text []byte
	for _, tx := range history {
		text = fmt.Appendf(text, "%s:%d:", tx.TxHash, tx.Height)
	}
	return fmt.Sprintf("%x", sha256Of(text))
}

func TestSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		client := connectAs(t, s, "1.4.2", nil)
		sh := scriptHash(testScript(1))
		headers, script := subscribeHeaders(t, client), subscribeScript(t, client, sh)
		do := func(change func(c *chain) error) {
			t.Helper()
			if err := s.update(change); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(what string, tips, statuses int) {
			t.Helper()
			if n := headers.catchUp(t); n != tips || headers.last != s.chain.shownTip() {
				t.Errorf("%s: %d tips, the last is %+v, want %d", what, n, headers.last, tips)
			}
			if n := script.catchUp(t); n != statuses || script.last != statusOf(t, client, sh) {
				t.Errorf("%s: %d statuses, the last is %v, want %d", what, n, script.last, statuses)
			}
		}
		expect("at first", 0, 0)
		if script.last != nil {
			t.Errorf("the status of no history is %v", script.last)
		}
		mine := func(c *chain) error { return c.mine(someTime) }
		do(mine)
		expect("a block", 1, 0)
		do(func(c *chain) error { _, err := c.pay(testScript(1), coin); return err })
		expect("a payment", 0, 1)
		do(func(c *chain) error { _, err := c.pay(testScript(2), coin); return err })
		expect("a payment to another", 0, 0)
		do(mine)
		expect("a confirmation", 1, 1)
		do(func(c *chain) error { return c.reorganise(1, someTime) })
		expect("a reorganisation", 1, 1)
		do(mine)
		expect("another confirmation", 1, 1)

		if err := script.stream.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := s.hub.Stats().Subscribers; n != 1 {
			t.Errorf("%d subscribers are left, want that of the headers", n)
		}
		if got := call(t, client, "blockchain.scripthash.unsubscribe", sh); got != "false" {
			t.Errorf("to unsubscribe again: %s", got)
		}
		client.Close()
		synctest.Wait()
		if n := s.hub.Stats().Subscribers; n != 0 {
			t.Errorf("%d subscribers are left", n)
		}
	})
}

// Whatever happens, clients know the state in the end.
func TestClientsFollow(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				s := newTestServer(t)
				const scripts = 4
				var (
					headers  []*watch[tip]
					statuses [scripts][]*watch[any]
					client   *rpcx.Session
				)
				for range 80 {
					switch n := random.IntN(20); {
					case n < 2:
						client = connectAs(t, s, "1.4.2", nil)
						headers = append(headers, subscribeHeaders(t, client))
						for i := range scripts {
							statuses[i] = append(statuses[i], subscribeScript(t, client, scriptHash(testScript(byte(i)))))
						}
					case n < 10:
						s.update(func(c *chain) error { // there may be too few coins
							_, err := c.pay(testScript(byte(random.IntN(scripts))), dust+random.Int64N(60*coin))
							return err
						})
					case n < 15:
						if err := s.mine(1 + random.IntN(3)); err != nil {
							t.Fatal(err)
						}
					case n < 18:
						if err := s.update(func(c *chain) error { return c.reorganise(1+random.IntN(5), someTime) }); err != nil {
							t.Fatal(err)
						}
					default:
						synctest.Wait()
					}
				}
				client = connectAs(t, s, "1.4.2", nil)
				for _, h := range headers {
					h.catchUp(t)
					if h.last != s.chain.shownTip() {
						t.Errorf("the tip is %+v, want %+v", h.last, s.chain.shownTip())
					}
				}
				for i, watches := range statuses {
					want := statusOf(t, client, scriptHash(testScript(byte(i))))
					for _, w := range watches {
						w.catchUp(t)
						if w.last != want {
							t.Errorf("the status is %v, want %v", w.last, want)
						}
					}
				}
			})
		})
	}
}

func TestHistoryTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		client := connectAs(t, s, "1.4.2", nil)
		sh := scriptHash(testScript(1))
		many := &script{records: make(map[hash]*record)}
		for n := range maxHistory + 1 {
			tx := &transaction{id: sha256d(fmt.Append(nil, n))}
			many.records[tx.id] = &record{tx: tx, height: n + 1}
		}
		s.chain.scripts[sh] = many
		for _, method := range []string{"subscribe", "get_history", "get_balance", "listunspent", "get_mempool"} {
			err := client.Call(t.Context(), "blockchain.scripthash."+method, rpcx.Args{sh}, nil)
			if err == nil || err.Error() != "history too large (code 1)" { // wallets look for this message
				t.Errorf("%s: %v", method, err)
			}
		}
		for id := range many.records {
			delete(many.records, id)
			break
		}
		if got := len(call(t, client, "blockchain.scripthash.get_history", sh)); got > 900_000 {
			t.Errorf("the longest history has %d bytes", got)
		}
	})
}

func TestMineByTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(t)
		headers := subscribeHeaders(t, connectAs(t, s, "1.4", nil))
		ctx, cancel := contextWithTimeout(t)
		defer cancel()
		var out lockedBuffer
		s.mineByTimer(ctx, time.Minute/3-time.Second, &out)
		if n := headers.catchUp(t); n != 3 || headers.last.Height != firstBlocks+3 {
			t.Errorf("%d blocks in a minute, the last of height %d:\n%s", n, headers.last.Height, out.String())
		}
	})
}
