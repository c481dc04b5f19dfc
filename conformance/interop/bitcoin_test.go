package interop

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"testing"

	"example.com/rpcx"
	"github.com/btcsuite/btcd/wire"
)

// plainMessages are messages of Bitcoin, the last a block of 4,000,000 bytes,
// the most that btcd takes.
func plainMessages() []wire.Message {
	address := wire.NewNetAddressIPPort(net.IPv4(127, 0, 0, 1), 8333, wire.SFNodeNetwork)
	inv := wire.NewMsgInv()
	for i := range 1000 {
		_ = inv.AddInvVect(&wire.InvVect{Type: wire.InvTypeTx, Hash: [32]byte{byte(i), byte(i >> 8)}}) // fails beyond 50,000
	}
	script := make([]byte, wire.MaxBlockPayload)
	rand.NewChaCha8([32]byte{}).Read(script) // never fails
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{Sequence: 1})
	tx.AddTxOut(wire.NewTxOut(1, script))
	block := wire.NewMsgBlock(&wire.BlockHeader{Version: 4, Nonce: 7})
	_ = block.AddTransaction(tx) // never fails
	tx.TxOut[0].PkScript = script[block.SerializeSize()-wire.MaxBlockPayload:]
	return []wire.Message{
		wire.NewMsgVersion(address, address, 1<<63, 800_000),
		wire.NewMsgVerAck(),
		wire.NewMsgPing(1),
		wire.NewMsgPong(1),
		inv,
		block,
	}
}

// TestBitcoin passes messages from btcd to a session and back.
func TestBitcoin(t *testing.T) {
	for name, test := range map[string]struct {
		magic [4]byte
		net   wire.BitcoinNet
		join  func(*testing.T, rpcx.Options) net.Conn
	}{
		"a session that was accepted": {rpcx.BitcoinMainnet, wire.MainNet, serve},
		"a session that was dialled": {rpcx.BitcoinTestnet, wire.TestNet3, func(t *testing.T, opts rpcx.Options) net.Conn {
			_, conn := dial(t, opts)
			return conn
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			received := make(chan *rpcx.Request, 1)
			conn := test.join(t, rpcx.Options{
				Protocol: rpcx.BitcoinProtocol,
				Framer:   rpcx.BitcoinFramer{Magic: test.magic},
				Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
					received <- req
					return nil, nil
				}),
			})
			deadline, _ := ctx.Deadline()
			conn.SetDeadline(deadline)
			for _, msg := range plainMessages() {
				testPlainMessage(t, ctx, conn, test.net, msg, received)
			}
		})
	}
}

// testPlainMessage has btcd send msg to the session, and the session to btcd.
func testPlainMessage(t *testing.T, ctx context.Context, conn net.Conn, network wire.BitcoinNet, msg wire.Message, received <-chan *rpcx.Request) {
	t.Helper()
	var payload bytes.Buffer
	if err := msg.BtcEncode(&payload, wire.ProtocolVersion, wire.BaseEncoding); err != nil {
		t.Fatal(err)
	}
	if msg.Command() == "block" && payload.Len() != 4_000_000 {
		t.Errorf("the block has %d bytes", payload.Len())
	}
	if err := wire.WriteMessage(conn, msg, wire.ProtocolVersion, network); err != nil {
		t.Fatal(err)
	}
	var req *rpcx.Request
	select {
	case req = <-received:
	case <-ctx.Done():
		t.Fatalf("%s was not received", msg.Command())
	}
	if req.Method != msg.Command() || !bytes.Equal(req.Params.Raw, payload.Bytes()) {
		t.Errorf("received %s with %d bytes, want %s with %d", req.Method, len(req.Params.Raw), msg.Command(), payload.Len())
	}

	if err := req.Session().Notify(ctx, msg.Command(), payload.Bytes()); err != nil {
		t.Fatal(err)
	}
	back, raw, err := wire.ReadMessage(conn, wire.ProtocolVersion, network)
	if err != nil {
		t.Fatalf("btcd reads %s: %v", msg.Command(), err)
	}
	if back.Command() != msg.Command() || !bytes.Equal(raw, payload.Bytes()) {
		t.Errorf("btcd received %s with %d bytes, want %s with %d", back.Command(), len(raw), msg.Command(), payload.Len())
	}
}
