package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/rpcx"
)

// The same call goes over each transport.
func TestCall(t *testing.T) {
	p := newPeer(t)
	for name, addr := range map[string]string{
		"TCP": p.tcp, "TCP with a scheme": "tcp://" + p.tcp, "unix": p.unix, "WebSocket": p.ws, "HTTP": p.http,
	} {
		t.Run(name, func(t *testing.T) {
			checkResult(t, rpcxRun("call", addr, "params", "a=1", "b=x", "-o", "compact"), exitOK, `{"a":1,"b":"x"}`+"\n")
			checkResult(t, rpcxRun("call", "-o=compact", addr, "params", "1", "x", "-2"), exitOK, `[1,"x",-2]`+"\n")
			checkResult(t, rpcxRun("call", addr, "params"), exitOK, "null\n")
			checkResult(t, rpcxRun("call", addr, "refuse"), exitPeer, "", `{"code":42,"message":"refused: naïve \u001b[31m","data":{"why":["tired"]}}`)
			checkResult(t, rpcxRun("call", addr, "nothing"), exitPeer, "", `"code":-32601`)
			checkResult(t, rpcxRun("call", addr, "hang", "--timeout", "20ms"), exitTimeout, "", "no reply within 20ms (--timeout)")
		})
	}
	t.Run("the connection ends", func(t *testing.T) {
		checkResult(t, rpcxRun("call", p.tcp, "hangup"), exitConnection, "", "connection lost")
	})
	t.Run("verbose", func(t *testing.T) {
		checkResult(t, rpcxRun("call", p.tcp, "params", "-v"), exitOK, "null\n", "connected to "+p.tcp)
		checkResult(t, rpcxRun("call", p.http, "params", "-v"), exitOK, "null\n", "posting to "+p.http)
	})
}

func TestNotify(t *testing.T) {
	p := newPeer(t)
	for name, addr := range map[string]string{"TCP": p.tcp, "WebSocket": p.ws, "HTTP": p.http} {
		t.Run(name, func(t *testing.T) {
			checkResult(t, rpcxRun("notify", addr, "note", "a=1"), exitOK, "")
			if method := <-p.received; method != "note" {
				t.Errorf("the peer received %s", method)
			}
		})
	}
}

func TestBatch(t *testing.T) {
	p := newPeer(t)
	const lines = "echo 1\n!note\nrefuse\n"
	const replies = `[{"line":1,"method":"echo","result":1},{"line":3,"method":"refuse","error":{"code":42,"message":"refused: naïve \u001b[31m","data":{"why":["tired"]}}}]` + "\n"
	for name, addr := range map[string]string{"TCP": p.tcp, "WebSocket": p.ws, "HTTP": p.http} {
		t.Run(name, func(t *testing.T) {
			r := invocation{stdin: lines}.run("batch", addr, "--output", "compact")
			checkResult(t, r, exitPeer, replies)
			if r.stderr != "" {
				t.Errorf("stderr %s", r.stderr)
			}
			r = invocation{stdin: "!note\n!note\n"}.run("batch", addr, "--output", "compact")
			checkResult(t, r, exitOK, "[]\n")
		})
	}
	t.Run("1.0 has no batches", func(t *testing.T) {
		r := invocation{stdin: lines}.run("batch", p.tcp, "--protocol", "1")
		checkResult(t, r, exitUsage, "", "--each sends each line as a message of its own")
	})
	t.Run("a timeout", func(t *testing.T) {
		r := invocation{stdin: "hang\n"}.run("batch", p.tcp, "--timeout", "20ms")
		checkResult(t, r, exitTimeout, "", "no reply within 20ms")
	})
	t.Run("each, and the connection ends", func(t *testing.T) {
		r := invocation{stdin: "echo 1\nhangup\necho 2\n"}.run("batch", p.tcp, "--each", "--jq", ".[].result", "-o", "compact")
		checkResult(t, r, exitConnection, "1\nnull\n", "line 2, hangup: connection lost")
	})
}

func TestListen(t *testing.T) {
	p := newPeer(t)
	for name, addr := range map[string]string{"TCP": p.tcp, "WebSocket": p.ws} {
		t.Run(name, func(t *testing.T) {
			r := rpcxRun("listen", addr, "--subscribe", "subscribe", "x", "3", "false", "--count", "2", "-o", "compact")
			checkResult(t, r, exitOK, `{"result":"subscribed to x"}
{"method":"news","params":{"n":1,"topic":"x"}}
{"method":"news","params":{"n":2,"topic":"x"}}
`)
		})
	}
	t.Run("a refused subscription", func(t *testing.T) {
		checkResult(t, rpcxRun("listen", p.tcp, "--subscribe", "refuse"), exitPeer, "", `"code":42`)
	})
	t.Run("a time", func(t *testing.T) {
		checkResult(t, rpcxRun("listen", p.tcp, "--for", "10ms"), exitOK, "")
	})
	t.Run("a slow subscription ends with the time", func(t *testing.T) {
		checkResult(t, rpcxRun("listen", p.tcp, "--for", "10ms", "--subscribe", "hang"), exitOK, "")
	})
	t.Run("the timeout of a subscription", func(t *testing.T) {
		checkResult(t, rpcxRun("listen", p.tcp, "--timeout", "20ms", "--subscribe", "hang"), exitTimeout, "", "no reply within 20ms")
	})
}

