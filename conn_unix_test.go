//go:build unix

package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
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
)

func init() {
	// daemonized is survived by a process that leaves its group, and has its output.
	programs["daemonized"] = func() {
		cmd := again("stubborn")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Fprintf(os.Stdout, `{"jsonrpc":"2.0","method":"pid","params":[%d]}`+"\n", cmd.Process.Pid)
	}
	// Of forsaken's group a process is left that has ended, and whose parent, which
	// is in another group, takes no notice.
	programs["forsaken"] = func() {
		cmd := again("careless")
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", groupVariable, os.Getpid()))
		cmd.ExtraFiles = []*os.File{os.NewFile(3, "ready"), os.NewFile(4, "over")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	programs["careless"] = func() {
		cmd := again("broken")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if _, err := fmt.Sscan(os.Getenv(groupVariable), &cmd.SysProcAttr.Pgid); err != nil {
			panic(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			panic(err)
		}
		cmd.ExtraFiles = []*os.File{w}
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		w.Close()
		_, _ = io.Copy(io.Discard, r) // until the other has ended
		ready()
		_, _ = io.Copy(io.Discard, os.NewFile(4, "over")) // until the test has
	}
}

// groupVariable has the group that careless starts a process in.
const groupVariable = "RPCX_TEST_GROUP"

// again returns the command by which one of programs starts another.
func again(name string) *exec.Cmd {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), programVariable+"="+name)
	return cmd
}

// shell returns the command that has sh run a script in which $0 is one of programs.
func shell(t *testing.T, script, name string) *exec.Cmd {
	t.Helper()
	server := program(t, name)
	cmd := exec.Command("sh", "-c", script, server.Path)
	cmd.Env = server.Env
	return cmd
}

// A wrapper leaves nothing behind, whichever of the two ends first and by what.
func TestCommandEndsWhatAWrapperHasStarted(t *testing.T) {
	for _, c := range []struct {
		name, script string
		servers      int
	}{
		{"in the background", `"$0" & wait`, 1},
		{"in the background, with its input", `"$0" <&0 & wait`, 1},
		{"in the foreground", `"$0"; true`, 1},
		{"in a pipeline", `cat | "$0" | cat`, 1},
		{"twice", `"$0" & "$0" & wait`, 2},
		{"by a wrapper of its own", `sh -c '"$0" & wait' "$0" & wait`, 1},
		{"and the wrapper ends with its input", `"$0" & cat >&2`, 1},
		{"and the wrapper ends at once", `"$0" <&0 &`, 1},
		{"and the wrapper does not end by SIGTERM", `trap "" TERM; "$0" & wait; exec "$0"`, 1},
	} {
		for _, server := range []string{"stubborn", "deaf"} {
			t.Run(c.name+"/"+server, func(t *testing.T) {
				noLeak(t)
				var log journal
				opts := log.options()
				opts.Limits.ExitTimeout, opts.Limits.KillTimeout = time.Millisecond, 50*time.Millisecond
				cmd := shell(t, c.script, server)
				r := tellReady(t, cmd)
				s, err := rpcx.Command(t.Context(), cmd, opts)
				if err != nil {
					t.Fatal(err)
				}
				awaitReady(t, cmd, r, c.servers)
				s.Close()
				<-s.Done()
				nothingLeft(t, r)
				if cmd.ProcessState == nil || !strings.Contains(log.String(), "is terminated") {
					t.Errorf("the wrapper is in the state %v, and the log says\n%s", cmd.ProcessState, log.String())
				}
			})
		}
	}
}

// What has left the group is a daemon: it goes on, and does not hold the session up
// though it has the output and the standard error.
func TestCommandLeavesDaemonsAlone(t *testing.T) {
	noLeak(t)
	var log journal
	opts := log.options()
	pids := make(chan int, 1)
	opts.Handler = rpcx.Func(func(pid int) { pids <- pid })
	cmd := program(t, "daemonized")
	cmd.WaitDelay = 250 * time.Millisecond // in which what it said is read
	s, err := rpcx.Command(t.Context(), cmd, opts)
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if !errors.Is(s.Err(), io.EOF) || !cmd.ProcessState.Success() || strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the session ended with %v, the program is in the state %v, and the log says\n%s", s.Err(), cmd.ProcessState, log.String())
	}
	if err := syscall.Kill(<-pids, syscall.SIGKILL); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
}

