package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

const (
	// relayFee is the least fee of a transaction, in satoshis for 1,000 bytes.
	relayFee = 1_000
	// payFee is the fee of the chain's own payments.
	payFee = 2 * relayFee
	// dust is the least value of an output for change.
	dust = 1_000
	// maxMempool is the sum of the sizes of all transactions in the mempool.
	maxMempool = 20_000_000
)

// feeFor returns the fee for a size at a rate.
func feeFor(size int, rate int64) int64 { return (int64(size)*rate + 999) / 1000 }

// accept takes a transaction into the mempool, after a check of its form, of its inputs
// and of its sums. Scripts and signatures are not run: whoever spends an output has its
// coins. A transaction does not replace another.
func (c *chain) accept(tx *transaction) error {
	if err := tx.checkForm(); err != nil {
		return err
	}
	size := len(tx.raw)
	for _, rec := range c.mempool {
		size += len(rec.tx.raw)
	}
	if size > maxMempool {
		return errors.New("mempool full")
	}
	fee, err := c.checkInputs(tx)
	if err != nil {
		return err
	}
	rec := &record{tx: tx, fee: fee}
	c.add(rec)
	c.mempool = append(c.mempool, rec)
	c.changed(txEvent, tx.raw)
	return nil
}

// checkInputs checks a transaction for a place in the next block, and returns its fee.
func (c *chain) checkInputs(tx *transaction) (fee int64, err error) {
	if rec := c.records[tx.id]; rec != nil {
		if rec.height > 0 {
			return 0, errors.New("txn-already-known: Transaction already in block chain")
		}
		return 0, errors.New("txn-already-in-mempool")
	}
	next := len(c.blocks)
	if !tx.isFinal(next, c.medianTime()) {
		return 0, errors.New("non-final")
	}
	for _, in := range tx.inputs {
		out := c.output(in.prev)
		if out == nil {
			return 0, fmt.Errorf("bad-txns-inputs-missingorspent: %v:%d is unknown", in.prev.tx, in.prev.index)
		}
		if spender := c.spenders[in.prev]; spender != nil {
			if spender.height == 0 {
				return 0, fmt.Errorf("txn-mempool-conflict: %v spends %v:%d", spender.tx.id, in.prev.tx, in.prev.index)
			}
			return 0, fmt.Errorf("bad-txns-inputs-missingorspent: %v has spent %v:%d", spender.tx.id, in.prev.tx, in.prev.index)
		}
		if rec := c.records[in.prev.tx]; rec.immature(next) {
			return 0, fmt.Errorf("bad-txns-premature-spend-of-coinbase: in %d blocks", rec.height+maturity-next)
		}
		fee += out.value // all coins of the chain together are less than maxMoney
	}
	for _, out := range tx.outputs {
		fee -= out.value
	}
	switch least := feeFor(tx.virtualSize(), relayFee); {
	case fee < 0:
		return 0, errors.New("bad-txns-in-belowout")
	case fee < least:
		return 0, fmt.Errorf("min relay fee not met: %d satoshis, at least %d", fee, least)
	}
	return fee, nil
}

// immature reports whether rec is a coinbase that must not be spent at a height.
func (rec *record) immature(height int) bool {
	return rec.tx.isCoinbase() && height-rec.height < maturity
}

// renewMempool checks all transactions of the mempool again, after a change of the blocks,
// and drops those that have become invalid.
func (c *chain) renewMempool() {
	old := c.mempool
	c.mempool = nil
	for _, rec := range slices.Backward(old) {
		c.remove(rec)
	}
	for _, rec := range old {
		if fee, err := c.checkInputs(rec.tx); err == nil {
			rec.fee = fee
			c.add(rec)
			c.mempool = append(c.mempool, rec)
		}
	}
}

// pay has the chain's own coins pay to a script, by a transaction in the mempool.
func (c *chain) pay(script []byte, value int64) (*transaction, error) {
	const most = 500 // inputs
	if value < dust || value > maxMoney {
		return nil, fmt.Errorf("pay from %d to %d satoshis, not %d", dust, int64(maxMoney), value)
	}
	tx := &transaction{version: 2, outputs: []txOutput{{value, script}}}
	sum := int64(0)
	for _, coin := range c.unspent(scriptHash(ownScript)) {
		if coin.immature(len(c.blocks)) {
			continue
		}
		in := txInput{prev: coin.outpoint, sequence: math.MaxUint32 - 1, witness: ownWitness}
		tx.inputs = append(tx.inputs, in)
		sum += coin.value
		tx.outputs = append(tx.outputs[:1], txOutput{script: ownScript}) // the change
		fee := feeFor(tx.seal().virtualSize(), payFee)
		if change := sum - value - fee; change >= dust {
			tx.outputs[1].value = change
			tx.seal()
			return tx, c.accept(tx)
		}
		if len(tx.inputs) == most {
			break
		}
	}
	return nil, fmt.Errorf("not enough coins: mine more, so that old blocks' coins may be spent (after %d blocks)", maturity)
}

// feeBin is a number of virtual bytes with a fee, in satoshis for a byte.
type feeBin [2]int

// feeHistogram returns the sizes of the mempool's transactions by their fees, the highest
// first.
func (c *chain) feeHistogram() []feeBin {
	sizes := make(map[int]int)
	for _, rec := range c.mempool {
		size := rec.tx.virtualSize()
		sizes[int(rec.fee)/size] += size
	}
	bins := []feeBin{}
	for fee, size := range sizes {
		bins = append(bins, feeBin{fee, size})
	}
	slices.SortFunc(bins, func(a, b feeBin) int { return b[0] - a[0] })
	return bins
}
