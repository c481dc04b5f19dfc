package main

import (
	"encoding/hex"
	"fmt"
	"slices"

	"example.com/rpcx"
)

// The methods about blocks, scripts and transactions. The names of arguments and results
// are those of the Electrum protocol.

// maxHeaders is the number of headers in a reply: those of a period of the difficulty.
const maxHeaders = 2016

// proof shows that a header is in the chain up to a checkpoint.
type proof struct {
	Branch []hash `json:"branch"`
	Root   hash   `json:"root"`
}

// handleBlocks adds the methods about blocks and fees.
func (s *server) handleBlocks(router *rpcx.Router) {
	router.Handle("blockchain.block.header", rpcx.Func(func(height, checkpoint int) (any, error) {
		return view(s, func(c *chain) (any, error) {
			if height < 0 || height > c.height() {
				return nil, badRequest("height %d out of range", height)
			}
			raw := hex.EncodeToString(c.blocks[height].header[:])
			if checkpoint == 0 {
				return raw, nil
			}
			p, err := c.proveHeader(height, checkpoint)
			return struct {
				*proof
				Header string `json:"header"`
			}{p, raw}, err
		})
	}, "height", "cp_height?"))

	router.Handle("blockchain.block.headers", rpcx.Func(func(start, count, checkpoint int) (any, error) {
		return view(s, func(c *chain) (any, error) {
			if start < 0 || count < 0 {
				return nil, badRequest("%d headers from height %d: out of range", count, start)
			}
			from := min(start, len(c.blocks))
			blocks := c.blocks[from:min(from+min(count, maxHeaders), len(c.blocks))]
			var raw []byte
			for _, b := range blocks {
				raw = append(raw, b.header[:]...)
			}
			reply := struct {
				Count int    `json:"count"`
				Hex   string `json:"hex"`
				Max   int    `json:"max"`
				*proof
			}{len(blocks), hex.EncodeToString(raw), maxHeaders, nil}
			if checkpoint == 0 || len(blocks) == 0 {
				return reply, nil
			}
			var err error
			reply.proof, err = c.proveHeader(from+len(blocks)-1, checkpoint)
			return reply, err
		})
	}, "start_height", "count", "cp_height?"))

	// Blocks are never full, so the least fee is enough. Both are in coins for 1,000 bytes.
	router.Handle("blockchain.estimatefee", rpcx.Func(func(blocks int) (float64, error) {
		if blocks < 0 {
			return 0, badRequest("%d should be a non-negative integer", blocks)
		}
		return float64(relayFee) / coin, nil
	}, "number"))
	router.Handle("blockchain.relayfee", rpcx.Func(func() float64 { return float64(relayFee) / coin }))
	router.Handle("mempool.get_fee_histogram", rpcx.Func(func() ([]feeBin, error) {
		return view(s, func(c *chain) ([]feeBin, error) { return c.feeHistogram(), nil })
	}))
}

// proveHeader proves that a header is among those up to a checkpoint.
func (c *chain) proveHeader(height, checkpoint int) (*proof, error) {
	if height > checkpoint || checkpoint > c.height() {
		return nil, badRequest("require header height %d <= cp_height %d <= chain height %d", height, checkpoint, c.height())
	}
	leaves := make([]hash, checkpoint+1)
	for i := range leaves {
		leaves[i] = c.blocks[i].hash
	}
	branch, root := merkleBranch(leaves, height)
	return &proof{branch, root}, nil
}

// shownEntry is a transaction in a history.
type shownEntry struct {
	Height int   `json:"height"`
	TxHash hash  `json:"tx_hash"`
	Fee    int64 `json:"fee,omitempty"` // in the mempool, where no fee is 0
}

// shownOutput is an unspent output.
type shownOutput struct {
	Height int    `json:"height"`
	TxHash hash   `json:"tx_hash"`
	TxPos  uint32 `json:"tx_pos"`
	Value  int64  `json:"value"`
}

// handleScripts adds the methods about scripts, except the subscription.
func (s *server) handleScripts(router *rpcx.Router) {
	handle := func(method string, f func(c *chain, sh hash, entries []entry) any) {
		router.Handle(method, rpcx.Func(func(text string) (any, error) {
			sh, err := parseHash(text)
			if err != nil {
				return nil, badRequest("scripthash: %v", err)
			}
			return view(s, func(c *chain) (any, error) {
				entries, err := c.history(sh)
				if err != nil {
					return nil, badRequest("%v", err)
				}
				return f(c, sh, entries), nil
			})
		}, "scripthash"))
	}
	show := func(entries []entry, all bool) any {
		shown := []shownEntry{}
		for _, e := range entries {
			if e.height > 0 && all {
				shown = append(shown, shownEntry{e.height, e.tx.id, 0})
			} else if e.height <= 0 {
				shown = append(shown, shownEntry{e.height, e.tx.id, e.fee})
			}
		}
		return shown
	}
	handle("blockchain.scripthash.get_history", func(_ *chain, _ hash, entries []entry) any { return show(entries, true) })
	handle("blockchain.scripthash.get_mempool", func(_ *chain, _ hash, entries []entry) any { return show(entries, false) })
	handle("blockchain.scripthash.get_balance", func(c *chain, sh hash, _ []entry) any {
		confirmed, unconfirmed := c.balance(sh)
		return map[string]int64{"confirmed": confirmed, "unconfirmed": unconfirmed}
	})
	handle("blockchain.scripthash.listunspent", func(c *chain, sh hash, _ []entry) any {
		shown := []shownOutput{}
		for _, out := range c.unspent(sh) {
			shown = append(shown, shownOutput{out.record.height, out.outpoint.tx, out.index, out.value})
		}
		return shown
	})
}

