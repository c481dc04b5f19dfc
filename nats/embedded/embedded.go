// Package embedded has a NATS server within the process, for programs that use [natsrpcx]
// with all parts in one process. Other processes can connect only if the server is configured
// to listen: see [Start]. The package is a module of its own, so that a worker that connects
// to a cluster does not link the server.
//
//	bus, err := embedded.Start()
//	…
//	defer bus.Close()
//	config := natsrpcx.Config{Conn: bus.Conn}
//
// For several processes or machines, only these lines change, to [natsrpcx.Connect].
package embedded

import (
	"errors"
	"fmt"
	"time"

	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Server is a NATS server within the process, with a first connection.
type Server struct {
	// Conn is a connection to the server, for natsrpcx.Config.
	Conn *nats.Conn
	// NATS is the server itself.
	NATS *server.Server
}

// readyTimeout bounds the start of a server.
const readyTimeout = 10 * time.Second

// Start starts a server that does not listen, and connects to it. configure may change the
// server's options before the start, for example MaxPayload, or let the server listen for
// other processes, or as a node of a cluster:
//
//	bus, err := embedded.Start(func(o *server.Options) {
//		o.DontListen, o.Host, o.Port = false, "127.0.0.1", 4222
//	})
func Start(configure ...func(*server.Options)) (*Server, error) {
	options := &server.Options{DontListen: true, NoLog: true, NoSigs: true, NoSystemAccount: true}
	for _, change := range configure {
		change(options)
	}
	node, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("start a NATS server: %w", err)
	}
	node.Start()
	s := &Server{NATS: node}
	if !node.ReadyForConnections(readyTimeout) {
		s.Close()
		return nil, fmt.Errorf("start a NATS server: %w", errors.New("the server is not ready in time"))
	}
	if s.Conn, err = s.Connect(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Connect returns a further connection to the server. A connection of its own lets a
// program measure, or close, its parts one by one.
func (s *Server) Connect(options ...nats.Option) (*nats.Conn, error) {
	return natsrpcx.Connect("", append([]nats.Option{nats.InProcessServer(s.NATS)}, options...)...)
}

// Close closes Conn and stops the server. Everything that uses them should end before.
func (s *Server) Close() {
	if s.Conn != nil {
		s.Conn.Close()
	}
	s.NATS.Shutdown()
	s.NATS.WaitForShutdown()
}
