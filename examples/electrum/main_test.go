package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
)

// TestMain fails the run if a goroutine is left behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

func TestCommands(t *testing.T) {
	s := newTestServer(t)
	var out bytes.Buffer
	s.runCommands(strings.NewReader(`info

mine 2
pay bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 150000000
mine 1
reorg 3
pay nobody 5000
pay bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 5
pay bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 x
pay bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 500000000000
mine 0
mine x
mine
reorg 5000
dance
`), &out)
	want := []string{
		"height 110, tip ", "mined 2, height 112, tip ", "paid 150000000, transaction ", "mined 1, height 113, tip ",
		"reorganised 3, height 114, tip ", "error: ", "error: pay from ", `error: "x" is not`, "error: not enough coins", `error: "0" is not`,
		`error: "x" is not`, "error: unknown command", "error: reorganise from 1 to 113 blocks", "error: unknown command",
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("printed\n%s", &out)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, want[i]) {
			t.Errorf("line %d is %q, want %q", i+1, line, want[i])
		}
	}
	if !strings.HasSuffix(lines[4], ", 1 transactions wait") {
		t.Errorf("after the reorganisation: %s", lines[4])
	}
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// The program serves TCP and TLS until its context ends, and has the same chain and the
// same certificate after a restart.
func TestProgram(t *testing.T) {
	dir := t.TempDir()
	args := []string{"server", "-state", filepath.Join(dir, "state"), "-cert", filepath.Join(dir, "cert"), "-key", filepath.Join(dir, "key"),
		"-listen", "tcp://127.0.0.1:0", "-listen", "tls://127.0.0.1:0"}
	var tips []string
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		in, commands := io.Pipe()
		printed, out := io.Pipe()
		ended := make(chan error, 1)
		// Owner: the test. End: the end of ctx.
		go func() { ended <- run(ctx, args, in, out) }()
		lines := bufio.NewScanner(printed)
		var addrs []string
		for range 2 {
			lines.Scan()
			addr, ok := strings.CutPrefix(lines.Text(), "listening on ")
			if !ok {
				t.Fatalf("printed %q", lines.Text())
			}
			addrs = append(addrs, addr)
		}
		for _, addr := range addrs {
			cert, err := os.ReadFile(filepath.Join(dir, "cert"))
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(cert)
			d := rpcx.Dialer{TLS: &tls.Config{RootCAs: roots}}
			client, err := d.Dial(t.Context(), addr, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Call(t.Context(), "server.version", nil, nil); err != nil {
				t.Error(err)
			}
			tips = append(tips, call(t, client, "blockchain.block.header", firstBlocks))
			hosts := call(t, client, "server.features")
			if !strings.Contains(hosts, `"127.0.0.1":{"tcp_port":`) || !strings.Contains(hosts, `"ssl_port":`) {
				t.Errorf("the features are %s", hosts)
			}
			client.Close()
			<-client.Done()
		}
		fmt.Fprintln(commands, "info")
		if lines.Scan(); !strings.HasPrefix(lines.Text(), "height 110, ") {
			t.Errorf("printed %q", lines.Text())
		}
		commands.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}
	for _, tip := range tips {
		if tip != tips[0] {
			t.Errorf("the tips are %q", tips)
		}
	}
	for name, args := range map[string][]string{
		"no subcommand":         {},
		"another subcommand":    {"miner"},
		"a wrong address":       {"server", "-listen", "127.0.0.1:0"},
		"another scheme":        {"server", "-listen", "tcp://127.0.0.1:0", "-listen", "udp://127.0.0.1:0"},
		"a key without its end": {"server", "-listen", "tls://127.0.0.1:0", "-key", "key"},
		"no folder":             {"server", "-state", filepath.Join(dir, "no", "state")},
	} {
		if err := run(t.Context(), args, strings.NewReader(""), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
