package natsrpcx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"example.com/rpcx"
	"github.com/nats-io/nats.go"
)

// Config says where requests go. Workers and their gateways need the same Prefix, Queue and
// Announce. The zero values of all fields but Conn are ready for use.
type Config struct {
	// Conn is the connection to NATS, from [Connect] or from embedded.Start. The
	// connection must keep no messages while it reconnects (nats.ReconnectBufSize(-1)): a
	// request that is sent later would come to a worker after its caller has given up.
	// The program closes Conn, after the use of everything that has the Config.
	Conn *nats.Conn
	// Prefix is the beginning of all subjects: one or more segments of the characters A-Z,
	// a-z, 0-9, "_" and "-". Default "rpc". No prefix should begin with the segments of
	// another one: the method a/b below "rpc" is the method b below "rpc.a".
	Prefix string
	// Queue is the name of the workers' queue group. Default "rpcx".
	Queue string
	// Announce is the time between two announcements of a worker's methods. A method is
	// known for six times as long. Default 5 s, and so 30 s.
	Announce time.Duration

	// MaxInFlight is the maximum number of messages that a worker handles at the same
	// time. A worker with as many answers "not started". 0 means Limits.Concurrency of
	// the server, whose default is 20, and a negative value means no limit.
	MaxInFlight int
	// Methods lists the methods of a worker. It is called again before each announcement.
	// Default: the methods of Options.Handler, which then must be an *[rpcx.Router].
	Methods func() iter.Seq[string]
	// Admit decides whether a worker handles a message. If Admit returns an error, the
	// answer is that error if it is an *[rpcx.Error], and otherwise code -32002, "not
	// admitted". An admitted message needs no [rpcx.Session.Admit]. A server with a Gate
	// needs Admit. Default: every message is handled.
	Admit func(m *nats.Msg) error

	// Peer returns what the workers are told of a client of a gateway, as headers: a user's
	// name for example. See [Message].
	Peer func(s *rpcx.Session) map[string]string
	// Header returns headers for a call: a trace context for example. ctx is the context of
	// the caller, after Options.OnCall. At a gateway it is the context of the handler.
	Header func(ctx context.Context) map[string]string
}

const (
	defaultPrefix      = "rpc"
	defaultQueue       = "rpcx"
	defaultAnnounce    = 5 * time.Second
	defaultConcurrency = 20 // of rpcx.Limits
	maxPrefix          = 128
)

// Connect connects to a NATS server or cluster; urls is a list with commas between. The
// connection keeps no messages while it reconnects, and reconnects without end, also after a
// server has refused the user or password. If no server can be reached at first, Connect
// returns an error. Further options, such as [nats.UserInfo] and [nats.Secure], are those of
// package nats.
func Connect(urls string, options ...nats.Option) (*nats.Conn, error) {
	own := []nats.Option{nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort()}
	conn, err := nats.Connect(urls, append(own, options...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return conn, nil
}

// resolved returns a copy of c with its defaults, or why c is invalid.
func (c Config) resolved() (*Config, error) {
	if c.Conn == nil {
		return nil, errors.New("natsrpcx: Config.Conn is nil: connect with natsrpcx.Connect or embedded.Start")
	}
	if c.Conn.Opts.ReconnectBufSize >= 0 {
		return nil, errors.New("natsrpcx: Config.Conn keeps messages while it reconnects, and would send requests whose " +
			"callers have given up: connect with natsrpcx.Connect, or with the option nats.ReconnectBufSize(-1)")
	}
	if c.Prefix == "" {
		c.Prefix = defaultPrefix
	}
	if len(c.Prefix) > maxPrefix {
		return nil, fmt.Errorf("natsrpcx: Config.Prefix has %d bytes, and may have %d", len(c.Prefix), maxPrefix)
	}
	for segment := range strings.SplitSeq(c.Prefix, ".") {
		if !isPlain(segment) {
			return nil, fmt.Errorf(`natsrpcx: Config.Prefix is %q: it has segments of A-Z, a-z, 0-9, "_" and "-", with "." between`, c.Prefix)
		}
	}
	if c.Queue == "" {
		c.Queue = defaultQueue
	}
	if !isPlain(c.Queue) {
		return nil, fmt.Errorf(`natsrpcx: Config.Queue is %q: it has the characters A-Z, a-z, 0-9, "_" and "-"`, c.Queue)
	}
	switch {
	case c.Announce == 0:
		c.Announce = defaultAnnounce
	case c.Announce < time.Millisecond:
		return nil, fmt.Errorf("natsrpcx: Config.Announce is %v: it must be at least 1ms", c.Announce)
	}
	return &c, nil
}

// subject returns the whole subject for name, the part after the prefix.
func (c *Config) subject(name string) string { return c.Prefix + "." + name }
