package migrating

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
)

// If the variable is set, the test program is a server of facts_server_test.go instead: of
// this library, or of rpcx for the library if the name is followed by "/rpcx".
const serverVariable = "RPCX_MIGRATING_SERVER"

func TestMain(m *testing.M) {
	if library := os.Getenv(serverVariable); library != "" {
		library, ours := strings.CutSuffix(library, "/rpcx")
		fmt.Fprintln(os.Stderr, serveFacts(library, ours))
		os.Exit(1)
	}
	code := leaktest.Run(m)
	if builtFolder != "" {
		os.RemoveAll(builtFolder)
	}
	os.Exit(code)
}

// What a server does instead of a reply.
const (
	nothing = "no reply"
	closes  = "the connection is closed"
	exits   = "the program ends"
)

// fact says what the servers of a library and of rpcx do with a message. The row is the
// first cell of the row in the library's table in docs/migrating.md.
type fact struct {
	library, row, send string
	before, after      string // a part of the reply, or one of the constants
}

const (
	twoMB    = "a message of 2 MB"
	notJSON  = "text that is not JSON"
	v2       = `{"jsonrpc":"2.0","id":1,"method":`
	internal = `"code":-32603,"message":"internal server error"`
	params   = `"code":-32602`
	tooLarge = `"code":-32600,"message":"message too large (over 1,000,000 bytes)"`
	invalid  = `"code":-32700,"message":"invalid JSON"`
	request  = `"code":-32600`
	secret   = "the password is 123"
	three    = `"result":3`
)

var long = `["` + strings.Repeat("x", 2_000_000) + `",2]}`

