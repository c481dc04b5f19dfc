//go:build unix

package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
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
