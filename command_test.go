package rpcx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
)

// programVariable makes the test's own program one of programs.
const programVariable = "RPCX_TEST_PROGRAM"

// Variables of the program sender.
const (
	reportVariable = "RPCX_TEST_REPORT" // the file
	stderrVariable = "RPCX_TEST_STDERR" // if set, the standard error is closed
)

// readyVariable is set if descriptor 3 is for ready.
const readyVariable = "RPCX_TEST_READY"

var programs = map[string]func(){
	"plugin": func() {
		fmt.Fprint(os.Stderr, "the plugin starts\n\nand has ", "more to say\r\n")
		s := rpcx.NewSession(rpcx.Stdio(), handling(methods{
			"join": func(ctx context.Context, req *rpcx.Request) (any, error) {
				var words []string
				if err := req.Bind(&words); err != nil {
					return nil, err
				}
				return rpcx.Call[string](ctx, req.Session(), "loud", rpcx.Args{strings.Join(words, " ")})
			},
		}))
		<-s.Done()
		fmt.Fprint(os.Stderr, "the plugin ends") // without a newline
	},
	"stubborn": func() { // does not end with its input
		ready()
		stay()
	},
	"polite": func() { // nor does this, but it ends itself when it is asked to
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM, os.Interrupt)
		ready()
		if <-asked == os.Interrupt {
			os.Exit(6)
		}
		os.Exit(5)
	},
	"deaf": func() { // and this does neither
		signal.Ignore(syscall.SIGTERM)
		ready()
		stay()
	},
	"broken": func() { os.Exit(3) },
	"done":   func() { os.Exit(0) },
	"traced": func() { // panics when its first handler has returned
		s := rpcx.NewSession(rpcx.Stdio(), &rpcx.Options{
			Handler: rpcx.Func(func() {}),
			Trace: &rpcx.Trace{ReplySent: func(req *rpcx.Request, _ error, _ time.Duration) {
				panic("the trace of " + req.Method)
			}},
		})
		<-s.Done()
	},
	"usage": func() {
		fmt.Fprint(os.Stderr, "the program starts\nunknown flag: \"-x\"")
		os.Exit(2)
	},
	"garrulous": func() { // prints what is no message
		fmt.Println("welcome")
	},
	"survived": func() { // by a program that has its output
		path, err := os.Executable()
		if err != nil {
			panic(err)
		}
		cmd := exec.Command(path)
		cmd.Env = append(os.Environ(), programVariable+"=stubborn")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Fprintf(os.Stdout, `{"jsonrpc":"2.0","method":"pid","params":[%d]}`+"\n", cmd.Process.Pid)
	},
	"sender": func() { // sends until its session ends, and says in a file how that was
		report, err := os.Create(os.Getenv(reportVariable))
		if err != nil {
			panic(err)
		}
		if os.Getenv(stderrVariable) != "" {
			os.Stderr.Close()
		}
		s := rpcx.NewSession(rpcx.Stdio(), nil)
		s.OnClose(func(cause error) {
			fmt.Fprintf(report, "closed, %v, broken pipe %v\n", cause != nil, errors.Is(cause, syscall.EPIPE))
		})
		for err == nil {
			err = s.Notify(context.Background(), "news", rpcx.Args{strings.Repeat("x", 10_000)})
		}
		<-s.Done()
		fmt.Fprintln(report, "done")
		os.Exit(7)
	},
	"long-winded": func() {
		fmt.Fprint(os.Stderr, strings.Repeat("x", 10_000))
	},
}

// ready writes to descriptor 3, if a test has given one, that the program is ready.
// Who reads that sees its end when the program and all that it has started have ended.
func ready() {
	if os.Getenv(readyVariable) != "" {
		if _, err := os.NewFile(3, "ready").WriteString("."); err != nil {
			panic(err)
		}
	}
}

// stay does not return.
func stay() {
	r, _, err := os.Pipe()
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	panic(err)
}

// tellReady gives cmd a descriptor for ready, and returns the other end.
func tellReady(t *testing.T, cmd *exec.Cmd) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(cmd.Env, readyVariable+"=3")
	return r
}

// awaitReady waits for n programs to be ready.
func awaitReady(t *testing.T, cmd *exec.Cmd, r *os.File, n int) {
	t.Helper()
	cmd.ExtraFiles[0].Close() // this program's
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Fatal("the program is not ready:", err)
	}
}

// nothingLeft fails the test if a process that has the descriptor of ready goes on.
func nothingLeft(t *testing.T, r *os.File) {
	t.Helper()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error("a process is left behind:", err)
	}
}

// program returns the command that runs one of programs.
func program(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), programVariable+"="+name)
	return cmd
}

// journal is a log that goroutines may write to.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) options() *rpcx.Options {
	return &rpcx.Options{Logger: slog.New(slog.NewTextHandler(j, nil)), Handler: methods{
		"loud": func(_ context.Context, req *rpcx.Request) (any, error) {
			var words []string
			err := req.Bind(&words)
			return strings.ToUpper(strings.Join(words, " ")), err
		},
	}}
}

