package rpcx_test

import (
	"context"
	"fmt"

	"example.com/rpcx"
)

// Nodes of Bitcoin send each other plain messages: a command and a payload.
func ExampleBitcoinFramer() {
	options := func(router *rpcx.Router) *rpcx.Options {
		return &rpcx.Options{
			Protocol: rpcx.BitcoinProtocol,
			Framer:   rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet},
			Handler:  router,
		}
	}
	answered := make(chan []byte)
	near, far := rpcx.NewRouter(), rpcx.NewRouter()
	near.Handle("pong", rpcx.Func(func(nonce []byte) { answered <- nonce }))
	far.Handle("ping", rpcx.Func(func(ctx context.Context, s *rpcx.Session, nonce []byte) error {
		return s.Notify(ctx, "pong", nonce)
	}))
	a, b := rpcx.Pipe(options(near), options(far))
	defer a.Close()
	defer b.Close()

	err := a.Notify(context.Background(), "ping", []byte("12345678"))
	fmt.Printf("pong %s %v\n", <-answered, err)
	fmt.Println(a.Call(context.Background(), "ping", nil, nil))
	// Output:
	// pong 12345678 <nil>
	// message not sent: BitcoinProtocol has no calls, only notifications (code -32600)
}

// The bytes that go over the wire.
func ExampleProtocol_bitcoin() {
	msg, _ := rpcx.BitcoinProtocol.AppendNotification(nil, "ping", []byte("12345678"), nil)
	frame, err := rpcx.BitcoinFramer{Magic: rpcx.BitcoinCash}.AppendFrame(nil, msg)
	fmt.Printf("%x\n%v\n", frame, err)
	// Output:
	// e3e1f3e870696e6700000000000000000800000018b84ae53132333435363738
	// <nil>
}
