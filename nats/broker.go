package natsrpcx

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
	"github.com/nats-io/nats.go"
)

// Broker returns the [rpcx.Broker] of a Hub: what is published at one hub reaches the
// subscribers of all hubs with the same Prefix. A topic is a subject below the prefix. The
// Hub describes the order of the values. A value arrives at most once: what is published
// while a hub's connection to NATS is down does not reach that hub, and a publisher without
// a connection receives an error. Values of up to max_payload can be published.
//
//	hub := &rpcx.Hub{Broker: natsrpcx.Broker(config)}
//
// Publishers need no sessions: any program may publish at a Hub of its own. Broker panics
// if c is invalid.
func Broker(c Config) rpcx.Broker {
	resolved, err := c.resolved()
	if err != nil {
		panic(err.Error())
	}
	return &broker{resolved}
}

// broker is the Broker of a Config.
type broker struct{ config *Config }

// topicSubject returns the subject of a topic. Different topics have different subjects.
func (b *broker) topicSubject(topic string) string {
	if subject, ok := encodeSubject(topic, "."); ok {
		return b.config.subject(topicPrefix + subject)
	}
	hash := sha256.Sum256([]byte(topic))
	return b.config.subject(longTopicPrefix + hex.EncodeToString(hash[:]))
}

// Publish implements [rpcx.Broker].
func (b *broker) Publish(ctx context.Context, topic string, value []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	conn := b.config.Conn
	if err := publishError(conn, len(value), conn.Publish(b.topicSubject(topic), value)); err != nil {
		return fmt.Errorf("publish under %q: %w", bounded.Excerpt(topic), err)
	}
	return nil
}

// Subscribe implements [rpcx.Broker].
func (b *broker) Subscribe(topic string, receive func(topic string, value []byte)) (unsubscribe func(), err error) {
	sub, err := b.config.Conn.Subscribe(b.topicSubject(topic), func(m *nats.Msg) { receive(topic, m.Data) })
	if err != nil {
		return nil, fmt.Errorf("subscribe to %q: %w", bounded.Excerpt(topic), err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // fails only if the connection is closed
}
