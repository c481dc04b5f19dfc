// Package migrating has the programs of docs/migrating.md: one small task, with other
// libraries (before) and with rpcx (after). The tests compare the programs with the
// document, and run each client with each server.
package migrating

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx/internal/interoptest"
)

// library is a library, and what its programs print.
type library struct {
	name, title string
	// before is the command before the arguments; nil for a program in Go.
	before []string
	// need looks for the library, and skips the test if it is missing.
	need func(t *testing.T)
	// unix tells that addresses are paths of sockets. Otherwise they are a host and a port,
	// as two arguments if split is set.
	unix, split bool
	want        []string // of the client
	wantServer  []string // of the server, after its address
}

var (
	answers = []string{"sum: 42", `divide: 1, division by zero, {"dividend":1}`, "greet: hello, gopher"}
	logged  = []string{"log: it rains"}
)

var libraries = []library{
	{name: "jrpc2", title: "jrpc2", want: answers, wantServer: logged},
	{
		name: "geth", title: "go-ethereum/rpc", unix: true, wantServer: logged,
		want: []string{answers[0], "divide: 1, division by zero, map[dividend:1]", answers[2]},
	},
	{name: "sourcegraph", title: "sourcegraph/jsonrpc2", want: answers, wantServer: logged},
	{name: "netrpc", title: "net/rpc/jsonrpc", want: []string{answers[0], "divide: division by zero"}},
	{
		name: "vscode", title: "vscode-jsonrpc", split: true, want: answers, wantServer: logged,
		before: []string{"node", "before/vscode/main.js"},
		need: func(t *testing.T) {
			interoptest.Program(t, "install Node.js", "node")
			if _, err := os.Stat(filepath.Join(nodeModules, "vscode-jsonrpc")); err != nil {
				interoptest.Missing(t, err, "npm ci in testdata/interop")
			}
		},
	},
	{
		name: "aiorpcx", title: "aiorpcX", split: true, wantServer: logged,
		want:   []string{answers[0], "divide: 1, division by zero", answers[2]},
		before: []string{interoptest.Python, "before/aiorpcx/main.py"},
		need:   func(t *testing.T) { needPython(t, "aiorpcx") },
	},
	{
		name: "aiomas", title: "aiomas.rpc", split: true,
		want:   []string{answers[0], "divide: division by zero", answers[2]},
		before: []string{interoptest.Python, "before/aiomas/main.py"},
	},
}

var nodeModules = must(filepath.Abs("../../../testdata/interop/node_modules"))

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func needPython(t *testing.T, module string) {
	python := interoptest.Program(t, "install Debian's python3", interoptest.Python)
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import "+module).CombinedOutput(); err != nil {
		interoptest.Missing(t, err, "install Debian's python3-"+module+": "+string(out))
	}
}

// builtFolder is the folder of build, to be removed at the end.
var builtFolder string

// build compiles the programs in Go once, and returns the folder that has them.
var build = sync.OnceValues(func() (folder string, err error) {
	folder, err = os.MkdirTemp("", "rpcx-migrating")
	builtFolder = folder
	for _, side := range []string{"before", "after"} {
		if err != nil {
			break
		}
		// One command for both would mix programs of one name.
		var out []byte
		out, err = exec.Command("go", "build", "-o", filepath.Join(folder, side)+"/", "./"+side+"/...").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	return folder, err
})

// program is the command of one side.
type program struct {
	args []string
	lib  *library
}

// afterProgram returns the program with rpcx.
func (lib *library) afterProgram(t *testing.T) program { return lib.built(t, "after") }

// beforeProgram returns the program with the library.
func (lib *library) beforeProgram(t *testing.T) program {
	t.Helper()
	if lib.before == nil {
		return lib.built(t, "before")
	}
	lib.need(t)
	return program{lib.before, lib}
}

func (lib *library) built(t *testing.T, side string) program {
	t.Helper()
	folder, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return program{[]string{filepath.Join(folder, side, lib.name)}, lib}
}

// command returns the command for a role and an address.
func (p program) command(ctx context.Context, role, addr string) *exec.Cmd {
	args := append(slices.Clone(p.args), role)
	if host, port, ok := strings.Cut(addr, ":"); ok && p.lib.split {
		args = append(args, host, port)
	} else {
		args = append(args, addr)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "NODE_PATH="+nodeModules)
	return cmd
}

// serve starts a server, and returns its address and its further output.
func (p program) serve(t *testing.T) (addr string, out *bufio.Scanner) {
	t.Helper()
	addr = "127.0.0.1:0"
	if p.lib.unix {
		folder, err := os.MkdirTemp("", "rpcx") // the path of a socket must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(folder) })
		addr = filepath.Join(folder, "socket")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := p.command(ctx, "serve", addr)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := new(strings.Builder)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		io.Copy(io.Discard, stdout)
		cmd.Wait()
		if t.Failed() {
			t.Logf("stderr of the server:\n%s", stderr)
		}
	})
	out = bufio.NewScanner(stdout)
	out.Scan()
	addr, ok := strings.CutPrefix(out.Text(), "listening on ")
	if !ok {
		t.Fatalf("the server printed %q", out.Text())
	}
	return addr, out
}

// checkPair runs a client with a server, and compares what they print.
func checkPair(t *testing.T, client, server program, want []string) {
	t.Helper()
	addr, out := server.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := client.command(ctx, "call", addr).CombinedOutput()
	if err != nil {
		t.Errorf("the client: %v", err)
	}
	if lines := strings.Split(strings.TrimSpace(string(got)), "\n"); !slices.Equal(lines, want) {
		t.Errorf("the client printed\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	for _, line := range server.lib.wantServer {
		if !out.Scan() || out.Text() != line {
			t.Errorf("the server printed %q, want %q", out.Text(), line)
		}
	}
}

// TestAfter runs the programs with rpcx.
func TestAfter(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			after := lib.afterProgram(t)
			checkPair(t, after, after, lib.want)
		})
	}
}

// TestInteropBefore runs the programs with the other libraries: alone, and with a program
// with rpcx at the other end.
func TestInteropBefore(t *testing.T) {
	for _, lib := range libraries {
		if lib.name == "aiomas" {
			continue // no package of Debian has it: see TestInteropAiomasParses
		}
		t.Run(lib.name, func(t *testing.T) {
			before, after := lib.beforeProgram(t), lib.afterProgram(t)
			t.Run("alone", func(t *testing.T) { checkPair(t, before, before, lib.want) })
			t.Run("our client", func(t *testing.T) { checkPair(t, after, before, lib.want) })
			t.Run("our server", func(t *testing.T) { checkPair(t, before, after, lib.want) })
		})
	}
}

// TestInteropAiomasParses parses the program that is not run.
func TestInteropAiomasParses(t *testing.T) {
	python := interoptest.Program(t, "install Debian's python3", interoptest.Python)
	source := `import ast, sys; ast.parse(open(sys.argv[1]).read())`
	if out, err := exec.CommandContext(t.Context(), python, "-c", source, "before/aiomas/main.py").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
