package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const someTime = 1_800_000_000

// newTestChain returns a chain with n blocks after the first.
func newTestChain(t *testing.T, n int) *chain {
	t.Helper()
	c := newChain()
	for range n {
		mineOne(t, c)
	}
	return c
}

func mineOne(t *testing.T, c *chain) {
	t.Helper()
	if err := c.mine(someTime); err != nil {
		t.Fatal(err)
	}
}

// hashes returns the hashes with these texts.
func hashes(t *testing.T, texts ...string) (all []hash) {
	t.Helper()
	for _, text := range texts {
		h, err := parseHash(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	return all
}

func TestGenesis(t *testing.T) {
	b := genesis()
	const want = "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
	if b.hash.String() != want || b.check() != nil {
		t.Errorf("the first block is %v (%v), want %s", b.hash, b.check(), want)
	}
	const id = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
	if got := b.txs[0].id.String(); got != id {
		t.Errorf("its transaction is %s, want %s", got, id)
	}
}

// rootOf computes the root from a branch, as a client does.
func rootOf(leaf hash, pos int, branch []hash) hash {
	for _, other := range branch {
		pair := append(bytes.Clone(leaf[:]), other[:]...)
		if pos%2 == 1 {
			pair = append(bytes.Clone(other[:]), leaf[:]...)
		}
		leaf, pos = sha256d(pair), pos/2
	}
	return leaf
}

func TestMerkleBranches(t *testing.T) {
	// Block 100,000 of Bitcoin.
	leaves := hashes(t, "8c14f0db3df150123e6f3dbbf30f8b955a8249b62ac1d1ff16284aefa3d06d87",
		"fff2525b8931402dd09222c50775608f75787bd2b87e56995a7bdd30f79702c4",
		"6359f0868171b1d194cbee1af2f16ea598ae8fad666d9b012c8ed2b79a236ec4",
		"e9a66845e05d5abc0ad04ec80f774a7e585c6e8db975962d069a522137b80c1d")
	const want = "f3e94742aca4b5ef85488dc37c06c3282295ffec960994b2c0d5ac2a25a95766"
	if got := merkleRoot(leaves).String(); got != want {
		t.Errorf("the root of block 100,000 is %s, want %s", got, want)
	}
	for n := 1; n <= 33; n++ {
		leaves := make([]hash, n)
		for i := range leaves {
			leaves[i] = sha256d([]byte{byte(i)})
		}
		before := slices.Clone(leaves)
		for i := range leaves {
			branch, root := merkleBranch(leaves, i)
			if got := rootOf(leaves[i], i, branch); got != root || root != merkleRoot(leaves) {
				t.Errorf("leaf %d of %d leads to %v, the root is %v", i, n, got, root)
			}
		}
		if !slices.Equal(before, leaves) {
			t.Fatal("the leaves have changed")
		}
	}
}

// The proof in the documentation of the Electrum protocol: header 5, checkpoint 8.
func TestCheckpointProof(t *testing.T) {
	leaves := hashes(t, "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
		"00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048",
		"000000006a625f06636b8bb6ac7b960a8d03705d1ace08b1a19da3fdcc99ddbd",
		"0000000082b5015589a3fdf2d4baff403e6f0be035a5d9742c1cae6295464449",
		"000000004ebadb55ee9096c9a2f8880e09da59c0d68b1c228da88e48844a1485",
		"000000009b7262315dbf071787ad3656097b892abffd1f95a1a022f896f533fc",
		"000000003031a0e73735690c5a1ff2a4be82553b2a12b776fbd3a215dc8f778d",
		"0000000071966c2b1d065fd446b1e485b2c9d9594acd2007ccbd5441cfc89444",
		"00000000408c48f847aa786c2268fc3e6ec2af68e8468a34a28c61b7f1de0dc6")
	want := hashes(t, "000000004ebadb55ee9096c9a2f8880e09da59c0d68b1c228da88e48844a1485",
		"96cbbc84783888e4cc971ae8acf86dd3c1a419370336bb3c634c97695a8c5ac9",
		"965ac94082cebbcffe458075651e9cc33ce703ab0115c72d9e8b1a9906b2b636",
		"89e5daa6950b895190716dd26054432b564ccdc2868188ba1da76de8e1dc7591")
	branch, root := merkleBranch(leaves, 5)
	if !slices.Equal(branch, want) || root.String() != "e347b1c43fd9b5415bf0d92708db8284b78daf4d0e24f9c3405f45feb85e25db" {
		t.Errorf("branch %v, root %v", branch, root)
	}
}

// checkChain checks a chain against the rules, and its index against one that is computed
// from the blocks and the mempool alone.
func checkChain(t *testing.T, c *chain) {
	t.Helper()
	values := make(map[outpoint]txOutput) // all outputs
	unspent := make(map[outpoint]int64)
	histories := make(map[hash][]string)
	spend := func(tx *transaction, height int) (fee int64) {
		seen := make(map[hash]bool)
		note := func(script []byte) {
			if sh := scriptHash(script); !seen[sh] {
				seen[sh] = true
				histories[sh] = append(histories[sh], fmt.Sprintf("%v:%d", tx.id, height))
			}
		}
		if !tx.isCoinbase() {
			for _, in := range tx.inputs {
				value, ok := unspent[in.prev]
				if !ok {
					t.Errorf("%v spends %v, which is not unspent", tx.id, in.prev)
				}
				fee += value
				delete(unspent, in.prev)
				note(values[in.prev].script)
			}
		}
		for i, out := range tx.outputs {
			at := outpoint{tx.id, uint32(i)}
			values[at], unspent[at] = out, out.value
			fee -= out.value
			note(out.script)
		}
		return fee
	}
	for height, b := range c.blocks[1:] {
		height++
		prev := c.blocks[height-1]
		if b.header.prev() != prev.hash || b.hash != b.header.hash() {
			t.Fatalf("block %d does not follow block %d", height, height-1)
		}
		if err := b.check(); err != nil {
			t.Error(err)
		}
		earlier := &chain{blocks: c.blocks[:height]}
		if b.header.time() <= earlier.medianTime() {
			t.Errorf("block %d is too early", height)
		}
		made := spend(b.txs[0], height)
		for _, tx := range b.txs[1:] {
			made += spend(tx, height)
		}
		if made != -subsidy(height) {
			t.Errorf("block %d makes %d satoshis, want %d", height, -made, subsidy(height))
		}
	}
	pool := make(map[hash]bool)
	for _, rec := range c.mempool {
		pool[rec.tx.id] = true
	}
	for _, rec := range c.mempool {
		height := 0
		if slices.ContainsFunc(rec.tx.inputs, func(in txInput) bool { return pool[in.prev.tx] }) {
			height = -1
		}
		if fee := spend(rec.tx, height); fee != rec.fee || fee <= 0 {
			t.Errorf("the fee of %v is %d, noted is %d", rec.tx.id, fee, rec.fee)
		}
	}
	total, balances := int64(0), int64(0)
	for _, value := range unspent {
		total += value
	}
	for sh, want := range histories {
		entries, err := c.history(sh)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, fmt.Sprintf("%v:%d", e.tx.id, e.height))
		}
		first := slices.IndexFunc(want, func(s string) bool { return strings.HasSuffix(s, ":0") || strings.HasSuffix(s, ":-1") })
		if first < 0 {
			first = len(want)
		}
		if len(got) != len(want) || !slices.Equal(got[:first], want[:first]) {
			t.Errorf("the history of %v is %v, want %v", sh, got, want)
			continue
		}
		slices.Sort(got[first:]) // the mempool has no order here
		slices.Sort(want[first:])
		if !slices.Equal(got, want) {
			t.Errorf("the history of %v is %v, want %v", sh, got, want)
		}
		confirmed, unconfirmed := c.balance(sh)
		balances += confirmed + unconfirmed
	}
	if total != balances {
		t.Errorf("all balances are %d, want %d", balances, total)
	}
	if len(c.scripts) != len(histories) {
		t.Errorf("%d scripts are known, want %d", len(c.scripts), len(histories))
	}
}