// A request of the peer is printed, and refused.
func TestListenRequest(t *testing.T) {
	answer := make(chan error, 1)
	router := rpcx.NewRouter()
	router.Handle("start", rpcx.Func(func(ctx context.Context, s *rpcx.Session) {
		rpcx.AfterReply(ctx, func(error) {
			go func() { // Owner: the test. End: the answer, or the end of s.
				answer <- s.Call(context.Background(), "roots/list", nil, nil)
				s.Close()
			}()
		})
	}))
	p := newPeer(t, func(o *rpcx.Options) { o.Handler = router })
	r := rpcxRun("listen", p.tcp, "--subscribe", "start", "-o", "compact")
	checkResult(t, r, exitOK, "{\"result\":null}\n{\"id\":0,\"method\":\"roots/list\"}\n")
	if err := <-answer; !errors.Is(err, rpcx.ErrMethodNotFound) {
		t.Errorf("the peer was answered %v", err)
	}
}

// brokenPipe is a stdout whose reader has gone after n writes.
type brokenPipe struct {
	mu sync.Mutex
	n  int
}

func (w *brokenPipe) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n < 0 {
		return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
	}
	return len(p), nil
}

func TestClosedOutput(t *testing.T) {
	p := newPeer(t)
	for name, args := range map[string][]string{
		"call":     {"call", p.tcp, "value"},
		"help":     {"--help"},
		"describe": {"describe", p.tcp},
		"listen":   {"listen", p.tcp, "--subscribe", "subscribe", "x", "1000", "false"},
	} {
		t.Run(name, func(t *testing.T) {
			r := invocation{stdout: &brokenPipe{}}.run(args...)
			if r.code != exitOK || r.stderr != "" {
				t.Errorf("exit code %d, stderr %s", r.code, r.stderr)
			}
		})
	}
	t.Run("a full disk is an error", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		checkResult(t, invocation{stdout: full}.run("call", p.tcp, "value"), exitConnection, "", "no space left")
	})
	t.Run("a process with a pipe", func(t *testing.T) {
		// More than a pipe holds, so that some write fails.
		cmd := process(t, "listen", p.tcp, "--subscribe", "subscribe", "x", "10000", "false", "-o", "compact")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pipe, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		pipe.Close()
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("%v, stderr %s", err, &stderr)
		}
	})
}

// Ctrl-C ends a call, tells the peer if asked to, and has the exit code of a shell.
func TestInterrupt(t *testing.T) {
	cancelled := make(chan error, 1)
	router := rpcx.NewRouter()
	router.Handle("hang", rpcx.Func(func(ctx context.Context) error {
		<-ctx.Done()
		cancelled <- context.Cause(ctx)
		return nil
	}))
	p := newPeer(t, func(o *rpcx.Options) { o.Handler, o.Cancellation = router, rpcx.LSPCancellation })
	for name, args := range map[string][]string{
		"call":   {"call", p.tcp, "hang", "--cancel", "lsp"},
		"batch":  {"batch", p.tcp, "@testdata/hang.txt", "--each", "--cancel", "lsp"},
		"listen": {"listen", p.tcp, "--subscribe", "hang", "--cancel", "lsp"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := process(t, args...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-p.received
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
				t.Errorf("%v, stderr %s", err, &stderr)
			}
			if err := <-cancelled; !errors.Is(err, rpcx.ErrPeerCancelled) {
				t.Errorf("the handler's context ended with %v", err)
			}
		})
	}
}