var facts = []fact{
	{"jrpc2", "a plain error of a handler", v2 + `"fail"}`, `{"code":-32098,"message":"the password is 123"}`, internal},
	{"jrpc2", "a panic in a handler", v2 + `"panic"}`, exits, internal},
	{"jrpc2", "an array for a struct", v2 + `"point","params":[1,2]}`, three, params},
	{"jrpc2", "a field that is missing", v2 + `"point","params":{"x":1}}`, `"result":1`, params},
	{"jrpc2", "a field that is unknown", v2 + `"point","params":{"x":1,"y":2,"z":3}}`, three, params},
	{"jrpc2", "a name in another case", v2 + `"point","params":{"X":1,"Y":2}}`, three, params},
	{"jrpc2", "a name twice", v2 + `"point","params":{"x":1,"y":7,"y":2}}`, three, params},
	{"jrpc2", "an unknown member of the message", v2 + `"sum","params":[1,2],"extra":1}`, `"extra fields in request"`, three},
	{"jrpc2", "a member of the message twice", `{"jsonrpc":"2.0","id":7,"id":1,"method":"sum","params":[1,2]}`, three, request},
	{"jrpc2", notJSON, "nonsense", `"code":-32700`, invalid},
	{"jrpc2", twoMB, v2 + `"sum","params":` + long, params, tooLarge},

	{"geth", "a plain error of a method", v2 + `"m_fail"}`, `{"code":-32000,"message":"the password is 123"}`, internal},
	{"geth", "a panic in a method", v2 + `"m_panic"}`, `{"code":-32603,"message":"method handler crashed"}`, internal},
	{"geth", "named params", v2 + `"m_sum","params":{"a":1,"b":2}}`, params, three},
	{"geth", "an argument too many", v2 + `"m_sum","params":[1,2,3]}`, params, params},
	{"geth", "an unknown field, or one in another case, in an argument", v2 + `"m_point","params":[{"X":1,"y":2,"z":3}]}`, three, three},
	{"geth", "an id that is null", `{"jsonrpc":"2.0","id":null,"method":"m_sum","params":[1,2]}`, three, nothing},
	{"geth", "a member of the message twice", `{"jsonrpc":"2.0","id":7,"id":1,"method":"m_sum","params":[1,2]}`, three, request},
	{"geth", notJSON, "nonsense", closes, invalid},
	{"geth", twoMB, v2 + `"m_sum","params":` + long, params, tooLarge},

	{"sourcegraph", "a plain error of a handler", v2 + `"fail"}`, `{"code":0,"message":"the password is 123"}`, internal},
	{"sourcegraph", "a panic in a handler", v2 + `"panic"}`, exits, internal},
	{"sourcegraph", "an argument too many", v2 + `"sum","params":[1,2,3]}`, three, params},
	{"sourcegraph", "an argument too few", v2 + `"sum","params":[3]}`, three, params},
	{"sourcegraph", `no "jsonrpc":"2.0"`, `{"id":1,"method":"sum","params":[1,2]}`, three, request},
	{"sourcegraph", "an id that is a fraction", `{"jsonrpc":"2.0","id":1.5,"method":"sum","params":[1,2]}`, closes, three},
	{"sourcegraph", "a batch", `[` + v2 + `"sum","params":[1,2]}]`, closes, `[{"jsonrpc":"2.0","result":3,"id":1}]`},
	{"sourcegraph", "a member of the message twice", `{"jsonrpc":"2.0","id":7,"id":1,"method":"sum","params":[1,2]}`, three, request},
	{"sourcegraph", notJSON, "nonsense", closes, invalid},
	{"sourcegraph", twoMB, v2 + `"sum","params":` + long, `"code":0`, tooLarge},

	{"netrpc", "a plain error of a method", `{"id":1,"method":"M.Fail","params":[0]}`, `"error":"the password is 123"`, internal},
	{"netrpc", "a panic in a method", `{"id":1,"method":"M.Panic","params":[0]}`, exits, internal},
	{"netrpc", "an unknown field, or one in another case, in the argument", `{"id":1,"method":"M.Point","params":[{"X":1,"y":2,"z":3}]}`, three, three},
	{"netrpc", "a second argument", `{"id":1,"method":"M.Sum","params":[[1,2],3]}`, three, params},
	{"netrpc", "an id that is null", `{"id":null,"method":"M.Sum","params":[[1,2]]}`, three, nothing},
	{"netrpc", "a member of the message in another case", `{"ID":1,"METHOD":"M.Sum","params":[[1,2]]}`, three, request},
	{"netrpc", "a member of the message twice", `{"id":7,"id":1,"method":"M.Sum","params":[[1,2]]}`, three, request},
	{"netrpc", notJSON, "nonsense", closes, invalid},
	{"netrpc", twoMB, `{"id":1,"method":"M.Sum","params":[` + strings.TrimSuffix(long, "}") + `]}`, `"error":"json: cannot unmarshal`, tooLarge},

	{"vscode", "an error of a handler", v2 + `"fail"}`, `{"code":-32603,"message":"Request fail failed with message: the password is 123"}`, internal},
	{"vscode", "an argument too many", v2 + `"sum","params":[1,2,3]}`, three, params},
	{"vscode", "an argument of another type", v2 + `"sum","params":["1",2]}`, `"result":"12"`, params},
	{"vscode", "a field that is missing", v2 + `"point","params":{"x":1}}`, `"result":null`, params},
	{"vscode", "a field that is unknown", v2 + `"point","params":{"x":1,"y":2,"z":3}}`, three, params},
	{"vscode", `no "jsonrpc":"2.0"`, `{"id":1,"method":"sum","params":[1,2]}`, three, request},
	{"vscode", "a batch", `[` + v2 + `"sum","params":[1,2]}]`, nothing, `[{"jsonrpc":"2.0","result":3,"id":1}]`},
	{"vscode", "a request without a method", `{"jsonrpc":"2.0","id":1}`, nothing, request},
	{"vscode", notJSON, "nonsense", nothing, invalid},
	{"vscode", twoMB, v2 + `"sum","params":` + long, `"result":"xxx`, tooLarge},

	{"aiorpcx", "a plain exception of a handler", v2 + `"fail"}`, internal, internal},
	{"aiorpcx", "an argument of another type", v2 + `"sum","params":["1",2]}`, internal, params},
	{"aiorpcx", "an unknown argument", v2 + `"point","params":{"x":1,"y":2,"z":3}}`, params, params},
	{"aiorpcx", "a name twice", v2 + `"point","params":{"x":1,"y":7,"y":2}}`, three, params},
	{"aiorpcx", "a member of the message twice", `{"jsonrpc":"2.0","id":7,"id":1,"method":"sum","params":[1,2]}`, three, request},
	{"aiorpcx", "a request without a method", `{"jsonrpc":"2.0","id":1}`, nothing, request},
	{"aiorpcx", notJSON, "nonsense", invalid, invalid},
	{"aiorpcx", twoMB, v2 + `"sum","params":` + long, nothing, tooLarge},
}

// TestInteropFacts sends the messages of facts to servers of the other libraries.
func TestInteropFacts(t *testing.T) { checkFacts(t, "") }