// A process of the group that has ended, and whose parent takes no notice, is not
// waited for.
func TestCommandDoesNotWaitForTheDead(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells them apart")
	}
	noLeak(t)
	var log journal
	opts := log.options()
	opts.Limits.ExitTimeout = 20 * time.Second
	cmd := program(t, "forsaken")
	r := tellReady(t, cmd)
	over, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	defer w.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, over)
	s, err := rpcx.Command(t.Context(), cmd, opts)
	if err != nil {
		t.Fatal(err)
	}
	awaitReady(t, cmd, r, 1)
	group := cmd.Process.Pid
	s.Close()
	<-s.Done()
	if log.String() != "" || !cmd.ProcessState.Success() {
		t.Errorf("the program is in the state %v, and the log says\n%s", cmd.ProcessState, log.String())
	}
	if err := syscall.Kill(-group, 0); err != nil {
		t.Errorf("the group is empty: %v", err)
	}
	w.Close()
	nothingLeft(t, r)
}

func TestCommandsProcessGroup(t *testing.T) {
	own, err := syscall.Getpgid(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		attr *syscall.SysProcAttr
		own  bool // the program is in the group of this one
	}{
		{"its own by default", nil, false},
		{"this program's if the attributes say nothing", &syscall.SysProcAttr{}, true},
		{"its own if the attributes say so", &syscall.SysProcAttr{Setpgid: true}, false},
		{"its own in a session of its own", &syscall.SysProcAttr{Setsid: true}, false},
		{"this program's if the attributes name it", &syscall.SysProcAttr{Setpgid: true, Pgid: own}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			opts := &rpcx.Options{Limits: rpcx.Limits{ExitTimeout: time.Millisecond}}
			cmd := program(t, "stubborn")
			cmd.SysProcAttr = c.attr
			if !c.own { // so that a signal to the group is seen to reach all of it
				cmd = shell(t, `"$0" & wait`, "stubborn")
				cmd.SysProcAttr = c.attr
			}
			r := tellReady(t, cmd)
			s, err := rpcx.Command(t.Context(), cmd, opts)
			if err != nil {
				t.Fatal(err)
			}
			awaitReady(t, cmd, r, 1)
			want := cmd.Process.Pid
			if c.own {
				want = own
			}
			if group, err := syscall.Getpgid(cmd.Process.Pid); group != want || err != nil {
				t.Errorf("the group is %d, want %d (%v)", group, want, err)
			}
			s.Close()
			<-s.Done()
			nothingLeft(t, r)
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
				t.Errorf("the program ended with %v", cmd.ProcessState)
			}
		})
	}
}