// Ctrl-C also ends the command while it reads stdin.
func TestInterruptWhileReading(t *testing.T) {
	for name, args := range map[string][]string{
		"params": {"call", "localhost:1", "x", "-"}, "lines": {"batch", "localhost:1"}, "a document": {"describe", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r, w := io.Pipe()
			defer w.Close()
			go func() { // Owner: the test. End: the command reads.
				w.Write([]byte(" "))
				cancel()
			}()
			if got := (invocation{ctx: ctx, input: r}).run(args...); got.code != exitInterrupted || got.stderr != "" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A peer that does not speak JSON-RPC, or not in this framing, is recognized.
func TestForeignPeer(t *testing.T) {
	const object = `{"jsonrpc":"2.0","id":0,"result":1}`
	for _, c := range []struct {
		name, args, input string
		stderr            []string
	}{
		{"HTTP", "", "HTTP/1.1 400 Bad Request\r\n\r\n", []string{"looks like HTTP", "Write http:// or ws://"}},
		{"headers", "", "Content-Length: 35\r\n\r\n" + object, []string{"with headers", "Try --framing lsp."}},
		{"lengths", "", "\x00\x00\x00\x23" + object, []string{"with their lengths", "Try --framing length."}},
		{"values", "", object + object, []string{"JSON without newlines", "Try --framing json."}},
		{"values, with headers expected", "--framing lsp", object, []string{"Try --framing line or json."}},
		{"values, with lengths expected", "--framing length", object, []string{"Try --framing line or json."}},
		{"headers, with lengths expected", "--framing length", "Content-Length: 35\r\n\r\n", []string{"Try --framing lsp."}},
		{"an alert of TLS", "", "\x15\x03\x01\x00\x02\x02\x16", []string{"TLS alert", "Try --tls"}},
		{"SSH", "", "SSH-2.0-OpenSSH_9.2p1\r\n", []string{"looks like SSH", "not of a JSON-RPC server"}},
		{"SMTP", "", "220 mail.example ESMTP\r\n", []string{"220 mail.example", "not of a JSON-RPC server"}},
		{"no TLS", "--tls --insecure", "HTTP/1.1 400 Bad Request\r\n\r\n", []string{"The peer does not use TLS", "warning: --insecure"}},
		{"no HTTP", "--framing http", object + "\n", []string{"The peer speaks JSON without HTTP: try tcp://."}},
		{"headers, and no HTTP", "--framing http", "Content-Length: 35\r\n\r\n" + object, []string{"--framing lsp"}},
		{"TLS, and no HTTP", "--framing http", "\x15\x03\x01\x00\x02\x02\x16", []string{"try https:// or wss://"}},
		{"no WebSocket", "--framing ws", object + "\n", []string{"The peer speaks JSON without HTTP: try tcp://."}},
		{"nothing", "", "", []string{"connection lost"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := listenTCP(t)
			defer l.Close()
			var serving sync.WaitGroup
			defer serving.Wait()
			serving.Go(func() { // one connection for each attempt
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					readRequest(conn)
					io.WriteString(conn, c.input)
					conn.(*net.TCPConn).CloseWrite()
					io.Copy(io.Discard, conn)
					conn.Close()
				}
			})
			args := append([]string{"call", l.Addr().String(), "x"}, strings.Fields(c.args)...)
			r := rpcxRun(args...)
			l.Close()
			checkResult(t, r, exitConnection, "", c.stderr...)
		})
	}
	t.Run("a program that ends", func(t *testing.T) {
		r := rpcxRun("call", "stdio:sh -c 'exit 3'", "x")
		checkResult(t, r, exitConnection, "", "exit status 3")
		if strings.Contains(r.stderr, "--tls") {
			t.Errorf("a program is no question of TLS: %q", r.stderr)
		}
	})
	t.Run("HTTP for WebSockets", func(t *testing.T) {
		p := newPeer(t)
		checkResult(t, rpcxRun("call", strings.Replace(p.ws, "ws:", "http:", 1), "x"), exitConnection, "", "write ws:// in place of http://")
		checkResult(t, rpcxRun("call", strings.Replace(p.http, "http:", "ws:", 1), "x"), exitConnection, "", "Write http:// in place of ws://")
	})
	t.Run("a silent peer", func(t *testing.T) {
		l := listenTCP(t) // the kernel accepts
		defer l.Close()
		checkResult(t, rpcxRun("call", l.Addr().String(), "x", "--timeout", "20ms"), exitTimeout, "",
			"no reply within 20ms (--timeout)", "Nothing came from the peer. Is the method slow? Does the peer speak JSON-RPC with --framing line?")
		checkResult(t, rpcxRun("call", l.Addr().String(), "x", "--timeout", "20ms", "--protocol", "aiomas"), exitTimeout, "",
			"Does the peer speak aiomas?")
	})
}

// readRequest reads until the request of the command has come as a whole. A hello of TLS,
// and the handshake of a WebSocket, have no method.
func readRequest(conn net.Conn) {
	var got []byte
	for chunk := make([]byte, 4096); ; {
		n, err := conn.Read(chunk)
		got = append(got, chunk[:n]...)
		if err != nil || bytes.Contains(got, []byte(`"x"`)) || bytes.HasPrefix(got, []byte("GET ")) || got[0] == 0x16 {
			return
		}
	}
}

// A message over --max-size says so.
func TestMaxSize(t *testing.T) {
	p := newPeer(t)
	long := strings.Repeat("x", 2000)
	checkResult(t, rpcxRun("call", p.tcp, "echo", long, "--max-size", "1KiB"), exitConnection, "", "--max-size SIZE allows larger messages")
	checkResult(t, rpcxRun("call", p.tcp, "value", "--max-size", "100"), exitConnection, "", "--max-size SIZE allows larger messages")
	checkResult(t, rpcxRun("call", p.http, "value", "--max-size", "100"), exitConnection, "", "--max-size SIZE allows larger messages")
	checkResult(t, rpcxRun("call", p.tcp, "echo", long, "--max-size", "0", "-o", "raw"), exitOK, long+"\n")
}