// handleTransactions adds the methods about transactions.
func (s *server) handleTransactions(router *rpcx.Router) {
	router.Handle("blockchain.transaction.get", rpcx.Func(func(text string, verbose bool) (any, error) {
		id, err := parseHash(text)
		if err != nil {
			return nil, badRequest("tx_hash: %v", err)
		}
		return view(s, func(c *chain) (any, error) {
			rec := c.records[id]
			switch {
			case rec == nil:
				return nil, notFound("No such mempool or blockchain transaction: %v", id)
			case verbose:
				return c.describe(rec), nil
			}
			return hex.EncodeToString(rec.tx.raw), nil
		})
	}, "tx_hash", "verbose?"))

	router.Handle("blockchain.transaction.broadcast", rpcx.Func(func(text string) (hash, error) {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) > maxTxWeight {
			return hash{}, badRequest("the transaction was refused: %v", errTxDecode)
		}
		tx, err := parseTransaction(raw)
		if err == nil {
			err = s.update(func(c *chain) error { return c.accept(tx) })
		}
		if err != nil {
			return hash{}, badRequest("the transaction was refused: %v", err)
		}
		return tx.id, nil
	}, "raw_tx"))

	router.Handle("blockchain.transaction.get_merkle", rpcx.Func(func(text string, height int) (any, error) {
		id, err := parseHash(text)
		if err != nil {
			return nil, badRequest("tx_hash: %v", err)
		}
		return s.proveTransaction(height, func(ids []hash) (int, error) {
			if i := slices.Index(ids, id); i >= 0 {
				return i, nil
			}
			return 0, notFound("tx %v not in block at height %d", id, height)
		}, func(_ hash, i int, branch []hash) any {
			return map[string]any{"block_height": height, "merkle": branch, "pos": i}
		})
	}, "tx_hash", "height"))

	router.Handle("blockchain.transaction.id_from_pos", rpcx.Func(func(height, pos int, merkle bool) (any, error) {
		return s.proveTransaction(height, func(ids []hash) (int, error) {
			if pos < 0 || pos >= len(ids) {
				return 0, notFound("no tx at position %d in block at height %d", pos, height)
			}
			return pos, nil
		}, func(id hash, _ int, branch []hash) any {
			if merkle {
				return map[string]any{"tx_hash": id, "merkle": branch}
			}
			return id
		})
	}, "height", "tx_pos", "merkle?"))
}

// proveTransaction finds a transaction in the block at a height, and has the proof shown
// that the block contains the transaction.
func (s *server) proveTransaction(height int, find func(ids []hash) (int, error), show func(id hash, pos int, branch []hash) any) (any, error) {
	return view(s, func(c *chain) (any, error) {
		if height < 0 || height > c.height() {
			return nil, badRequest("height %d out of range", height)
		}
		ids := c.blocks[height].txIDs()
		pos, err := find(ids)
		if err != nil {
			return nil, err
		}
		branch, _ := merkleBranch(ids, pos)
		return show(ids[pos], pos, branch), nil
	})
}

// describe returns the verbose form of a transaction, as Bitcoin's nodes have it.
func (c *chain) describe(rec *record) map[string]any {
	tx := rec.tx
	var inputs, outputs []map[string]any
	for _, in := range tx.inputs {
		shown := map[string]any{"sequence": in.sequence}
		if tx.isCoinbase() {
			shown["coinbase"] = hex.EncodeToString(in.script)
		} else {
			shown["txid"], shown["vout"] = in.prev.tx, in.prev.index
			shown["scriptSig"] = map[string]string{"hex": hex.EncodeToString(in.script)}
		}
		inputs = append(inputs, shown)
	}
	for i, out := range tx.outputs {
		outputs = append(outputs, map[string]any{
			"n":            i,
			"value":        coins(out.value),
			"scriptPubKey": map[string]string{"hex": hex.EncodeToString(out.script)},
		})
	}
	shown := map[string]any{
		"txid": tx.id, "hash": tx.witnessID, "hex": hex.EncodeToString(tx.raw),
		"version": tx.version, "locktime": tx.lockTime,
		"size": len(tx.raw), "vsize": tx.virtualSize(), "weight": tx.weight(),
		"vin": inputs, "vout": outputs,
	}
	if rec.height > 0 {
		b := c.blocks[rec.height]
		shown["blockhash"], shown["confirmations"] = b.hash, len(c.blocks)-rec.height
		shown["blocktime"], shown["time"] = b.header.time(), b.header.time()
	}
	return shown
}

// coins is a number of satoshis that is written in coins, with all digits.
type coins int64

func (n coins) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%d.%08d", n/coin, n%coin), nil
}