// cmd.Cancel is called in the place of SIGTERM, and once.
func TestCommandHonoursCancel(t *testing.T) {
	failure := errors.New("not today")
	for _, c := range []struct {
		name   string
		cancel func(cmd *exec.Cmd) error
		exit   int // the program's exit code, -1 if it is killed
		log    string
	}{
		{"which asks in another way", func(cmd *exec.Cmd) error { return cmd.Process.Signal(os.Interrupt) }, 6, "is terminated"},
		{"which kills", func(cmd *exec.Cmd) error { return cmd.Process.Kill() }, -1, "is terminated"},
		{"which does nothing", func(*exec.Cmd) error { return nil }, -1, "is killed"},
		{"which fails", func(*exec.Cmd) error { return failure }, -1, "not today"},
		{"which comes too late", func(*exec.Cmd) error { return os.ErrProcessDone }, -1, "is killed"},
	} {
		for _, by := range []string{"the session", "the context of the command", "both"} {
			t.Run(c.name+"/by "+by, func(t *testing.T) {
				noLeak(t)
				var log journal
				opts := log.options()
				opts.Limits.ExitTimeout, opts.Limits.KillTimeout = time.Millisecond, time.Millisecond
				if c.exit > 0 {
					opts.Limits.KillTimeout = -1
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p := program(t, "polite")
				cmd := exec.CommandContext(ctx, p.Path)
				cmd.Env = p.Env
				calls := make(chan bool, 10)
				cmd.Cancel = func() error {
					calls <- true
					if by == "both" {
						cancel()
					}
					return c.cancel(cmd)
				}
				r := tellReady(t, cmd)
				s, err := rpcx.Command(t.Context(), cmd, opts)
				if err != nil {
					t.Fatal(err)
				}
				awaitReady(t, cmd, r, 1)
				if by == "the context of the command" {
					cancel()
					<-calls
					calls <- true
				}
				s.Close()
				<-s.Done()
				nothingLeft(t, r)
				if got := cmd.ProcessState.ExitCode(); got != c.exit {
					t.Errorf("the exit code is %d, want %d", got, c.exit)
				}
				if len(calls) != 1 {
					t.Errorf("Cancel was called %d times", len(calls))
				}
				if by == "the session" && !strings.Contains(log.String(), c.log) {
					t.Errorf("the log does not say %q:\n%s", c.log, log.String())
				}
			})
		}
	}
}

// failingWriter is a writer that fails.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

// The standard error is copied to any writer, until the last of the group has ended.
func TestCommandCopiesTheStandardError(t *testing.T) {
	noLeak(t)
	var got journal
	cmd := exec.Command("sh", "-c", `sh -c 'echo begun >&2; cat; echo over >&2' <&0 &`)
	cmd.Stderr = &got
	s, err := rpcx.Command(t.Context(), cmd, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cmd.Stderr != &got {
		t.Errorf("cmd.Stderr is now %v", cmd.Stderr)
	}
	s.Close()
	<-s.Done()
	if got.String() != "begun\nover\n" {
		t.Errorf("the standard error is %q", got.String())
	}
}

// A program is not stuck because what it says is not wanted.
func TestCommandWhoseStandardErrorCannotBeCopied(t *testing.T) {
	noLeak(t)
	cmd := exec.Command("sh", "-c", `yes | head -c 1000000 >&2; exit 4`)
	cmd.Stderr = failingWriter{}
	s, err := rpcx.Command(t.Context(), cmd, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if code := cmd.ProcessState.ExitCode(); code != 4 {
		t.Errorf("the program ended with %v", cmd.ProcessState)
	}
}

func TestErrorsOfTheSystemThatPass(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EPERM, syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ETIMEDOUT,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
	} {
		for name, err := range acceptErrorsOf(errno) {
			t.Run(errno.Error()+", "+name, func(t *testing.T) { serveSurvives(t, err) })
		}
	}
}

func TestErrorsOfTheSystemThatEndServe(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EFAULT} {
		for name, err := range acceptErrorsOf(errno) {
			t.Run(errno.Error()+", "+name, func(t *testing.T) { serveEnds(t, err) })
		}
	}
	t.Run("with one that says that it passes", func(t *testing.T) { serveEnds(t, errors.Join(passing{}, syscall.EBADF)) })
}

// acceptErrorsOf returns the errors that Accept may have for one of the system.
func acceptErrorsOf(errno syscall.Errno) map[string]error {
	op := &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)}
	return map[string]error{
		"of package net": op,
		"wrapped":        fmt.Errorf("listener 1: %w", op),
		"one of several": errors.Join(errors.New("a log entry failed"), op),
		"as it is":       errno,
	}
}

// listenUnix listens on a unix socket, for a server that answers "reply".
func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := rpcx.Listen(t.Context(), "unix://"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serveUnix serves l until the test ends.
func serveUnix(t *testing.T, l net.Listener) *rpcx.Server {
	t.Helper()
	srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
		<-served
	})
	return srv
}

