package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
)

const (
	software = "rpcx example 1.0"
	// codeBadRequest is the code of arguments that make no sense, and of a refused
	// transaction. codeNotFound is the code for what the chain does not have. The protocol
	// prescribes none.
	codeBadRequest = 1
	codeNotFound   = 2
	// errorCost is the cost of such an error, and CostHard of the session is 10,000.
	errorCost = 20
)

// server is an Electrum server with its chain.
type server struct {
	mu    sync.RWMutex // guards chain and state
	chain *chain
	state *os.File // nil if the chain is not kept

	hub   *rpcx.Hub
	hosts map[string]ports // for server.features
}

// ports are the ports of a host.
type ports struct {
	TCP int `json:"tcp_port,omitempty"`
	TLS int `json:"ssl_port,omitempty"`
}

// view calls f, which only reads the chain.
func view[T any](s *server, f func(c *chain) (T, error)) (T, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return f(s.chain)
}

// update calls f, which may change the chain. What has changed is written to the file and
// published before the next change.
func (s *server) update(f func(c *chain) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := f(s.chain)
	ch := s.chain.takeChanges()
	if s.state != nil && len(ch.journal) > 0 {
		if _, writeErr := s.state.WriteString(strings.Join(ch.journal, "")); writeErr != nil {
			return fmt.Errorf("the change is not kept: %w", writeErr)
		}
	}
	s.publish(ch)
	return err
}

// rpcServer returns the server for the connections. A client has to begin with
// server.version.
func (s *server) rpcServer() *rpcx.Server {
	return &rpcx.Server{
		Options: rpcx.Options{
			Handler:  s.router(),
			Gate:     gate(),
			Protocol: rpcx.JSONRPCAutoDetect, // clients may speak JSON-RPC 1.0
			Limits: rpcx.Limits{
				Group:       rpcx.GroupBySubnet(24, 48), // whose members share one cost
				IdleTimeout: 10 * time.Minute,           // clients ping every five minutes
			},
		},
		MaxGroup:        100,
		ShutdownTimeout: 10 * time.Second,
	}
}

// router returns the methods for clients that have passed the gate.
func (s *server) router() *rpcx.Router {
	router := rpcx.NewRouter()
	s.handleServer(router)
	s.handleBlocks(router)
	s.handleScripts(router)
	s.handleTransactions(router)
	s.handleSubscriptions(router)
	return router
}

// handleServer adds the methods about the server itself.
func (s *server) handleServer(router *rpcx.Router) {
	router.Handle("server.version", rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
		return nil, badRequest("server.version already sent")
	}))
	router.Handle("server.ping", rpcx.Func(func() {}))
	router.Handle("server.banner", rpcx.Func(func() string {
		return "A chain of the example of rpcx. Its coins have no value."
	}))
	router.Handle("server.donation_address", rpcx.Func(func() string { return "" }))
	router.Handle("server.peers.subscribe", rpcx.Func(func() []any { return []any{} })) // no subscription, in spite of its name
	router.Handle("server.add_peer", rpcx.Func(func(map[string]any) bool { return false }, "features"))
	router.Handle("server.features", rpcx.Func(func() map[string]any {
		return map[string]any{
			"genesis_hash":   genesis().hash,
			"hosts":          s.hosts,
			"protocol_min":   versions[0],
			"protocol_max":   versions[len(versions)-1],
			"pruning":        nil,
			"server_version": software,
			"hash_function":  "sha256",
		}
	}))
}

// versions are those of the protocol that the server speaks, the oldest first.
var versions = []string{"1.4", "1.4.1", "1.4.2"}

// versionKey is the key of a session's version of the protocol.
type versionKey struct{}

// gate returns the handler for clients that have not yet said their version.
func gate() rpcx.Handler {
	version := rpcx.Func(func(s *rpcx.Session, client string, wanted json.RawMessage) ([]string, error) {
		version, ok := negotiate(wanted)
		if !ok {
			err := badRequest("unsupported protocol version: want one of %s", strings.Join(versions, ", "))
			return nil, rpcx.ReplyAndDisconnect(err)
		}
		s.SetValue(versionKey{}, version)
		s.Admit()
		return []string{software, version}, nil
	}, "client_name?", "protocol_version?")
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if req.Method != "server.version" {
			return nil, rpcx.ReplyAndDisconnect(badRequest("use server.version to identify client"))
		}
		return version.ServeRPC(ctx, req)
	})
}

// negotiate returns the newest version that both sides speak. The client wants a version,
// or a list of its oldest and its newest; nothing means 1.4.
func negotiate(wanted json.RawMessage) (version string, ok bool) {
	oldest, newest := versions[0], versions[0]
	if len(wanted) > 0 {
		var bounds []string
		if json.Unmarshal(wanted, &oldest) == nil {
			bounds = []string{oldest, oldest}
		} else if json.Unmarshal(wanted, &bounds) != nil || len(bounds) != 2 {
			return "", false
		}
		oldest, newest = bounds[0], bounds[1]
	}
	low, high := parseVersion(oldest), parseVersion(newest)
	if low == nil || high == nil {
		return "", false
	}
	for _, version := range slices.Backward(versions) {
		v := parseVersion(version)
		if slices.Compare(low, v) <= 0 && slices.Compare(v, high) <= 0 {
			return version, true
		}
	}
	return "", false
}

// parseVersion returns the numbers of a version, or nil.
func parseVersion(text string) (numbers []int) {
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return nil
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// since returns a handler that only clients with a version, or a later one, know.
func since(version string, h rpcx.Handler) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		spoken, _ := req.Session().Value(versionKey{}).(string)
		if slices.Compare(parseVersion(spoken), parseVersion(version)) < 0 {
			return nil, rpcx.MethodNotFound(req.Method)
		}
		return h.ServeRPC(ctx, req)
	})
}

// badRequest returns an error that the client has caused.
func badRequest(format string, args ...any) *rpcx.Error {
	err := rpcx.Errorf(codeBadRequest, format, args...)
	err.Cost = errorCost
	return err
}

// notFound returns an error about what the chain does not have.
func notFound(format string, args ...any) *rpcx.Error {
	err := rpcx.Errorf(codeNotFound, format, args...)
	err.Cost = errorCost
	return err
}

// addHost enters a listener into the hosts of server.features.
func (s *server) addHost(l net.Addr, secure bool) {
	addr, ok := l.(*net.TCPAddr)
	if !ok {
		return
	}
	p := s.hosts[addr.IP.String()]
	if secure {
		p.TLS = addr.Port
	} else {
		p.TCP = addr.Port
	}
	s.hosts[addr.IP.String()] = p
}