func TestNewChainObeysTheRules(t *testing.T) {
	c := newTestChain(t, 2*halvingInterval+maturity)
	c.takeChanges()
	checkChain(t, c)
}

// testScript is a script of somebody else.
func testScript(n byte) []byte { return append([]byte{0x00, 0x14}, bytes.Repeat([]byte{n}, 20)...) }

func TestPaymentThroughAReorganisation(t *testing.T) {
	c := newTestChain(t, firstBlocks)
	c.takeChanges()
	sh := scriptHash(testScript(1))
	tx, err := c.pay(testScript(1), 5*coin)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(height int, confirmed, unconfirmed int64) {
		t.Helper()
		entries, err := c.history(sh)
		if err != nil || len(entries) != 1 || entries[0].tx.id != tx.id || entries[0].height != height {
			t.Fatalf("history %v, %v, want height %d", entries, err, height)
		}
		if gotC, gotU := c.balance(sh); gotC != confirmed || gotU != unconfirmed {
			t.Errorf("balance %d and %d, want %d and %d", gotC, gotU, confirmed, unconfirmed)
		}
		if got := len(c.takeChanges().statuses[sh]); got != 64 {
			t.Errorf("the new status has %d digits", got)
		}
		checkChain(t, c)
	}
	expect(0, 0, 5*coin)
	mineOne(t, c)
	expect(firstBlocks+1, 5*coin, 0)
	mineOne(t, c)
	abandoned := c.tip().hash
	if err := c.reorganise(2, someTime); err != nil {
		t.Fatal(err)
	}
	if c.height() != firstBlocks+3 || c.tip().hash == abandoned {
		t.Errorf("height %d after the reorganisation", c.height())
	}
	expect(0, 0, 5*coin)
	mineOne(t, c)
	expect(firstBlocks+4, 5*coin, 0)
	for _, n := range []int{-1, 0, c.height(), c.height() + 1} {
		if err := c.reorganise(n, someTime); err == nil {
			t.Errorf("%d blocks were replaced", n)
		}
	}
}

