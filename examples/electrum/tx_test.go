package main

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// spending returns a transaction that spends outputs of the chain's own script.
func spending(value int64, from ...outpoint) *transaction {
	tx := &transaction{version: 2, outputs: []txOutput{{value, testScript(9)}}}
	for _, at := range from {
		tx.inputs = append(tx.inputs, txInput{prev: at, sequence: 0xffffffff, witness: ownWitness})
	}
	return tx
}

func TestRefusedTransactions(t *testing.T) {
	c := newTestChain(t, firstBlocks)
	coinAt := func(height int) outpoint { return outpoint{c.blocks[height].txs[0].id, 0} }
	known := spending(49*coin, coinAt(1)).seal()
	if err := c.accept(known); err != nil {
		t.Fatal(err)
	}
	mineOne(t, c)
	waiting := spending(49*coin, coinAt(2)).seal()
	if err := c.accept(waiting); err != nil {
		t.Fatal(err)
	}
	change := func(f func(tx *transaction)) *transaction {
		tx := spending(49*coin, coinAt(3))
		f(tx)
		return tx.seal()
	}
	for name, v := range map[string]struct {
		tx   *transaction
		want string
	}{
		"no inputs":             {change(func(tx *transaction) { tx.inputs = nil }), "bad-txns-vin-empty"},
		"no outputs":            {change(func(tx *transaction) { tx.outputs = nil }), "bad-txns-vout-empty"},
		"a coinbase":            {newCoinbase(5, 5, 0, nil), "coinbase"},
		"no previous output":    {spending(coin, coinAt(3), noOutpoint).seal(), "bad-txns-prevout-null"},
		"an input twice":        {spending(coin, coinAt(3), coinAt(3)).seal(), "bad-txns-inputs-duplicate"},
		"a negative value":      {change(func(tx *transaction) { tx.outputs[0].value = -1 }), "bad-txns-vout-negative"},
		"a value too large":     {change(func(tx *transaction) { tx.outputs[0].value = maxMoney + 1 }), "bad-txns-vout-toolarge"},
		"a sum too large":       {change(func(tx *transaction) { tx.outputs[0].value = maxMoney; tx.outputs = append(tx.outputs, tx.outputs[0]) }), "bad-txns-txouttotal-toolarge"},
		"too small":             {change(func(tx *transaction) { tx.outputs[0].script = nil }), "tx-size-small"},
		"too large":             {change(func(tx *transaction) { tx.outputs[0].script = make([]byte, 100_000) }), "tx-size:"},
		"more than the inputs":  {spending(51*coin, coinAt(3)).seal(), "bad-txns-in-belowout"},
		"no fee":                {spending(50*coin, coinAt(3)).seal(), "min relay fee not met"},
		"an unknown input":      {spending(coin, outpoint{hash{1}, 0}).seal(), "bad-txns-inputs-missingorspent"},
		"an unknown output":     {spending(coin, outpoint{coinAt(3).tx, 7}).seal(), "bad-txns-inputs-missingorspent"},
		"the output of genesis": {spending(coin, coinAt(0)).seal(), "bad-txns-inputs-missingorspent"},
		"a spent input":         {spending(coin, coinAt(1)).seal(), "bad-txns-inputs-missingorspent"},
		"a conflict":            {spending(coin, coinAt(2)).seal(), "txn-mempool-conflict"},
		"a young coin":          {spending(coin, coinAt(20)).seal(), "bad-txns-premature-spend-of-coinbase"},
		"known":                 {known, "txn-already-known"},
		"waiting":               {waiting, "txn-already-in-mempool"},
		"a height to come":      {change(func(tx *transaction) { tx.lockTime, tx.inputs[0].sequence = uint32(len(c.blocks)), 0 }), "non-final"},
		"a time to come":        {change(func(tx *transaction) { tx.lockTime, tx.inputs[0].sequence = 4_000_000_000, 0 }), "non-final"},
	} {
		if err := c.accept(v.tx); err == nil || !strings.HasPrefix(err.Error(), v.want) {
			t.Errorf("%s: %v, want %s", name, err, v.want)
		}
	}
	for name, tx := range map[string]*transaction{
		"the next block's height": change(func(tx *transaction) { tx.lockTime, tx.inputs[0].sequence = uint32(len(c.blocks)-1), 0 }),
		"a child in the mempool":  spending(48*coin, outpoint{waiting.id, 0}).seal(),
	} {
		if err := c.accept(tx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.takeChanges()
	checkChain(t, c)
	mineOne(t, c)
	c.takeChanges()
	checkChain(t, c)
	if len(c.mempool) != 0 {
		t.Errorf("%d transactions wait", len(c.mempool))
	}
}

func TestMalformedTransactions(t *testing.T) {
	whole := spending(coin, outpoint{hash{1}, 2}, outpoint{hash{3}, 4}).seal().raw
	if tx, err := parseTransaction(whole); err != nil || !bytes.Equal(tx.serialize(true), whole) {
		t.Fatalf("the whole transaction: %v", err)
	}
	for n := range whole {
		if _, err := parseTransaction(whole[:n]); err == nil {
			t.Errorf("the first %d bytes were decoded", n)
		}
	}
	if _, err := parseTransaction(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte too many was decoded")
	}
	for name, text := range map[string]string{
		"a huge count":             "02000000" + "ffffffffffffffffff",
		"a count in a longer form": "02000000" + "fd0100",
		"no witness":               "02000000" + "0001" + "00" + "00" + "00000000",
		"another flag":             "02000000" + "0002" + "00" + "00" + "00000000",
		"a script beyond the end":  "02000000" + "01" + strings.Repeat("00", 36) + "fe00000010",
	} {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseTransaction(raw); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
}

// What is decoded has one form only.
func FuzzParseTransaction(f *testing.F) {
	f.Add(spending(coin, outpoint{hash{1}, 2}).seal().raw)
	f.Add(genesis().txs[0].raw)
	f.Add(newCoinbase(300, 1, 0, nil).raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		tx, err := parseTransaction(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(tx.raw, raw) {
			t.Fatalf("%x was decoded as %x", raw, tx.raw)
		}
		c := newChain()
		if err := c.accept(tx); err == nil {
			t.Fatal("a transaction of no coins was accepted")
		}
		if _, err := parseBlock(append(make([]byte, 80), append([]byte{1}, raw...)...)); err != nil {
			t.Fatalf("not decoded in a block: %v", err)
		}
	})
}
