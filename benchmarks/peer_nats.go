package benchmarks

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// natsPeer is NATS: a server, embedded as its documentation has it, that passes
// messages between a client and a subscriber that echoes. The subscriber's
// connection stays within the process. There are no batches.
var natsPeer = Peer{
	Name:  "nats",
	Title: "nats.go request/reply",
	Kind:  Other,
	Start: startNATS,
	Dial: func(_ context.Context, addr string, _ Load) (Client, error) {
		conn, err := nats.Connect("nats://"+addr, nats.NoReconnect())
		if err != nil {
			return nil, err
		}
		return natsClient{conn}, nil
	},
}

// natsServer is the broker and the subscriber that echoes.
type natsServer struct {
	*server.Server
	echo *nats.Conn
}

func startNATS(load Load) (Server, error) {
	broker, err := server.NewServer(&server.Options{
		Host:       "127.0.0.1",
		Port:       server.RANDOM_PORT,
		MaxPayload: 2 << 20,
		NoLog:      true,
		NoSigs:     true,
	})
	if err != nil {
		return nil, err
	}
	go broker.Start() // until natsServer.Close
	if !broker.ReadyForConnections(10 * time.Second) {
		broker.Shutdown()
		return nil, errors.New("the broker does not start")
	}
	echo, err := nats.Connect("", nats.InProcessServer(broker), nats.NoReconnect())
	if err != nil {
		broker.Shutdown()
		return nil, err
	}
	s := natsServer{broker, echo}
	_, err = echo.Subscribe(echoMethod, func(m *nats.Msg) { m.Respond(m.Data) })
	if err == nil {
		_, err = echo.Subscribe(notifyMethod, func(*nats.Msg) { load.Notified() })
	}
	if err == nil {
		err = echo.Flush() // the broker knows of both
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s natsServer) Close() error {
	s.echo.Close()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

type natsClient struct{ *nats.Conn }

func (c natsClient) Echo(ctx context.Context, text string) (string, error) {
	m, err := c.RequestWithContext(ctx, echoMethod, []byte(text))
	if err != nil {
		return "", err
	}
	return string(m.Data), nil
}

func (c natsClient) Notify(context.Context) error { return c.Publish(notifyMethod, nil) }

func (c natsClient) Close() error {
	c.Conn.Close()
	return nil
}