func TestCommandCallsBothWays(t *testing.T) {
	noLeak(t)
	var log journal
	cmd := program(t, "plugin")
	s, err := rpcx.Command(t.Context(), cmd, log.options())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"", strings.Repeat("X", 300_000), "A B"} {
		if got, err := rpcx.Call[string](t.Context(), s, "join", rpcx.Args(anys(strings.Fields(strings.ToLower(want))))); got != want || err != nil {
			t.Errorf("%.20q: %.20q, %v", want, got, err)
		}
	}
	s.Close()
	<-s.Done()
	if !errors.Is(s.Err(), rpcx.ErrClosed) {
		t.Errorf("the session ended with %v", s.Err())
	}
	if cmd.ProcessState == nil || !cmd.ProcessState.Success() {
		t.Errorf("when the session is done, the program is in the state %v", cmd.ProcessState)
	}
	for _, line := range []string{`line="the plugin starts"`, `line="and has more to say"`, `line="the plugin ends"`, "program=" + cmd.Path} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log has no %s:\n%s", line, log.String())
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("the log has %d lines, want 3:\n%s", n, log.String())
	}
}

func anys(words []string) (list []any) {
	for _, word := range words {
		list = append(list, word)
	}
	return list
}

// A program is asked to end by the end of its input, then by SIGTERM, and then it is
// killed. Each has its time.
func TestCommandEndsItsProgramInSteps(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGTERM")
	}
	const soon, late = time.Millisecond, time.Hour
	for _, c := range []struct {
		name, program string
		delay         time.Duration // cmd.WaitDelay
		exit, kill    time.Duration // limits
		state         string
		log           []string
	}{
		{"by its input", "plugin", 0, late, late, "exit status 0", nil},
		{"by its input, for which it has any time", "plugin", soon, -1, soon, "exit status 0", nil},
		{"by SIGTERM", "stubborn", 0, soon, late, "signal: terminated", []string{"is terminated", "program ended"}},
		{"by SIGTERM in its own way", "polite", 0, soon, -1, "exit status 5", []string{"is terminated", "program ended"}},
		{"by SIGKILL", "deaf", 0, soon, soon, "signal: killed", []string{"is terminated", "is killed", "program ended"}},
		{"by SIGKILL after the times of WaitDelay", "deaf", soon, 0, 0, "signal: killed", []string{"is terminated", "is killed", "program ended"}},
		{"by SIGTERM in spite of WaitDelay", "polite", soon, 0, late, "exit status 5", []string{"is terminated", "program ended"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			var log journal
			cmd := program(t, c.program)
			cmd.WaitDelay = c.delay
			r := tellReady(t, cmd)
			ctx, cancel := context.WithCancel(t.Context())
			opts := log.options()
			opts.Limits.ExitTimeout, opts.Limits.KillTimeout = c.exit, c.kill
			opts.Logger = slog.New(reluctant{opts.Logger.Handler()})
			s, err := rpcx.Command(ctx, cmd, opts)
			if err != nil {
				t.Fatal(err)
			}
			if c.program != "plugin" {
				awaitReady(t, cmd, r, 1)
			}
			f := s.Go(t.Context(), "anything", nil)
			cancel() // closes the session
			<-s.Done()
			if err := f.Err(); !errors.Is(err, rpcx.ErrConnectionLost) {
				t.Errorf("the call failed with %v", err)
			}
			if got := cmd.ProcessState.String(); got != c.state {
				t.Errorf("the program is in the state %q, want %q", got, c.state)
			}
			rest := log.String()
			for _, text := range c.log {
				_, after, found := strings.Cut(rest, text)
				if !found {
					t.Errorf("the log does not say %q in its place:\n%s", text, log.String())
				}
				rest = after
			}
			if n := strings.Count(log.String(), "level=WARN"); n != len(c.log) {
				t.Errorf("there are %d warnings, want %d:\n%s", n, len(c.log), log.String())
			}
		})
	}
}

// reluctant is a log that lets everybody go first.
type reluctant struct{ slog.Handler }

func (r reluctant) Handle(ctx context.Context, record slog.Record) error {
	for range 100_000 {
		runtime.Gosched()
	}
	return r.Handler.Handle(ctx, record)
}

func (r reluctant) WithAttrs(attrs []slog.Attr) slog.Handler {
	return reluctant{r.Handler.WithAttrs(attrs)}
}