// TestFacts sends them to servers of rpcx.
func TestFacts(t *testing.T) { checkFacts(t, "/rpcx") }

func checkFacts(t *testing.T, suffix string) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			var server *factServer
			for _, f := range facts {
				if f.library != lib.name {
					continue
				}
				if server == nil {
					server = startFacts(t, lib, suffix)
				}
				want := f.before
				if suffix != "" {
					want = f.after
				}
				got := server.send(t, f.send, want)
				if !strings.Contains(got, want) {
					t.Errorf("%s: %.200q, want %q", f.row, got, want)
				}
				if want == exits {
					server = nil
				}
			}
		})
	}
}

// factServer is a running server.
type factServer struct {
	library string
	addr    string
	exited  chan struct{}
}

func startFacts(t *testing.T, lib library, suffix string) *factServer {
	t.Helper()
	args := []string{os.Args[0]}
	if suffix == "" && lib.before != nil {
		lib.need(t)
		args = []string{lib.before[0], map[string]string{"vscode": "testdata/facts.js", "aiorpcx": "testdata/facts.py"}[lib.name]}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), serverVariable+"="+lib.name+suffix, "NODE_PATH="+nodeModules)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewScanner(stdout)
	out.Scan()
	server := &factServer{library: lib.name, exited: make(chan struct{})}
	server.addr = strings.TrimPrefix(out.Text(), "listening on ")
	// Owner: the test. End: the program has ended.
	go func() {
		io.Copy(io.Discard, stdout)
		cmd.Wait()
		close(server.exited)
	}()
	t.Cleanup(func() {
		cancel()
		<-server.exited
	})
	return server
}

// send sends a message, and after the message calls whose replies show that there is no
// other reply to come. Send returns the reply, or what happened instead. If a reply is
// wanted, send waits for the reply.
func (server *factServer) send(t *testing.T, message, want string) string {
	t.Helper()
	conn, err := net.Dial("tcp", server.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := server.scanner(conn)
	conn.Write(server.frame(message))
	conn.Write(server.frame(server.lastCall()))
	reply, fences := "", 3
	for fences > 0 || reply == "" && want != nothing {
		if !in.Scan() {
			break
		}
		switch text := in.Text(); {
		case strings.Contains(text, `"last"`):
			if fences--; fences > 0 {
				conn.Write(server.frame(server.lastCall()))
			}
		case text != "":
			reply += text
		}
	}
	switch {
	case errors.Is(in.Err(), os.ErrDeadlineExceeded):
		return "no end: " + reply
	case fences > 0: // the connection has ended
		if server.alive() {
			return closes
		}
		return exits
	case reply == "":
		return nothing
	}
	return reply
}

// alive tells whether a new connection is served. If not, alive waits for the end of the
// program.
func (server *factServer) alive() bool {
	if conn, err := net.Dial("tcp", server.addr); err == nil {
		defer conn.Close()
		in := server.scanner(conn)
		conn.Write(server.frame(server.lastCall()))
		for in.Scan() {
			if strings.Contains(in.Text(), `"result":99`) {
				return true
			}
		}
	}
	<-server.exited
	return false
}

// scanner scans the messages of a server. No test waits longer than half a minute.
func (server *factServer) scanner(conn net.Conn) *bufio.Scanner {
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	in := bufio.NewScanner(conn)
	in.Buffer(nil, 8<<20)
	in.Split(server.framer().NewSplitter())
	return in
}

// framer is the framer of both sides. This side takes larger messages than the server.
func (server *factServer) framer() rpcx.Framer {
	if server.library == "vscode" {
		return rpcx.HeaderFramer{MaxSize: 4 << 20}
	}
	return rpcx.NewlineFramer{MaxSize: 4 << 20}
}

func (server *factServer) frame(message string) []byte {
	framed, err := server.framer().AppendFrame(nil, []byte(message))
	if err != nil {
		panic(err)
	}
	return framed
}

// lastCall returns a call that each server answers with 99.
func (server *factServer) lastCall() string {
	switch server.library {
	case "geth":
		return `{"jsonrpc":"2.0","id":"last","method":"m_sum","params":[90,9]}`
	case "netrpc":
		return `{"id":"last","method":"M.Sum","params":[[90,9]]}`
	}
	return `{"jsonrpc":"2.0","id":"last","method":"sum","params":[90,9]}`
}