// answers reports whether a server answers at path.
func answersAt(t *testing.T, path string) bool {
	t.Helper()
	s, err := rpcx.Dial(t.Context(), "unix://"+path, nil)
	if err != nil {
		return false
	}
	defer s.Close()
	return s.Call(t.Context(), "reply", nil, nil) == nil
}

// leaveSocket makes the file of a unix socket on which nobody listens, as a program
// that was killed leaves behind.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	age(t, path)
}

// age makes a file an hour old.
func age(t *testing.T, path string) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

func TestUnixSocketThatIsLeftIsTakenOver(t *testing.T) {
	for name, path := range map[string]string{
		"a path":               filepath.Join(t.TempDir(), "socket"),
		"one as long as it is": longest(t),
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			for range 3 {
				leaveSocket(t, path)
				srv := serveUnix(t, listenUnix(t, path))
				if !answersAt(t, path) {
					t.Error("nobody answers")
				}
				if names := namesIn(t, path); !slices.Equal(names, []string{filepath.Base(path)}) {
					t.Errorf("the folder has %q", names)
				}
				srv.Close()
				srv.Wait(context.Background())
				if names := namesIn(t, path); len(names) > 0 {
					t.Errorf("left is %q", names)
				}
			}
		})
	}
}

// longest returns the longest path that a unix socket may have.
func longest(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "rpcx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, strings.Repeat("s", len(syscall.RawSockaddrUnix{}.Path)-1-len(dir)-1))
}

// namesIn returns what is in the folder of path.
func namesIn(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A program may have made the file and be about to listen.
func TestYoungUnixSocketIsNotTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Hour) // for good, on a machine that is slow
	if err := os.Chtimes(path, soon, soon); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := rpcx.Listen(ctx, "unix://"+path, nil); err == nil {
		l.Close()
		t.Error("it is taken over")
	}
	if err := syscall.Listen(fd, 10); err != nil {
		t.Fatal(err)
	}
	if l, err := rpcx.Listen(t.Context(), "unix://"+path, nil); err == nil {
		l.Close()
		t.Error("it is taken over when somebody listens")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestUnixSocketThatIsNotLeftIsNotTakenOver(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want string // in the error
	}{
		"a server": {func(t *testing.T, path string) { serveUnix(t, listenUnix(t, path)) }, "somebody listens"},
		"a server that accepts nothing": {func(t *testing.T, path string) {
			l := listenUnix(t, path)
			t.Cleanup(func() { l.Close() })
		}, "somebody listens"},
		"one of package net": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "somebody listens"},
		"a socket for datagrams": {func(t *testing.T, path string) {
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "not known"},
		"a file": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("dear"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is no socket"},
		"a folder": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is no socket"},
		"a link to one that is left": {func(t *testing.T, path string) {
			left := filepath.Join(t.TempDir(), "left")
			leaveSocket(t, left)
			if err := os.Symlink(left, path); err != nil {
				t.Fatal(err)
			}
		}, "is no socket"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			path := filepath.Join(t.TempDir(), "socket")
			c.make(t, path)
			if name != "a link to one that is left" {
				age(t, path)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			l, err := rpcx.Listen(t.Context(), "unix://"+path, nil)
			if err == nil {
				l.Close()
				t.Fatal("it is taken over")
			}
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Listen returns %v", err)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("the file is another: %v", err)
			}
			if names := namesIn(t, path); len(names) != 1 {
				t.Errorf("the folder has %q", names)
			}
		})
	}
}