// The end of Command's context closes the session. Whoever notices it first, the session
// or the call, tells its cause.
func TestCommandTellsTheCauseOfItsContext(t *testing.T) {
	noLeak(t)
	ctx, stop := context.WithCancelCause(t.Context())
	s, err := rpcx.Command(ctx, program(t, "stubborn"), &rpcx.Options{Limits: rpcx.Limits{ExitTimeout: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	same, other := s.Go(ctx, "same", nil), s.Go(t.Context(), "other", nil)
	stop(context.DeadlineExceeded)
	<-s.Done()
	matches(t, same.Err(), context.DeadlineExceeded)
	matches(t, other.Err(), context.DeadlineExceeded, rpcx.ErrClosed, rpcx.ErrConnectionLost)
	matches(t, s.Err(), context.DeadlineExceeded, rpcx.ErrClosed)
	after := s.Call(t.Context(), "after", nil, nil)
	matches(t, after, context.DeadlineExceeded, rpcx.ErrClosed)
	if want := "rpcx: session closed: context deadline exceeded"; s.Err().Error() != want || after.Error() != want {
		t.Errorf("the errors are %q and %q, want %q", s.Err(), after, want)
	}
}

func TestCommandTellsHowItsProgramHasEnded(t *testing.T) {
	for _, c := range []struct{ program, want string }{
		{"done", "program ended: exit status 0"},
		{"usage", `program ended: exit status 2 (its standard error ends with "unknown flag: \"-x\"")`},
	} {
		t.Run(c.program, func(t *testing.T) {
			noLeak(t)
			s, err := rpcx.Command(t.Context(), program(t, c.program), nil)
			if err != nil {
				t.Fatal(err)
			}
			lost := s.Call(t.Context(), "m", nil, nil)
			<-s.Done()
			for _, err := range []error{s.Err(), lost} {
				if !errors.Is(err, io.EOF) || !strings.HasSuffix(err.Error(), c.want) {
					t.Errorf("there is the error %v", err)
				}
			}
		})
	}
}

// A panic of a Trace is no handler's, and ends the program. The reply is queued before.
func TestPanicOfTraceEndsTheProgram(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "traced"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	s.Go(t.Context(), "m", nil)
	<-s.Done()
	if exit, ok := errors.AsType[*exec.ExitError](s.Err()); !ok || exit.ExitCode() != 2 {
		t.Errorf("the program ended with %v", s.Err())
	}
	if strings.Count(log.String(), "the trace of m") != 1 {
		t.Errorf("its standard error is\n%s", log.String())
	}
}

func TestCommandThatFails(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "broken"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	lost := s.Call(t.Context(), "m", nil, nil)
	matches(t, lost, rpcx.ErrConnectionLost)
	<-s.Done()
	for _, err := range []error{s.Err(), lost} {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 3 || !errors.Is(err, io.EOF) || !strings.HasSuffix(err.Error(), "program ended: exit status 3") {
			t.Errorf("there is the error %v", err)
		}
	}
	if !strings.Contains(log.String(), "exit status 3") {
		t.Errorf("the log says\n%s", log.String())
	}
}

// A program that has ended ends its session, though others have its output and
// its standard error. What it said before is handled, and the others are ended.
func TestCommandThatIsSurvived(t *testing.T) {
	noLeak(t)
	var log journal
	opts := log.options()
	pids := make(chan int, 1)
	opts.Handler = rpcx.Func(func(pid int) { pids <- pid })
	cmd := program(t, "survived")
	cmd.WaitDelay = 250 * time.Millisecond // in which what it said is read
	s, err := rpcx.Command(t.Context(), cmd, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-s.Done():
	case <-ctx.Done():
		t.Error("the session does not end")
	}
	if survivor, err := os.FindProcess(<-pids); err == nil {
		survivor.Kill()
	}
	if <-s.Done(); !errors.Is(s.Err(), io.EOF) || !cmd.ProcessState.Success() || strings.Contains(log.String(), "is killed") {
		t.Errorf("the session ended with %v, the program is in the state %v, and the log says\n%s", s.Err(), cmd.ProcessState, log.String())
	}
}

// A program that never ends a line takes no more memory than a line may have.
func TestCommandCutsLongLines(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "long-winded"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	for _, n := range []int{4096, 4096, 10_000 - 2*4096} {
		line := "line=" + strings.Repeat("x", n) + "\n"
		if rest := strings.Replace(log.String(), line, "", 1); rest == log.String() {
			t.Errorf("there is no line of %d bytes", n)
		}
	}
}

func TestCommandErrors(t *testing.T) {
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("not today"))
	used := program(t, "plugin")
	used.Stdout = os.Stderr
	for name, c := range map[string]struct {
		ctx  context.Context
		cmd  *exec.Cmd
		want string
	}{
		"there is no such program":  {t.Context(), exec.Command("/no/such/program"), "no such file"},
		"the output is taken":       {t.Context(), used, "Stdout is set"},
		"the context ended before":  {ended, program(t, "plugin"), "not today"},
		"the program's name is bad": {t.Context(), exec.Command(""), "no command"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rpcx.Command(c.ctx, c.cmd, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "start program: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestLogNamesTheProgramThatSentABadMessage(t *testing.T) {
	noLeak(t)
	var log journal
	cmd := program(t, "garrulous")
	s, err := rpcx.Command(t.Context(), cmd, log.options())
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if want := `msg="bad message" program=` + cmd.Path; !strings.Contains(log.String(), want) {
		t.Errorf("the log has no %s:\n%s", want, log.String())
	}
}

// Whoever notices first that a program is gone says why it went.
func TestCommandThatFailsWhileItIsWrittenTo(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "broken"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = s.Notify(t.Context(), "m", nil)
	}
	<-s.Done()
	if exit, ok := errors.AsType[*exec.ExitError](s.Err()); !ok || exit.ExitCode() != 3 {
		t.Errorf("the session ended with %v", s.Err())
	}
}
