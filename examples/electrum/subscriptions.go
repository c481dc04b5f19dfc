package main

import (
	"context"
	"encoding/hex"

	"example.com/rpcx"
)

// headersTopic is the topic of the hub for new headers. All other topics are hashes of
// scripts.
const headersTopic = "headers"

// tip is what blockchain.headers.subscribe returns, and what is sent to subscribers.
type tip struct {
	Height int    `json:"height"`
	Hex    string `json:"hex"`
}

func (c *chain) shownTip() tip { return tip{c.height(), hex.EncodeToString(c.tip().header[:])} }

// newHub returns a hub for subscribers to whom only the present state matters: if one of
// them is slow, the newest value of each topic takes the place of older ones.
func newHub() *rpcx.Hub {
	return &rpcx.Hub{
		Overflow:      rpcx.KeepLatest,
		MaxPerSession: 10_000, // a wallet subscribes to each of its addresses
	}
}

// handleSubscriptions adds the methods of the two subscriptions. The reply to a
// subscription is the present value.
func (s *server) handleSubscriptions(router *rpcx.Router) {
	subscribe, _ := s.hub.Handlers(rpcx.ElectrumHeaders,
		func(_ context.Context, req *rpcx.Request) (string, error) {
			var args []any
			if err := req.Bind(&args); err != nil || len(args) != 0 {
				return "", rpcx.InvalidParams("%s takes no arguments", req.Method)
			}
			return headersTopic, nil
		},
		func(context.Context, string) (any, error) {
			return view(s, func(c *chain) (any, error) { return c.shownTip(), nil })
		})
	router.Handle("blockchain.headers.subscribe", subscribe)

	subscribe, unsubscribe := s.hub.Handlers(rpcx.ElectrumScriptHash, scriptTopic,
		func(_ context.Context, topic string) (any, error) {
			sh, err := parseHash(topic)
			if err != nil {
				return nil, err
			}
			return view(s, func(c *chain) (any, error) {
				status, err := c.status(sh)
				if err != nil {
					return nil, badRequest("%v", err)
				}
				return shownStatus(status), nil
			})
		})
	router.Handle("blockchain.scripthash.subscribe", subscribe)
	router.Handle("blockchain.scripthash.unsubscribe", since("1.4.2", unsubscribe))
}

// scriptTopic returns the topic of a request with the hash of a script.
func scriptTopic(_ context.Context, req *rpcx.Request) (string, error) {
	var args []string // by position: notifications repeat the arguments
	if err := req.Bind(&args); err != nil || len(args) != 1 {
		return "", rpcx.InvalidParams("%s takes one positional argument, the hash of a script", req.Method)
	}
	sh, err := parseHash(args[0])
	if err != nil {
		return "", badRequest("scripthash: %v", err)
	}
	return sh.String(), nil
}

// shownStatus returns a status as clients see it: null if there is none.
func shownStatus(status string) any {
	if status == "" {
		return nil
	}
	return status
}

// publish tells the subscribers what has changed. The caller holds s.mu, so that the
// values of a topic have the order of the changes; Publish waits for no session.
func (s *server) publish(ch changes) {
	ctx := context.Background()
	if ch.newTip {
		s.hub.Publish(ctx, headersTopic, s.chain.shownTip())
	}
	for sh, status := range ch.statuses {
		s.hub.Publish(ctx, sh.String(), shownStatus(status))
	}
}
