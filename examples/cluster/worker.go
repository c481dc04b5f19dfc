package main

import (
	"context"
	"log/slog"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats.go"
)

// recorder notes which calls a worker carries out, so that the clients can account for
// them. A program of your own has none.
type recorder interface {
	Started(n int)
	Finished(n int)
}

// noRecord is a recorder that does nothing.
type noRecord struct{}

func (noRecord) Started(int)  {}
func (noRecord) Finished(int) {}

// workTime is how long a call takes at a worker.
const workTime = 2 * time.Millisecond

// methods returns the methods of a worker. They know nothing of gateways, NATS or machines:
// a Server with a listener could have the same.
func methods(record recorder) *rpcx.Router {
	router := rpcx.NewRouter()
	router.Handle("work", rpcx.Func(func(n int) int {
		record.Started(n)
		defer record.Finished(n)
		time.Sleep(workTime) // for a database, say
		return n
	}, "n"))
	return router
}

// serveWorker answers requests until ctx ends. Then it takes no further ones, finishes
// those that it has, and returns nil. A nil logger is silent.
func serveWorker(ctx context.Context, conn *nats.Conn, record recorder, logger *slog.Logger) error {
	server := &rpcx.Server{Options: rpcx.Options{Handler: methods(record), Logger: logger}}
	return natsrpcx.Serve(ctx, server, natsrpcx.Config{
		Conn:        conn,
		MaxInFlight: 100, // above, a request is answered "not started", and goes to another worker
	})
}
