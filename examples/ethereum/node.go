package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"example.com/rpcx"
)

// A node has a chain, and tells subscribers of its blocks and their logs.
type node struct {
	chain *chain
	hub   rpcx.Hub
}

// Topics of the hub. Each filter of logs is a topic of its own: the prefix and the filter.
// The hub refuses a topic over 4,096 bytes, and so a filter of 100 addresses.
const (
	newHeads   = "newHeads"
	logsPrefix = "logs "
)

// mine adds a block in each period until ctx ends.
func (n *node) mine(ctx context.Context, period time.Duration) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := n.addBlock(ctx); err != nil {
				slog.Error("a block was not published", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// addBlock adds a block and publishes it. A subscriber that asks for a block that it was
// told of finds the block.
func (n *node) addBlock(ctx context.Context) error {
	b := n.chain.add()
	err := n.hub.Publish(ctx, newHeads, &b.header)
	for topic := range n.hub.Topics() {
		text, ok := strings.CutPrefix(topic, logsPrefix)
		if !ok {
			continue
		}
		var f filter
		err = errors.Join(err, json.Unmarshal([]byte(text), &f))
		for _, e := range b.events {
			if f.match(e) {
				err = errors.Join(err, n.hub.Publish(ctx, topic, e))
			}
		}
	}
	return err
}

// topic returns the topic that the params of eth_subscribe ask for.
func (n *node) topic(_ context.Context, req *rpcx.Request) (string, error) {
	var params []json.RawMessage
	if err := req.Bind(&params); err != nil {
		return "", err
	}
	var kind string
	if len(params) == 0 || json.Unmarshal(params[0], &kind) != nil {
		return "", rpcx.InvalidParams("the first argument must be the kind of the subscription")
	}
	switch {
	case kind == "newHeads" && len(params) == 1:
		return newHeads, nil
	case kind == "logs" && len(params) <= 2:
		var f filter
		if len(params) == 2 {
			if err := json.Unmarshal(params[1], &f); err != nil {
				return "", rpcx.InvalidParams("filter: %v", err)
			}
		}
		text, err := json.Marshal(f) // equal filters have equal texts
		return logsPrefix + string(text), err
	case kind == "newHeads" || kind == "logs":
		return "", rpcx.InvalidParams("too many arguments")
	}
	return "", rpcx.Errorf(rpcx.CodeMethodNotFound, "no %.32q subscription in eth namespace", kind)
}

// methods returns what the node can do.
func (n *node) methods() rpcx.Handler {
	router := rpcx.NewRouter()
	handle := func(method string, fn any, names ...string) { router.Handle(method, rpcx.Func(fn, names...)) }
	handle("web3_clientVersion", func() string { return "rpcx-example/v1" })
	handle("net_version", func() string { return fmt.Sprint(chainID) })
	handle("eth_chainId", func() quantity { return chainID })
	handle("eth_blockNumber", func() quantity { return n.chain.head().Number })
	handle("eth_getBlockByNumber", func(tag blockTag, full bool) (*block, error) {
		b, err := n.chain.block(tag)
		return checkBlock(b, full, err)
	}, "block", "full?")
	handle("eth_getBlockByHash", func(h hash, full bool) (*block, error) {
		return checkBlock(n.chain.byHash(h), full, nil)
	}, "hash", "full?")
	handle("eth_call", n.call, "call", "block?")
	handle("eth_getLogs", n.logs, "filter")
	subscribe, unsubscribe := n.hub.Handlers(rpcx.EthSubscription, n.topic, nil)
	router.Handle("eth_subscribe", subscribe)
	router.Handle("eth_unsubscribe", unsubscribe)
	return router
}

func checkBlock(b *block, full bool, err error) (*block, error) {
	if err != nil {
		return nil, rpcx.InvalidParams("%v", err)
	}
	if full {
		return nil, rpcx.InvalidParams("this node has the hashes of transactions only")
	}
	return b, nil
}

// A call is a message to a contract, without the members that make no difference here.
type call struct {
	To    address `json:"to"`
	Input data    `json:"input"`
	Data  data    `json:"data"` // the older name of Input
}

func (n *node) call(c call, tag blockTag) (data, error) {
	b, err := n.chain.block(tag)
	switch {
	case err != nil:
		return nil, rpcx.InvalidParams("%v", err)
	case b == nil:
		return nil, rpcx.InvalidParams("this node has no such block")
	case c.To != token:
		return data{}, nil // an account has no code
	case c.Input == nil:
		c.Input = c.Data
	}
	return callToken(b, c.Input)
}

// A filter chooses events by their addresses and topics.
type filter struct {
	Address anyOf[address] `json:"address,omitempty"`
	Topics  []anyOf[hash]  `json:"topics,omitempty"`
}

func (f filter) match(e *event) bool {
	if !f.Address.match(e.Address) || len(f.Topics) > len(e.Topics) {
		return false
	}
	for i, topics := range f.Topics {
		if !topics.match(e.Topics[i]) {
			return false
		}
	}
	return true
}

// anyOf is alternatives. In JSON, a value may stand for a list of one. Null and an empty
// list mean any value.
type anyOf[T comparable] []T

func (a anyOf[T]) match(v T) bool { return len(a) == 0 || slices.Contains(a, v) }

func (a *anyOf[T]) UnmarshalJSON(text []byte) error {
	if text[0] == '[' || string(text) == "null" {
		return json.Unmarshal(text, (*[]T)(a))
	}
	*a = make([]T, 1)
	return json.Unmarshal(text, &(*a)[0])
}

// A query asks for logs of the past.
type query struct {
	filter
	FromBlock blockTag `json:"fromBlock"`
	ToBlock   blockTag `json:"toBlock"`
	BlockHash *hash    `json:"blockHash"`
}

// maxLogs is the greatest number of logs in a reply.
const maxLogs = 1000

func (n *node) logs(q query) ([]*event, error) {
	blocks, err := n.blocks(q)
	if err != nil {
		return nil, rpcx.InvalidParams("%v", err)
	}
	found := []*event{} // [] in JSON, not null
	for _, b := range blocks {
		for _, e := range b.events {
			if q.match(e) {
				found = append(found, e)
			}
		}
		if len(found) > maxLogs {
			return nil, rpcx.Errorf(-32005, "query returned more than %d results", maxLogs) // as other nodes do
		}
	}
	return found, nil
}

// blocks returns the blocks that q is about.
func (n *node) blocks(q query) ([]*block, error) {
	if q.BlockHash != nil {
		if b := n.chain.byHash(*q.BlockHash); b != nil {
			return []*block{b}, nil
		}
		return nil, fmt.Errorf("this node has no block %x", *q.BlockHash)
	}
	from, err := n.chain.number(q.FromBlock)
	if err != nil {
		return nil, err
	}
	to, err := n.chain.number(q.ToBlock)
	if err != nil {
		return nil, err
	}
	return n.chain.between(from, to), nil
}
