package natsrpcx_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os/signal"
	"syscall"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats.go"
)

// A worker of a cluster. A signal drains the worker: no call is lost.
func ExampleServe() {
	conn, err := natsrpcx.Connect("nats://n1:4222,nats://n2:4222", nats.UserInfo("worker", "secret"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	router := rpcx.NewRouter()
	router.Handle("sum", rpcx.Func(func(_ context.Context, a, b float64) (float64, error) { return a + b, nil }, "a", "b"))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	if err := natsrpcx.Serve(ctx, srv, natsrpcx.Config{Conn: conn, MaxInFlight: 100}); err != nil {
		log.Fatal(err)
	}
}

// A gateway answers "version" itself, and has everything else answered by workers. The
// workers learn the address of the client.
func ExampleForward() {
	conn, err := natsrpcx.Connect("nats://n1:4222,nats://n2:4222", nats.UserInfo("gateway", "secret"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	forward := natsrpcx.Forward(natsrpcx.Config{
		Conn: conn,
		Peer: func(s *rpcx.Session) map[string]string { return map[string]string{"Client": s.RemoteAddr().String()} },
	})
	gateway := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if req.Method == "version" {
			return "1.0", nil
		}
		return forward.ServeRPC(ctx, req)
	})
	srv := &rpcx.Server{Options: rpcx.Options{Handler: gateway}}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := srv.ListenAndServe(ctx, "tcp://:8888"); err != nil {
		log.Fatal(err)
	}
}

// A program without clients of its own calls the workers. What was not started may be
// called again, in this case later.
func ExampleDial() {
	conn, err := natsrpcx.Connect("nats://n1:4222")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client, err := natsrpcx.Dial(natsrpcx.Config{Conn: conn}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	sum, err := rpcx.Call[float64](context.Background(), client, "sum", rpcx.Args{1, 2})
	if e, ok := errors.AsType[*rpcx.Error](err); ok && e.NotStarted() {
		fmt.Println("all workers are busy")
		return
	}
	fmt.Println(sum, err)
}

// A worker publishes to the sessions of all gateways, each of which has a Hub with the same
// Broker.
func ExampleBroker() {
	conn, err := natsrpcx.Connect("nats://n1:4222")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	hub := &rpcx.Hub{Broker: natsrpcx.Broker(natsrpcx.Config{Conn: conn})}
	if err := hub.Publish(context.Background(), "newHeads", map[string]string{"number": "0x1"}); err != nil {
		log.Print(err) // not connected, for example: the value is lost
	}
}
