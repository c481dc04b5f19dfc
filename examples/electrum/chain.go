package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// chain is a chain of blocks with a mempool, and an index by scripts. A chain is not safe
// for concurrent use.
type chain struct {
	blocks   []*block             // by their height
	records  map[hash]*record     // transactions of blocks, except that of genesis, and of the mempool
	spenders map[outpoint]*record // of spent outputs
	scripts  map[hash]*script
	mempool  []*record // parents before their children
	serial   uint64    // of the last coinbase
	longest  int       // height from which on the mempool is valid, in a reorganisation

	// What has changed since the last takeChanges.
	touched  map[hash]*script
	newTip   bool
	journal  []string // events that lead from the old state to the new one; see state.go
	keepsLog bool     // journal is wanted
}

// record is a transaction in its place.
type record struct {
	tx      *transaction
	height  int // of the block; 0 in the mempool
	pos     int // in the block
	fee     int64
	scripts []hash // of outputs and spent outputs
}

// script is an entry of the index.
type script struct {
	records map[hash]*record // transactions that pay to the script, or spend what was paid
	status  string           // as it was published last; "" without transactions
}

// newChain returns a chain with nothing but the first block.
func newChain() *chain {
	return &chain{
		blocks:   []*block{genesis()},
		records:  make(map[hash]*record),
		spenders: make(map[outpoint]*record),
		scripts:  make(map[hash]*script),
		touched:  make(map[hash]*script),
	}
}

func (c *chain) height() int { return len(c.blocks) - 1 }
func (c *chain) tip() *block { return c.blocks[c.height()] }

// medianTime returns the median time of the last eleven blocks. The time of the next block
// must be later.
func (c *chain) medianTime() int64 {
	var times []int64
	for _, b := range c.blocks[max(0, len(c.blocks)-11):] {
		times = append(times, b.header.time())
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// mine adds a block with all transactions of the mempool that fit.
func (c *chain) mine(now int64) error { return c.mineWith(now, c.mempool) }

// mineWith adds a block with the first of some transactions of the mempool.
func (c *chain) mineWith(now int64, pool []*record) error {
	var (
		height = len(c.blocks)
		weight = 4_000 // of header and coinbase, and some to spare
		txs    []*transaction
		fees   int64
	)
	for _, rec := range pool {
		if weight += rec.tx.weight(); weight > maxBlockWeight {
			break
		}
		txs = append(txs, rec.tx)
		fees += rec.fee
	}
	txs = append([]*transaction{newCoinbase(height, c.serial+1, fees, txs)}, txs...)
	return c.connect(mineBlock(c.tip().hash, max(now, c.medianTime()+1), txs))
}

// connect adds a block whose transactions, except the coinbase, are in the mempool. If the
// chain is longer than ever, transactions of the mempool that have become invalid are
// dropped.
func (c *chain) connect(b *block) error {
	if b.header.prev() != c.tip().hash {
		return fmt.Errorf("block %v: bad-prevblk", b.hash)
	}
	if err := b.check(); err != nil {
		return err
	}
	for _, tx := range b.txs[1:] {
		if rec := c.records[tx.id]; rec == nil || rec.height != 0 {
			return fmt.Errorf("block %v: transaction %v is not in the mempool", b.hash, tx.id)
		}
	}
	height := len(c.blocks)
	c.blocks = append(c.blocks, b)
	c.add(&record{tx: b.txs[0], height: height})
	c.serial++
	for pos, tx := range b.txs {
		rec := c.records[tx.id]
		rec.height, rec.pos = height, pos
		c.touch(rec)
	}
	c.mempool = slices.DeleteFunc(c.mempool, func(rec *record) bool { return rec.height != 0 })
	if height >= c.longest {
		c.renewMempool()
	}
	c.changed(blockEvent, b.serialize())
	return nil
}

// cut removes the blocks above a height. Their transactions, except coinbases, return to
// the mempool. The mempool is valid again when the chain is longer than before.
func (c *chain) cut(height int) error {
	if height < 0 || height >= c.height() {
		return fmt.Errorf("there is no block above height %d", height)
	}
	c.longest = max(c.longest, len(c.blocks))
	var returned []*record
	for _, b := range c.blocks[height+1:] {
		for _, tx := range b.txs[1:] {
			rec := c.records[tx.id]
			rec.height, rec.pos = 0, 0
			c.touch(rec)
			returned = append(returned, rec)
		}
		c.remove(c.records[b.txs[0].id])
	}
	c.mempool = append(returned, c.mempool...)
	c.blocks = c.blocks[: height+1 : height+1]
	c.changed(cutEvent, strconv.AppendInt(nil, int64(height), 10))
	return nil
}

// reorganise replaces the last n blocks by n+1 blocks without transactions.
func (c *chain) reorganise(n int, now int64) error {
	if n < 1 || n >= c.height() {
		return fmt.Errorf("reorganise from 1 to %d blocks, not %d", c.height()-1, n)
	}
	if err := c.cut(c.height() - n); err != nil {
		return err
	}
	for range n + 1 {
		if err := c.mineWith(now, nil); err != nil {
			return err
		}
	}
	return nil
}

// add enters a transaction whose inputs are known into the records and the index.
func (c *chain) add(rec *record) {
	tx := rec.tx
	c.records[tx.id] = rec
	scripts := make(map[hash]bool)
	if !tx.isCoinbase() {
		for _, in := range tx.inputs {
			scripts[scriptHash(c.output(in.prev).script)] = true
			c.spenders[in.prev] = rec
		}
	}
	for _, out := range tx.outputs {
		scripts[scriptHash(out.script)] = true
	}
	rec.scripts = slices.Collect(maps.Keys(scripts))
	c.touch(rec)
	for _, sh := range rec.scripts {
		c.scripts[sh].records[tx.id] = rec
	}
}

// remove is the reverse of add.
func (c *chain) remove(rec *record) {
	delete(c.records, rec.tx.id)
	for _, in := range rec.tx.inputs {
		delete(c.spenders, in.prev)
	}
	c.touch(rec)
	for _, sh := range rec.scripts {
		delete(c.scripts[sh].records, rec.tx.id)
	}
}

// output returns an output of a known transaction, or nil.
func (c *chain) output(at outpoint) *txOutput {
	rec := c.records[at.tx]
	if rec == nil || uint64(at.index) >= uint64(len(rec.tx.outputs)) {
		return nil
	}
	return &rec.tx.outputs[at.index]
}

// touch notes that the statuses of a transaction's scripts may change.
func (c *chain) touch(rec *record) {
	for _, sh := range rec.scripts {
		s := c.scripts[sh]
		if s == nil {
			s = &script{records: make(map[hash]*record)}
			c.scripts[sh] = s
		}
		c.touched[sh] = s
	}
}

// changed notes an event.
func (c *chain) changed(event string, data []byte) {
	c.newTip = c.newTip || event != txEvent
	if c.keepsLog {
		c.journal = append(c.journal, eventLine(event, data))
	}
}

// changes are what subscribers and the file of the state have to be told.
type changes struct {
	newTip   bool
	statuses map[hash]string // of scripts with a new status
	journal  []string
}

// takeChanges returns what has changed since the last call.
func (c *chain) takeChanges() changes {
	ch := changes{c.newTip, make(map[hash]string), c.journal}
	for sh, s := range c.touched {
		status, err := c.status(sh)
		if err == nil && status != s.status {
			s.status = status
			ch.statuses[sh] = status
		}
		if len(s.records) == 0 {
			delete(c.scripts, sh)
		}
	}
	c.newTip, c.journal = false, nil
	clear(c.touched)
	return ch
}
