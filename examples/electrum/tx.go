package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
)

// hash is a SHA-256 or a double SHA-256, in the order of bytes of Bitcoin's messages. Its
// text has the bytes in reverse, in hexadecimal.
type hash [sha256.Size]byte

// sha256d returns the double SHA-256 of b: the hash of headers and transactions.
func sha256d(b []byte) hash {
	once := sha256.Sum256(b)
	return sha256.Sum256(once[:])
}

// scriptHash returns the hash by which the Electrum protocol names a script.
func scriptHash(script []byte) hash { return sha256.Sum256(script) }

func (h hash) String() string {
	slices.Reverse(h[:]) // of the copy
	return hex.EncodeToString(h[:])
}

// MarshalText makes a hash a string in JSON.
func (h hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// parseHash returns the hash with the given text.
func parseHash(text string) (h hash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%.80q is not a hash of %d hexadecimal digits", text, 2*len(h))
	}
	slices.Reverse(b)
	return hash(b), nil
}

const (
	coin     = 100_000_000 // satoshis of a bitcoin
	maxMoney = 21_000_000 * coin
	// maxTxWeight is the weight of the largest transaction that nodes pass on.
	maxTxWeight = 400_000
	// minTxSize is the size of the smallest transaction without witness that nodes pass on.
	minTxSize = 65
)

// outpoint names an output of a transaction.
type outpoint struct {
	tx    hash
	index uint32
}

// noOutpoint is the outpoint in the input of a coinbase transaction.
var noOutpoint = outpoint{index: math.MaxUint32}

type txInput struct {
	prev     outpoint
	script   []byte
	sequence uint32
	witness  []byte // its stack, as it is sent; nil if empty
}

type txOutput struct {
	value  int64 // in satoshis
	script []byte
}

// transaction is a transaction that does not change any more.
type transaction struct {
	version  uint32
	inputs   []txInput
	outputs  []txOutput
	lockTime uint32

	raw       []byte // with the witness
	id        hash   // of the form without the witness
	witnessID hash   // of raw
	baseSize  int    // of the form without the witness
}

// seal computes what follows from the other fields, after the last change.
func (tx *transaction) seal() *transaction {
	base := tx.serialize(false)
	tx.raw = base
	if tx.hasWitness() {
		tx.raw = tx.serialize(true)
	}
	tx.baseSize, tx.id, tx.witnessID = len(base), sha256d(base), sha256d(tx.raw)
	return tx
}

func (tx *transaction) weight() int { return 3*tx.baseSize + len(tx.raw) }

// virtualSize is the size that fees are paid for.
func (tx *transaction) virtualSize() int { return (tx.weight() + 3) / 4 }

func (tx *transaction) isCoinbase() bool {
	return len(tx.inputs) == 1 && tx.inputs[0].prev == noOutpoint
}

func (tx *transaction) hasWitness() bool {
	return slices.ContainsFunc(tx.inputs, func(in txInput) bool { return in.witness != nil })
}

// isFinal reports whether the lock time allows tx in a block of this height, after blocks
// of this median time.
func (tx *transaction) isFinal(height int, medianTime int64) bool {
	const heights = 500_000_000 // lock times below are heights
	limit := medianTime
	if tx.lockTime < heights {
		limit = int64(height)
	}
	return int64(tx.lockTime) < limit ||
		!slices.ContainsFunc(tx.inputs, func(in txInput) bool { return in.sequence != math.MaxUint32 })
}

// serialize returns tx as it is sent between nodes.
func (tx *transaction) serialize(witness bool) []byte {
	b := binary.LittleEndian.AppendUint32(nil, tx.version)
	if witness {
		b = append(b, 0, 1) // marker and flag of BIP 144
	}
	b = appendCompactSize(b, len(tx.inputs))
	for _, in := range tx.inputs {
		b = append(b, in.prev.tx[:]...)
		b = binary.LittleEndian.AppendUint32(b, in.prev.index)
		b = appendBytes(b, in.script)
		b = binary.LittleEndian.AppendUint32(b, in.sequence)
	}
	b = appendCompactSize(b, len(tx.outputs))
	for _, out := range tx.outputs {
		b = binary.LittleEndian.AppendUint64(b, uint64(out.value))
		b = appendBytes(b, out.script)
	}
	if witness {
		for _, in := range tx.inputs {
			if in.witness == nil {
				b = append(b, 0)
			}
			b = append(b, in.witness...)
		}
	}
	return binary.LittleEndian.AppendUint32(b, tx.lockTime)
}

// appendCompactSize appends n in Bitcoin's encoding of counts and lengths.
func appendCompactSize(b []byte, n int) []byte {
	switch {
	case n < 0xfd:
		return append(b, byte(n))
	case n <= math.MaxUint16:
		return binary.LittleEndian.AppendUint16(append(b, 0xfd), uint16(n))
	}
	return binary.LittleEndian.AppendUint32(append(b, 0xfe), uint32(n)) // more than any message has
}