// A coin that a reorganisation makes too young, or removes, takes its payments along.
func TestReorganisationDropsPayments(t *testing.T) {
	c := newTestChain(t, maturity) // the first coinbase may be spent in the next block
	if _, err := c.pay(testScript(1), coin); err != nil {
		t.Fatal(err)
	}
	if _, err := c.pay(testScript(2), coin); err != nil { // from the change
		t.Fatal(err)
	}
	if err := c.reorganise(maturity-1, someTime); err != nil {
		t.Fatal(err)
	}
	if len(c.mempool) != 2 {
		t.Errorf("%d payments wait, want 2: the coin is as old as before", len(c.mempool))
	}
	c.takeChanges()
	checkChain(t, c)

	mineOne(t, c)
	c = newTestChain(t, maturity+1)
	if _, err := c.pay(testScript(1), 90*coin); err != nil { // two coins
		t.Fatal(err)
	}
	if err := c.reorganise(maturity, someTime); err != nil { // the second coin was in these blocks
		t.Fatal(err)
	}
	if len(c.mempool) != 0 {
		t.Errorf("%d payments wait, want none", len(c.mempool))
	}
	c.takeChanges()
	checkChain(t, c)
}

// Any sequence of operations leaves a chain that obeys the rules, and a file that leads to
// the same chain.
func TestAnyOperations(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			path := filepath.Join(t.TempDir(), "state")
			c := newChain()
			c.keepsLog = true
			var log strings.Builder
			statuses := make(map[hash]string)
			for range maturity + 5 {
				mineOne(t, c)
			}
			for range 60 {
				switch n := random.IntN(10); {
				case n < 5:
					c.pay(testScript(byte(random.IntN(4))), dust+random.Int64N(60*coin)) // there may be too few coins
				case n < 8:
					mineOne(t, c)
				default:
					if err := c.reorganise(1+random.IntN(8), someTime); err != nil {
						t.Fatal(err)
					}
				}
				ch := c.takeChanges()
				maps.Copy(statuses, ch.statuses)
				log.WriteString(strings.Join(ch.journal, ""))
			}
			checkChain(t, c)
			for sh := range statuses {
				if status, err := c.status(sh); status != statuses[sh] || err != nil {
					t.Errorf("the status of %v is %s (%v), published was %s", sh, status, err, statuses[sh])
				}
			}

			if err := os.WriteFile(path, []byte(log.String()+"block 0123"), 0o600); err != nil { // killed in a line
				t.Fatal(err)
			}
			for range 2 {
				again := newChain()
				f, err := openState(path, again)
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
				again.takeChanges()
				checkChain(t, again)
				if again.tip().hash != c.tip().hash || len(again.mempool) != len(c.mempool) || again.serial != c.serial {
					t.Errorf("read a chain of height %d, %d transactions wait", again.height(), len(again.mempool))
				}
			}
			if text, err := os.ReadFile(path); err != nil || string(text) != log.String() {
				t.Errorf("the file has %d bytes (%v), want %d", len(text), err, log.Len())
			}
		})
	}
}

func TestWrongStateIsRefused(t *testing.T) {
	c := newTestChain(t, 2)
	other := eventLine(blockEvent, c.tip().serialize()) // of height 2
	broken := c.blocks[1].serialize()
	broken[40] ^= 1
	for name, text := range map[string]string{
		"an unknown event": "mine 5\n",
		"no hexadecimal":   "tx xyz\n",
		"no transaction":   "tx 00\n",
		"no block":         "block 00\n",
		"a gap":            other,
		"a wrong root":     eventLine(blockEvent, broken),
		"a cut too deep":   "cut 5\n",
		"no height":        "cut x\n",
	} {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openState(path, newChain()); err == nil || !strings.Contains(err.Error(), "line 1: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBlockForm(t *testing.T) {
	c := newTestChain(t, firstBlocks)
	if _, err := c.pay(testScript(1), coin); err != nil {
		t.Fatal(err)
	}
	mineOne(t, c)
	raw := c.tip().serialize()
	b, err := parseBlock(raw)
	if err != nil || b.hash != c.tip().hash || !bytes.Equal(b.serialize(), raw) || b.check() != nil {
		t.Errorf("the block is read as another: %v", err)
	}
	for n := range raw {
		if _, err := parseBlock(raw[:n]); err == nil {
			t.Errorf("the first %d bytes were decoded", n)
		}
	}
	b.header.setNonce(0)
	for b.header.hasWork() {
		b.header[0]++
	}
	if err := b.check(); err == nil {
		t.Error("a block without work is right")
	}
	for height, want := range map[int]string{1: "51", 16: "60", 17: "0111", 127: "017f", 128: "028000", 255: "02ff00", 256: "020001", 32768: "03008000"} {
		if got := hex.EncodeToString(appendHeight(nil, height)); got != want {
			t.Errorf("height %d is pushed as %s, want %s", height, got, want)
		}
	}
}
