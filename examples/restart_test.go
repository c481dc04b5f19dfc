//go:build unix

package examples_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

// family is the example restart with its successors, which share their output.
type family struct {
	cmd    *exec.Cmd
	addr   string
	stdout *bufio.Reader
	stderr *bufio.Reader
}

// startFamily starts the program, a copy of the example restart or what starts one.
func startFamily(t *testing.T, cmd *exec.Cmd) *family {
	t.Helper()
	pipe := func(w *io.Writer) *bufio.Reader { // unlike those of exec, they outlive cmd
		r, file, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		*w = file
		t.Cleanup(func() { r.Close() })
		return bufio.NewReader(r)
	}
	f := &family{cmd: cmd}
	f.stdout, f.stderr = pipe(&cmd.Stdout), pipe(&cmd.Stderr)
	err := cmd.Start()
	cmd.Stdout.(*os.File).Close()
	cmd.Stderr.(*os.File).Close()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// awaitLine reads lines until one has the text, and returns it.
func awaitLine(t *testing.T, r *bufio.Reader, text string) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if strings.Contains(line, text) {
			return strings.TrimSpace(line)
		}
		if err != nil {
			t.Fatalf("wait for %q: %v", text, err)
		}
	}
}

// awaitAddr reads the address at which the program says that it listens.
func (f *family) awaitAddr(t *testing.T) {
	t.Helper()
	f.addr = strings.TrimPrefix(awaitLine(t, f.stdout, "listening on "), "listening on ")
}

// stop ends the process pid of the family, which is the last one, and waits for its end.
func (f *family) stop(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, f.stdout); err != nil { // until nobody has it open
		t.Error(err)
	}
}

// callers is a number of clients that call on and on.
type callers struct {
	mu   sync.Mutex
	cond *sync.Cond
	pids []int // the result of the last call of each client
	err  error // of a call
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func startCallers(t *testing.T, n int, addr string) *callers {
	ctx, cancel := context.WithCancel(t.Context())
	c := &callers{pids: make([]int, n), stop: cancel}
	c.cond = sync.NewCond(&c.mu)
	for i := range n {
		client := rpcx.NewClient(&rpcx.ClientOptions{
			Addrs:      []string{addr},
			Idempotent: func(method string) bool { return method == "pid" },
		})
		// Owner: the test. End: c.stop.
		c.wg.Go(func() {
			defer client.Close()
			for ctx.Err() == nil {
				pid, err := rpcx.Call[int](ctx, client, "pid", nil)
				c.mu.Lock()
				c.pids[i] = pid
				if err != nil && ctx.Err() == nil {
					c.err = err
				}
				c.cond.Broadcast()
				c.mu.Unlock()
			}
		})
	}
	return c
}

// await waits until the results of all clients are ok, and equal, and returns the result.
func (c *callers) await(t *testing.T, ok func(pid int) bool) int {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.err != nil {
			t.Fatal(c.err)
		}
		first := c.pids[0]
		if ok(first) && !slices.ContainsFunc(c.pids, func(pid int) bool { return pid != first }) {
			return first
		}
		c.cond.Wait()
	}
}

// A successor takes the listener over, the old process drains, and clients lose no call.
func TestRestart(t *testing.T) {
	for name, addr := range map[string]string{
		"tcp":  "tcp://127.0.0.1:0",
		"unix": "unix://" + filepath.Join(programs, "restart.sock"),
	} {
		t.Run(name, func(t *testing.T) {
			f := startFamily(t, command(t, "restart", "-listen", addr, "-spread", "200ms"))
			f.awaitAddr(t)
			c := startCallers(t, 5, f.addr)
			defer c.wg.Wait()
			defer c.stop()
			first := f.cmd.Process.Pid
			c.await(t, func(pid int) bool { return pid == first })

			if err := f.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			if err := f.cmd.Wait(); err != nil {
				t.Errorf("the old process ended with %v", err)
			}
			second := c.await(t, func(pid int) bool { return pid != first && pid > 0 })
			c.stop()
			c.wg.Wait()
			f.stop(t, second)
		})
	}
}

// If the new program is broken, the old one goes on.
func TestRestartOfABrokenProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "restart")
	build := func(old string) {
		t.Helper()
		if err := os.Rename(old, path); err != nil { // a running program cannot be overwritten
			t.Fatal(err)
		}
	}
	original, err := os.ReadFile(filepath.Join(programs, "restart"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"good": original, "bad": []byte("#!/bin/sh\nexit 7\n")} {
		if err := os.WriteFile(path+name, content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	build(path + "good")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	f := startFamily(t, exec.CommandContext(ctx, path, "-listen", "tcp://127.0.0.1:0", "-spread", "0s"))
	f.awaitAddr(t)
	build(path + "bad")
	if err := f.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if line := awaitLine(t, f.stderr, "the old process goes on"); !strings.Contains(line, "exit status 7") {
		t.Errorf("the log says %q, want exit status 7", line)
	}
	s, err := rpcx.Dial(t.Context(), f.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := rpcx.Call[int](t.Context(), s, "pid", nil); err != nil || pid != f.cmd.Process.Pid {
		t.Errorf("process %d has answered, want %d: %v", pid, f.cmd.Process.Pid, err)
	}
	s.Close()
	f.stop(t, f.cmd.Process.Pid)
	if err := f.cmd.Wait(); err != nil {
		t.Errorf("the process ended with %v", err)
	}
}

// systemd listens, and starts the program at the first connection.
func TestInteropSocketActivation(t *testing.T) {
	program := interoptest.Program(t, "apt-get install systemd", "systemd-socket-activate")
	port := 20_000 + os.Getpid()%40_000
	for name, listen := range map[string]string{ // how systemd has the address, which must be known beforehand
		"tcp":  fmt.Sprintf("127.%d.%d.1:%d", 1+os.Getpid()%250, 1+os.Getppid()%250, port),
		"unix": filepath.Join(programs, "activated.sock"),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "tcp" && runtime.GOOS != "linux" {
				t.Skip("only Linux has all of 127.0.0.0/8")
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, program, "-l", listen, filepath.Join(programs, "restart"), "-spread", "0s")
			cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=info")
			f := startFamily(t, cmd)
			awaitLine(t, f.stderr, "Listening on ")
			c := startCallers(t, 3, name+"://"+listen)
			defer c.wg.Wait()
			defer c.stop()
			f.awaitAddr(t)
			c.await(t, func(pid int) bool { return pid == cmd.Process.Pid }) // execve keeps the number
			if want := name + "://" + listen; f.addr != want {
				t.Errorf("the program listens on %s, want %s", f.addr, want)
			}

			// The program knows how to hand on what systemd has given.
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			second := c.await(t, func(pid int) bool { return pid != cmd.Process.Pid && pid > 0 })
			if err := cmd.Wait(); err != nil {
				t.Errorf("the program ended with %v", err)
			}
			c.stop()
			c.wg.Wait()
			f.stop(t, second)
		})
	}
}

// systemd finds nothing wrong with the units.
func TestInteropUnits(t *testing.T) {
	program := interoptest.Program(t, "apt-get install systemd", "systemd-analyze")
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range []string{"rpc.socket", "rpc.service"} {
		text, err := os.ReadFile(filepath.Join("restart", name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		unit := strings.ReplaceAll(string(text), "/usr/local/bin", programs)
		if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}
