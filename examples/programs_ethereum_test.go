//go:build unix

package examples_test

import (
	"path/filepath"
	"strconv"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

func TestEthereum(t *testing.T) {
	socket := "unix://" + filepath.Join(programs, "ethereum.ipc")
	addr, stop := startProgram(t, "ethereum", "-listen", socket, "-block", "1ms", "-head", "7")
	s, err := rpcx.Dial(t.Context(), addr, &rpcx.Options{Framer: rpcx.JSONFramer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	heads, err := rpcx.Subscribe[struct{ Number string }](t.Context(), s, rpcx.Subscription{
		Method: "eth_subscribe", Params: rpcx.Args{"newHeads"},
	})
	if err != nil {
		t.Fatal(err)
	}
	head, err := heads.Next(t.Context())
	number, _ := strconv.ParseUint(head.Number, 0, 64)
	if err != nil || number < 8 {
		t.Errorf("the first block is %q (%v)", head.Number, err)
	}
	stop()
}

// ethers calls the node and subscribes, through a restart of the node.
func TestInteropEthers(t *testing.T) {
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('ethers')")
	interoptest.Checks(t, "node", "ethers_client.js", filepath.Join(programs, "ethereum"), programs)
}

// viem does the same, and connects and subscribes again by itself.
func TestInteropViem(t *testing.T) {
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('viem')")
	interoptest.Checks(t, "node", "viem_client.js", filepath.Join(programs, "ethereum"))
}