// appendBytes appends data and, in front, its length.
func appendBytes(b, data []byte) []byte { return append(appendCompactSize(b, len(data)), data...) }

var errTxDecode = errors.New("TX decode failed")

// parseTransaction decodes a transaction. The result shares no memory with raw.
func parseTransaction(raw []byte) (*transaction, error) {
	r := &txReader{rest: slices.Clone(raw)}
	tx := r.transaction()
	if r.failed || len(r.rest) > 0 {
		return nil, errTxDecode
	}
	return tx, nil
}

// txReader reads a transaction or a block. After a failure, all results are empty.
type txReader struct {
	rest   []byte
	failed bool
}

// transaction reads a transaction. The result keeps the memory of rest.
func (r *txReader) transaction() *transaction {
	tx := &transaction{version: r.uint32()}
	inputs := r.count(41)
	extended := inputs == 0 // BIP 144: the marker is where a count of 0 would be
	if extended {
		if r.byte() != 1 {
			r.fail()
		}
		inputs = r.count(41)
	}
	tx.inputs = make([]txInput, inputs)
	for i := range tx.inputs {
		tx.inputs[i] = txInput{
			prev:     outpoint{hash(r.bytes(len(hash{}))), r.uint32()},
			script:   r.bytes(r.count(1)),
			sequence: r.uint32(),
		}
	}
	tx.outputs = make([]txOutput, r.count(9))
	for i := range tx.outputs {
		tx.outputs[i] = txOutput{value: int64(r.uint64()), script: r.bytes(r.count(1))}
	}
	if extended {
		for i := range tx.inputs {
			tx.inputs[i].witness = r.witness()
		}
		if !tx.hasWitness() {
			r.fail() // the short form is the only one without a witness
		}
	}
	tx.lockTime = r.uint32()
	return tx.seal()
}

// witness reads the stack of an input.
func (r *txReader) witness() []byte {
	from := r.rest
	items := r.count(1)
	for range items {
		r.bytes(r.count(1))
	}
	if items == 0 {
		return nil
	}
	return from[:len(from)-len(r.rest)]
}

func (r *txReader) fail() { r.failed, r.rest = true, nil }

// bytes reads n bytes. After a failure, the bytes are zeros, at most as many as a hash has.
func (r *txReader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.fail()
		return make([]byte, min(n, len(hash{})))
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *txReader) byte() byte     { return r.bytes(1)[0] }
func (r *txReader) uint16() uint16 { return binary.LittleEndian.Uint16(r.bytes(2)) }
func (r *txReader) uint32() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }
func (r *txReader) uint64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

// count reads the number of elements that take at least size bytes each. A number for
// which there is not enough left is a failure, before memory is taken.
func (r *txReader) count(size int) int {
	n, least := uint64(r.byte()), uint64(0)
	switch n {
	case 0xfd:
		n, least = uint64(r.uint16()), 0xfd
	case 0xfe:
		n, least = uint64(r.uint32()), 1<<16
	case 0xff:
		n, least = r.uint64(), 1<<32
	}
	if n < least || n > uint64(len(r.rest)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

// checkForm checks what can be checked without the chain. The texts of the errors, here
// and in mempool.go, begin as those of Bitcoin Core: wallets know these.
func (tx *transaction) checkForm() error {
	switch {
	case len(tx.inputs) == 0:
		return errors.New("bad-txns-vin-empty")
	case len(tx.outputs) == 0:
		return errors.New("bad-txns-vout-empty")
	case tx.isCoinbase():
		return errors.New("coinbase")
	case tx.weight() > maxTxWeight:
		return fmt.Errorf("tx-size: weight %d, at most %d", tx.weight(), maxTxWeight)
	case tx.baseSize < minTxSize:
		return fmt.Errorf("tx-size-small: %d bytes, at least %d", tx.baseSize, minTxSize)
	}
	total := int64(0)
	for _, out := range tx.outputs {
		switch {
		case out.value < 0:
			return errors.New("bad-txns-vout-negative")
		case out.value > maxMoney:
			return errors.New("bad-txns-vout-toolarge")
		}
		if total += out.value; total > maxMoney {
			return errors.New("bad-txns-txouttotal-toolarge")
		}
	}
	seen := make(map[outpoint]bool, len(tx.inputs))
	for _, in := range tx.inputs {
		switch {
		case in.prev == noOutpoint:
			return errors.New("bad-txns-prevout-null")
		case seen[in.prev]:
			return errors.New("bad-txns-inputs-duplicate")
		}
		seen[in.prev] = true
	}
	return nil
}
