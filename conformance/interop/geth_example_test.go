package interop

import (
	"bufio"
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ethereum/go-ethereum/rpc"
)

// startExample starts the node of examples/ethereum at an address, with blocks up to head.
// It returns the address at which the node listens, and what stops the node.
func startExample(t *testing.T, program, listen string, head uint64) (addr string, stop func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "-listen", listen, "-block", "1ms", "-head", strconv.FormatUint(head, 10))
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the node printed %q (%v)", line, err)
	}
	return addr, func() {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the node ended with %v", err)
		}
	}
}

// exampleHead is a block, as much of it as the test needs.
type exampleHead struct{ Number, Hash, ParentHash string }

// exampleLog is a log.
type exampleLog struct{ Address, BlockNumber, BlockHash string }

// A client of go-ethereum calls and subscribes to the example, which then ends and begins
// again. The client connects again at its next call; its subscriptions have ended.
func TestGethUsesTheExample(t *testing.T) {
	program := filepath.Join(t.TempDir(), "ethereum")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "example.com/rpcx/examples/ethereum").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, listen := range map[string]string{"IPC": "unix://" + socketPath(t), "WebSocket": "ws://127.0.0.1:0"} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			addr, stop := startExample(t, program, listen, 10)
			client, err := rpc.DialContext(ctx, strings.TrimPrefix(addr, "unix://"))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			head, sub := readExample(t, ctx, client)
			if head <= 10 {
				t.Errorf("a subscriber was told of block %d, though there was block 10", head)
			}

			stop()
			select {
			case err := <-sub.Err():
				if err == nil {
					t.Error("a subscription ended with the node, and with no error")
				}
			case <-ctx.Done():
				t.Error("a subscription goes on without the node")
			}
			_, stop = startExample(t, program, addr, head+1000)
			defer stop()
			again, _ := readExample(t, ctx, client)
			if again <= head+1000 {
				t.Errorf("block %d, after block %d and a restart", again, head)
			}
		})
	}
}

// readExample makes calls, a batch and subscriptions. It returns the number of the last
// block that the client was told of, and one of the subscriptions.
func readExample(t *testing.T, ctx context.Context, client *rpc.Client) (uint64, *rpc.ClientSubscription) {
	t.Helper()
	var chain, version string
	err := client.CallContext(ctx, &chain, "eth_chainId")
	want(t, "eth_chainId", chain, err, "0x539")
	first := exampleHead{}
	batch := []rpc.BatchElem{
		{Method: "net_version", Result: &version},
		{Method: "eth_getBlockByNumber", Args: []any{"0x1", false}, Result: &first},
		{Method: "eth_nothing"},
	}
	err = client.BatchCallContext(ctx, batch)
	want(t, "a batch", []string{version, first.Number}, err, []string{"1337", "0x1"})
	if refused, ok := batch[2].Error.(rpc.Error); !ok || refused.ErrorCode() != -32601 {
		t.Errorf("eth_nothing: %v", batch[2].Error)
	}

	heads, logs := make(chan exampleHead), make(chan exampleLog)
	headSub, err := client.EthSubscribe(ctx, heads, "newHeads")
	if err != nil {
		t.Fatal(err)
	}
	logSub, err := client.EthSubscribe(ctx, logs, "logs", map[string]any{"address": "0x" + strings.Repeat("70", 20)})
	if err != nil {
		t.Fatal(err)
	}
	var last exampleHead
	for i := range 50 {
		select {
		case head := <-heads:
			if i > 0 && head.ParentHash != last.Hash {
				t.Errorf("block %s is no child of block %s", head.Number, last.Number)
			}
			last = head
		case <-ctx.Done():
			t.Fatalf("%d blocks came", i)
		}
	}
	headSub.Unsubscribe()
	var numbers []uint64
	for range 50 {
		select {
		case log := <-logs:
			numbers = append(numbers, number(t, log.BlockNumber))
		case <-ctx.Done():
			t.Fatalf("%d logs came", len(numbers))
		}
	}
	if !slices.IsSorted(numbers) || numbers[49] != numbers[0]+49 {
		t.Errorf("the logs are of the blocks %d", numbers)
	}
	return number(t, last.Number), logSub
}

// number returns the number that a quantity is.
func number(t *testing.T, quantity string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(quantity, 0, 64)
	if err != nil {
		t.Error(err)
	}
	return n
}
