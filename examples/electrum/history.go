package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strconv"
)

// maxHistory bounds the history of a script, so that a reply stays below a megabyte.
const maxHistory = 8_000

var errHistoryTooLarge = errors.New("history too large") // a text that wallets know

// entry is a transaction in the history of a script.
type entry struct {
	*record
	height int // as clients see it: 0 in the mempool, -1 if a parent is in the mempool, too
}

// history returns the transactions of a script: those of blocks, in the order of the
// chain, then those of the mempool.
func (c *chain) history(sh hash) ([]entry, error) {
	s := c.scripts[sh]
	if s == nil {
		return nil, nil
	}
	if len(s.records) > maxHistory {
		return nil, errHistoryTooLarge
	}
	return c.entries(s), nil
}

func (c *chain) entries(s *script) []entry {
	entries := make([]entry, 0, len(s.records))
	for _, rec := range s.records {
		entries = append(entries, entry{rec, c.shownHeight(rec)})
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(a.pos, b.pos), slices.Compare(a.tx.id[:], b.tx.id[:]))
	})
	return entries
}

// order puts the mempool behind the blocks, and children there behind their parents.
func (e entry) order() int {
	if e.height > 0 {
		return e.height
	}
	return math.MaxInt - 1 - e.height
}

func (c *chain) shownHeight(rec *record) int {
	if rec.height > 0 {
		return rec.height
	}
	for _, in := range rec.tx.inputs {
		if parent := c.records[in.prev.tx]; parent != nil && parent.height == 0 {
			return -1
		}
	}
	return 0
}

// status returns the status of a script in the Electrum protocol: a hash of its history,
// or "" if there is none.
func (c *chain) status(sh hash) (string, error) {
	entries, err := c.history(sh)
	if err != nil || len(entries) == 0 {
		return "", err
	}
	var text []byte
	for _, e := range entries {
		text = append(append(text, e.tx.id.String()...), ':')
		text = append(strconv.AppendInt(text, int64(e.height), 10), ':')
	}
	return hex.EncodeToString(sha256Of(text)), nil
}

// placedOutput is an output of a transaction, in its place.
type placedOutput struct {
	outpoint
	entry
	value   int64
	spender *record // nil if the output is unspent
}

// outputs returns all outputs of a script, in the order of its history.
func (c *chain) outputs(sh hash) (outputs []placedOutput) {
	s := c.scripts[sh]
	if s == nil {
		return nil
	}
	for _, e := range c.entries(s) {
		for i, out := range e.tx.outputs {
			if scriptHash(out.script) == sh {
				at := outpoint{e.tx.id, uint32(i)}
				outputs = append(outputs, placedOutput{at, e, out.value, c.spenders[at]})
			}
		}
	}
	return outputs
}

// balance returns what a script has in blocks, and what the mempool adds to it.
func (c *chain) balance(sh hash) (confirmed, unconfirmed int64) {
	total := int64(0)
	for _, out := range c.outputs(sh) {
		if out.spender == nil {
			total += out.value
		}
		if out.record.height > 0 && (out.spender == nil || out.spender.height == 0) {
			confirmed += out.value
		}
	}
	return confirmed, total - confirmed
}

// unspent returns the unspent outputs of a script. An output that the mempool spends is
// spent.
func (c *chain) unspent(sh hash) []placedOutput {
	return slices.DeleteFunc(c.outputs(sh), func(out placedOutput) bool { return out.spender != nil })
}
