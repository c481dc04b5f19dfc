package embedded_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"example.com/rpcx/nats/embedded"
)

// A gateway and a worker in one process. For several machines, Start becomes Connect.
func ExampleStart() {
	bus, err := embedded.Start()
	if err != nil {
		log.Fatal(err)
	}
	defer bus.Close()
	config := natsrpcx.Config{
		Conn: bus.Conn,
		Peer: func(*rpcx.Session) map[string]string { return map[string]string{"User": "alice"} },
	}

	router := rpcx.NewRouter()
	router.Handle("greet", rpcx.Func(func(_ context.Context, s *rpcx.Session, greeting string) (string, error) {
		return greeting + ", " + natsrpcx.Message(s).Header.Get("User"), nil
	}, "greeting"))
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	// Owner: the example. End: stop.
	go func() {
		served <- natsrpcx.Serve(ctx, &rpcx.Server{Options: rpcx.Options{Handler: router}}, config)
	}()
	defer func() { <-served }()
	defer stop()

	client, gateway := rpcx.Pipe(nil, &rpcx.Options{Handler: natsrpcx.Forward(config)})
	defer gateway.Close()
	defer client.Close()
	for {
		greeting, err := rpcx.Call[string](ctx, client, "greet", rpcx.Args{"hello"})
		if err == nil {
			fmt.Println(greeting)
			break
		}
		time.Sleep(time.Millisecond) // the worker has not subscribed yet
	}
	// Output: hello, alice
}
