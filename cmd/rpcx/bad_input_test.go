package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInputThatIsNotUTF8(t *testing.T) {
	const want = "a byte that is not UTF-8"
	for _, args := range [][]string{
		{"call", "localhost:1", "m", "a\xff"},
		{"call", "localhost:1", "m", "\"a\xff\""},
		{"call", "localhost:1", "m", "n=\xff"},
		{"call", "localhost:1", "m\xff"},
		{"notify", "localhost:1", "m\xff"},
		{"bench", "localhost:1", "m\xff"},
		{"listen", "localhost:1", "--subscribe", "m\xff"},
	} {
		checkResult(t, rpcxRun(args...), exitUsage, "", want, "^")
	}
	checkResult(t, invocation{stdin: "m\xff 1\n", ctx: t.Context()}.run("batch", "localhost:1"), exitUsage, "", "line 1", want)
}

// remarks is endless lines of a batch.
type remarks struct{}

func (remarks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '#'
	}
	p[len(p)-1] = '\n'
	return len(p), nil
}

// Lines over the limit are not left out.
func TestBatchOfTooManyLines(t *testing.T) {
	lines := io.MultiReader(strings.NewReader("m\n"), remarks{})
	if _, err := readLines(&env{}, lines); err == nil || !strings.Contains(err.Error(), "more than 256 MiB; nothing was sent") {
		t.Errorf("got %v", err)
	}
}

func TestEndlessFiles(t *testing.T) {
	if _, err := os.Stat("/dev/zero"); err != nil {
		t.Skip(err)
	}
	for _, args := range [][]string{
		{"call", "http://localhost:1", "m", "--auth", "@/dev/zero"},
		{"call", "http://localhost:1", "m", "--header", "@/dev/zero"},
		{"call", "localhost:1", "m", "--proxy", "@/dev/zero"},
		{"call", "tls://localhost:1", "m", "--tls-ca", "/dev/zero"},
		{"call", "tls://localhost:1", "m", "--cert", "/dev/zero"},
		{"proxy", "tls://localhost:0", "localhost:1", "--listen-cert", "/dev/zero"},
	} {
		checkResult(t, rpcxRun(args...), exitUsage, "", "/dev/zero has more than 4 MiB")
	}
}

// Errors about a document's file say what the file is.
func TestFileIsNoDocument(t *testing.T) {
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	null, empty, other := file("null.json", "null"), file("empty.json", ""), file("other.json", `{"a":1}`)
	for _, command := range []string{"describe", "gen"} {
		checkResult(t, rpcxRun(command, null), exitUsage, "", "null.json is not an OpenRPC document")
		checkResult(t, rpcxRun(command, other), exitUsage, "", "other.json is not an OpenRPC document")
	}
	for _, command := range []string{"describe", "gen", "serve-mock"} {
		r := rpcxRun(command, empty)
		checkResult(t, r, exitUsage, "", "empty.json is empty")
		if strings.Contains(r.stderr, "params") {
			t.Errorf("%s: a document is not params: %s", command, r.stderr)
		}
	}
	checkResult(t, rpcxRun("serve-mock", null), exitUsage, "", "want an OpenRPC document")
}

// The names of methods in a file cannot make lines of their own.
func TestMockSummaryOfHostileNames(t *testing.T) {
	m := &mock{}
	if _, err := m.readFile(json.RawMessage(`{"a\nserving at evil": 1}`)); err != nil {
		t.Fatal(err)
	}
	if got := m.summary("x", "tcp://y"); strings.Count(got, "\n") != 2 {
		t.Errorf("got %q", got)
	}
}

func TestBadPorts(t *testing.T) {
	for _, addr := range []string{"localhost:99999", "localhost:-1", "tcp://localhost:80/x", "tls://localhost:1x", "http://localhost:99999/", "ws://localhost:65536"} {
		checkResult(t, rpcxRun("call", addr, "m"), exitUsage, "", "is no port; want a number up to 65535")
	}
}

func TestBenchOfHugeNumbers(t *testing.T) {
	for _, c := range [][2]string{
		{"-c 4294967296 -p 4294967296", "--connections 4294967296 times --in-flight 4294967296 is too much"},
		{"--batch 1000000000", "--batch 1000000000 with 50 batches in flight is too much"},
		{"-d 2562047h", "at most 8760h0m0s"},
		{"-d 1s --warm-up 2562047h", "at most 8760h0m0s"},
	} {
		args := append([]string{"bench", "localhost:1", "m"}, strings.Fields(c[0])...)
		checkResult(t, rpcxRun(args...), exitUsage, "", c[1])
	}
}
