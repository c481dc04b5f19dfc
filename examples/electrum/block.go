package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// The rules of regtest, Bitcoin's network for tests on one machine.
const (
	regtestBits     = 0x207fffff // half of all hashes are low enough
	halvingInterval = 150        // blocks
	maturity        = 100        // blocks until the output of a coinbase may be spent
	maxBlockWeight  = 4_000_000
	blockVersion    = 0x20000000
)

// header is the header of a block, as it is sent between nodes.
type header [80]byte

func newHeader(version uint32, prev, root hash, time, bits, nonce uint32) (h header) {
	b := binary.LittleEndian.AppendUint32(h[:0], version)
	b = append(append(b, prev[:]...), root[:]...)
	b = binary.LittleEndian.AppendUint32(b, time)
	b = binary.LittleEndian.AppendUint32(b, bits)
	binary.LittleEndian.AppendUint32(b, nonce)
	return h
}

func (h *header) hash() hash     { return sha256d(h[:]) }
func (h *header) prev() hash     { return hash(h[4:36]) }
func (h *header) root() hash     { return hash(h[36:68]) }
func (h *header) time() int64    { return int64(binary.LittleEndian.Uint32(h[68:])) }
func (h *header) bits() uint32   { return binary.LittleEndian.Uint32(h[72:]) }
func (h *header) setNonce(n int) { binary.LittleEndian.PutUint32(h[76:], uint32(n)) }

// hasWork reports whether the hash is below regtest's target, 7fffff followed by zeros.
func (h *header) hasWork() bool {
	sum := h.hash()
	return h.bits() == regtestBits && binary.LittleEndian.Uint32(sum[28:]) < 0x7fffff00
}

// block is a block that does not change any more.
type block struct {
	header header
	hash   hash
	txs    []*transaction
}

func newBlock(h header, txs []*transaction) *block { return &block{h, h.hash(), txs} }

// txIDs returns the ids of the block's transactions, the leaves of its merkle tree.
func (b *block) txIDs() []hash {
	ids := make([]hash, len(b.txs))
	for i, tx := range b.txs {
		ids[i] = tx.id
	}
	return ids
}

func (b *block) serialize() []byte {
	raw := appendCompactSize(slices.Clone(b.header[:]), len(b.txs))
	for _, tx := range b.txs {
		raw = append(raw, tx.raw...)
	}
	return raw
}

func parseBlock(raw []byte) (*block, error) {
	r := &txReader{rest: slices.Clone(raw)}
	h := header{}
	copy(h[:], r.bytes(len(h)))
	txs := make([]*transaction, r.count(51)) // the least size of one with an input
	for i := range txs {
		txs[i] = r.transaction()
	}
	if r.failed || len(r.rest) > 0 {
		return nil, errors.New("block decode failed")
	}
	return newBlock(h, txs), nil
}

// genesis returns the first block of regtest. The coinbase is that of Bitcoin's own first
// block, and its output cannot be spent.
func genesis() *block {
	const coinbase = "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d0104" +
		"455468652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64" +
		"206261696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6" +
		"a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
	raw, err := hex.DecodeString(coinbase)
	if err != nil {
		panic(err)
	}
	tx, err := parseTransaction(raw)
	if err != nil {
		panic(err)
	}
	return newBlock(newHeader(1, hash{}, tx.id, 1296688602, regtestBits, 2), []*transaction{tx})
}

// subsidy returns the new coins of the block at a height, in satoshis.
func subsidy(height int) int64 { return int64(50*coin) >> min(height/halvingInterval, 63) }

// The chain's own coins belong to everybody: the script is "true", behind its hash
// (P2WSH). A witness with this script spends such an output, without a signature.
var (
	ownScript  = append([]byte{0x00, 0x20}, sha256Of(trueScript)...)
	ownWitness = appendBytes([]byte{1}, trueScript) // a stack of one item
	trueScript = []byte{0x51}
)

func sha256Of(b []byte) []byte { h := scriptHash(b); return h[:] }

// newCoinbase returns the first transaction of a block with txs. serial makes the
// transactions of two blocks of one height different.
func newCoinbase(height int, serial uint64, fees int64, txs []*transaction) *transaction {
	script := appendBytes(appendHeight(nil, height), binary.BigEndian.AppendUint64(nil, serial))
	ids := make([]hash, 1, len(txs)+1) // BIP 141: the coinbase counts as zero
	for _, tx := range txs {
		ids = append(ids, tx.witnessID)
	}
	root, reserved := merkleRoot(ids), hash{}
	commitment := sha256d(append(root[:], reserved[:]...))
	tx := &transaction{
		version: 2,
		inputs:  []txInput{{prev: noOutpoint, script: script, sequence: 0xffffffff, witness: appendBytes([]byte{1}, reserved[:])}},
		outputs: []txOutput{
			{subsidy(height) + fees, ownScript},
			{0, append([]byte{0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed}, commitment[:]...)},
		},
	}
	return tx.seal()
}

// appendHeight appends what pushes a height in a script, as BIP 34 has it.
func appendHeight(script []byte, height int) []byte {
	if height <= 16 {
		return append(script, byte(0x50+height))
	}
	var number []byte
	for ; height > 0; height >>= 8 {
		number = append(number, byte(height))
	}
	if number[len(number)-1] >= 0x80 {
		number = append(number, 0) // the highest bit is the sign
	}
	return appendBytes(script, number)
}

// mineBlock makes a block, and searches for a nonce with which the header has its work.
func mineBlock(prev hash, time int64, txs []*transaction) *block {
	b := &block{txs: txs}
	b.header = newHeader(blockVersion, prev, merkleRoot(b.txIDs()), uint32(time), regtestBits, 0)
	for nonce := 0; !b.header.hasWork(); nonce++ {
		b.header.setNonce(nonce)
	}
	b.hash = b.header.hash()
	return b
}

// check checks a block by itself.
func (b *block) check() error {
	switch {
	case !b.header.hasWork():
		return fmt.Errorf("block %v: high-hash", b.hash)
	case len(b.txs) == 0 || !b.txs[0].isCoinbase():
		return fmt.Errorf("block %v: bad-cb-missing", b.hash)
	case b.header.root() != merkleRoot(b.txIDs()):
		return fmt.Errorf("block %v: bad-txnmrklroot", b.hash)
	}
	return nil
}

// merkleRoot returns the root of the merkle tree over at least one leaf.
func merkleRoot(leaves []hash) hash {
	_, root := merkleBranch(leaves, 0)
	return root
}

// merkleBranch returns the hashes with which the leaf at position i is paired on its way
// to the root, the deepest first, and the root. A level of odd length repeats its last.
func merkleBranch(leaves []hash, i int) (branch []hash, root hash) {
	branch = []hash{} // [] in JSON, not null
	for level := slices.Clone(leaves); ; i /= 2 {
		if len(level) == 1 {
			return branch, level[0]
		}
		if len(level)%2 == 1 {
			level = append(level, level[len(level)-1])
		}
		branch = append(branch, level[i^1])
		for k := 0; k < len(level); k += 2 {
			level[k/2] = sha256d(append(level[k][:], level[k+1][:]...))
		}
		level = level[:len(level)/2]
	}
}
