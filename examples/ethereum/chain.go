package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

const (
	chainID = 1337
	kept    = 10_000 // blocks
	// genesis is the time of block 0. The clock of the chain counts blocks, 12 s each, so
	// that the chain is the same in each run of the program.
	genesis   = 1_700_000_000
	blockTime = 12
)

// A chain is its newest blocks, at most kept. Each block has one transfer of the token from
// an account to the next account. Hashes are SHA-256, because the standard library does not
// have Ethereum's Keccak. Clients do not check the hashes.
type chain struct {
	mu     sync.Mutex
	blocks []*block // of consecutive numbers
}

// A header is what subscribers of newHeads receive.
type header struct {
	Number           quantity `json:"number"`
	Hash             hash     `json:"hash"`
	ParentHash       hash     `json:"parentHash"`
	Timestamp        quantity `json:"timestamp"`
	LogsBloom        data     `json:"logsBloom"`
	Miner            address  `json:"miner"`
	GasLimit         quantity `json:"gasLimit"`
	GasUsed          quantity `json:"gasUsed"`
	BaseFeePerGas    quantity `json:"baseFeePerGas"`
	Difficulty       quantity `json:"difficulty"`
	Nonce            data     `json:"nonce"`
	MixHash          hash     `json:"mixHash"`
	Sha3Uncles       hash     `json:"sha3Uncles"`
	StateRoot        hash     `json:"stateRoot"`
	TransactionsRoot hash     `json:"transactionsRoot"`
	ReceiptsRoot     hash     `json:"receiptsRoot"`
	ExtraData        data     `json:"extraData"`
}

// A block does not change once it is in the chain.
type block struct {
	header
	Transactions []hash   `json:"transactions"`
	Uncles       []hash   `json:"uncles"`
	Size         quantity `json:"size"`

	events   []*event
	balances [len(accounts)]uint64 // of the token, after this block
}

// An event is what subscribers of logs receive.
type event struct {
	Address          address  `json:"address"`
	Topics           []hash   `json:"topics"`
	Data             data     `json:"data"`
	BlockNumber      quantity `json:"blockNumber"`
	BlockHash        hash     `json:"blockHash"`
	TransactionHash  hash     `json:"transactionHash"`
	TransactionIndex quantity `json:"transactionIndex"`
	LogIndex         quantity `json:"logIndex"`
	Removed          bool     `json:"removed"`
}

// newChain returns a chain with the blocks from 0 to head.
func newChain(head uint64) *chain {
	c := new(chain)
	for range head + 1 {
		c.add()
	}
	return c
}

// add makes the next block.
func (c *chain) add() *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := new(block)
	b.LogsBloom = anyBloom
	b.GasLimit = 30_000_000
	b.BaseFeePerGas = 1_000_000_000
	b.Nonce = make(data, 8)
	b.Timestamp = genesis
	b.Transactions, b.Uncles = []hash{}, []hash{}
	if len(c.blocks) == 0 {
		for i := range b.balances {
			b.balances[i] = supply / uint64(len(accounts))
		}
	} else {
		parent := c.blocks[len(c.blocks)-1]
		b.Number = parent.Number + 1
		b.ParentHash = parent.Hash
		b.Timestamp += b.Number * blockTime
		b.balances = parent.balances
	}
	b.Hash = digest("block", b.Number)
	if b.Number > 0 {
		b.transfer()
	}
	c.blocks = append(c.blocks, b)
	if len(c.blocks) > kept {
		c.blocks[0] = nil
		c.blocks = c.blocks[1:]
	}
	return b
}

// anyBloom is the bloom filter that matches each log.
var anyBloom = slices.Repeat(data{0xff}, 256)

// transfer makes the block's only transaction, with a single event.
func (b *block) transfer() {
	n := uint64(b.Number)
	from, to, amount := n%uint64(len(accounts)), (n+1)%uint64(len(accounts)), 1+n%7
	b.balances[from] -= amount
	b.balances[to] += amount
	b.Transactions = []hash{digest("transaction", b.Number)}
	b.GasUsed = 51_000
	b.events = []*event{{
		Address:         token,
		Topics:          []hash{transferTopic, accounts[from].topic(), accounts[to].topic()},
		Data:            word(amount),
		BlockNumber:     b.Number,
		BlockHash:       b.Hash,
		TransactionHash: b.Transactions[0],
	}}
}

func digest(what string, number quantity) hash {
	return sha256.Sum256(binary.BigEndian.AppendUint64([]byte(what), uint64(number)))
}

// head returns the newest block.
func (c *chain) head() *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocks[len(c.blocks)-1]
}

// between returns the blocks from one number to another, as far as the chain has them.
func (c *chain) between(from, to quantity) []*block {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, next := c.blocks[0].Number, c.blocks[len(c.blocks)-1].Number+1
	from, to = max(from, first), min(to, next-1)
	if from > to {
		return nil
	}
	return slices.Clone(c.blocks[from-first : to-first+1])
}

// A blockTag is a number, or a word such as "latest", in JSON.
type blockTag string

// number returns the number of the block that tag means; absent is like "latest".
func (c *chain) number(tag blockTag) (n quantity, err error) {
	switch tag {
	case "", "latest", "pending", "safe", "finalized":
		return c.head().Number, nil
	case "earliest":
		return 0, nil
	}
	if err := n.UnmarshalText([]byte(tag)); err != nil {
		return 0, fmt.Errorf("block: %w", err)
	}
	return n, nil
}

// block returns the block that tag means, nil if the chain does not have it.
func (c *chain) block(tag blockTag) (*block, error) {
	n, err := c.number(tag)
	if err != nil {
		return nil, err
	}
	if found := c.between(n, n); len(found) == 1 {
		return found[0], nil
	}
	return nil, nil
}

// byHash returns the block with a hash, nil if the chain does not have it.
func (c *chain) byHash(h hash) *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.blocks, func(b *block) bool { return b.Hash == h })
	if i < 0 {
		return nil
	}
	return c.blocks[i]
}