func TestUnixSocketWithoutPermission(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root has all permissions")
	}
	path := filepath.Join(t.TempDir(), "socket")
	leaveSocket(t, path)
	for name, c := range map[string]struct {
		path       string
		mode, back fs.FileMode
	}{
		"to connect": {path, 0o400, 0o600},
		"to remove":  {filepath.Dir(path), 0o500, 0o700},
	} {
		if err := os.Chmod(c.path, c.mode); err != nil {
			t.Fatal(err)
		}
		l, err := rpcx.Listen(t.Context(), "unix://"+path, nil)
		if err == nil {
			l.Close()
			t.Errorf("without permission %s, it is taken over", name)
		} else if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("without permission %s, Listen returns %v", name, err)
		}
		if err := os.Chmod(c.path, c.back); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerRemovesItsOwnUnixSocketOnly(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path string){
		"a server": func(t *testing.T, path string) { serveUnix(t, listenUnix(t, path)) },
		"one of package net": func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			serveUnix(t, l)
		},
		"a file": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("dear"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for how, end := range map[string]func(net.Listener){
			"Listener.Close": func(l net.Listener) { l.Close() },
			"Server.Close":   func(l net.Listener) { srv := serveUnix(t, l); srv.Close(); srv.Wait(context.Background()) },
			"Serve": func(l net.Listener) { // of a server that was stopped
				srv := &rpcx.Server{}
				srv.Close()
				srv.Serve(l)
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				noLeak(t)
				path := filepath.Join(t.TempDir(), "socket")
				l := listenUnix(t, path)
				os.Remove(path)
				replace(t, path) // maybe by a file with the number of the first
				age(t, path)     // or they could be of one moment, too
				end(l)
				l.Close() // again
				if _, err := os.Lstat(path); err != nil {
					t.Fatalf("the other's file is gone: %v", err)
				}
				if name != "a file" && !answersAt(t, path) {
					t.Error("the other server cannot be reached")
				}
				if names := namesIn(t, path); len(names) != 1 {
					t.Errorf("the folder has %q", names)
				}
			})
		}
	}
}

func TestServerRemovesItsUnixSocket(t *testing.T) {
	noLeak(t)
	dir := t.TempDir()
	t.Chdir(dir)
	for name, c := range map[string]struct {
		before func(l net.Listener)
		left   bool
	}{
		"as it is": {func(net.Listener) {}, false},
		"with other permissions": {func(net.Listener) {
			if err := os.Chmod(filepath.Join(dir, "socket"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false},
		"from another folder": {func(net.Listener) { t.Chdir(t.TempDir()) }, false},
		"unless told not to": {func(l net.Listener) {
			l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
		}, true},
	} {
		t.Chdir(dir)
		l := listenUnix(t, "socket")
		if l.Addr().String() != "socket" {
			t.Errorf("%s: the address is %v", name, l.Addr())
		}
		c.before(l)
		if err := l.Close(); err != nil {
			t.Errorf("%s: Close returns %v", name, err)
		}
		err := os.Remove(filepath.Join(dir, "socket"))
		if c.left != (err == nil) {
			t.Errorf("%s: the file is left: %v", name, err)
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: closed again, Close returns %v", name, err)
		}
	}
}

// Of many that find a file on which nobody listens, one takes it over, and keeps it.
func TestUnixSocketIsTakenOverOnce(t *testing.T) {
	noLeak(t)
	path := filepath.Join(t.TempDir(), "socket")
	for range 50 {
		leaveSocket(t, path)
		var mu sync.Mutex
		var won []net.Listener
		var users sync.WaitGroup
		for range 8 {
			users.Go(func() {
				l, err := rpcx.Listen(t.Context(), "unix://"+path, nil)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, l)
				} else if !errors.Is(err, syscall.EADDRINUSE) {
					t.Errorf("Listen returns %v", err)
				}
			})
		}
		users.Wait()
		if len(won) != 1 {
			t.Fatalf("%d listen", len(won))
		}
		for _, l := range won {
			srv := serveUnix(t, l)
			if !answersAt(t, path) {
				t.Error("the server cannot be reached")
			}
			srv.Close()
			srv.Wait(context.Background())
		}
		if names := namesIn(t, path); len(names) > 0 {
			t.Errorf("left is %q", names)
		}
	}
}
