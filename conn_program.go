package rpcx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"example.com/rpcx/internal/bounded"
)

// Stdio returns standard input and output as one connection, for a program that
// another one starts and speaks to: NewSession(Stdio(), opts). Nothing else may
// use them then: what is printed would be taken for messages. Log to [os.Stderr].
// Close closes both.
//
// If the other program is gone, a write fails and the session ends with the cause, so
// that OnClose and Done work. On Unix, Stdio writes to a duplicate of descriptor 1 for
// that: Go ends a program by SIGPIPE if it writes to [os.Stdout] or os.Stderr itself
// and the reader is gone. Stdio changes nothing of this, since signals are the
// program's. If the standard error may be a pipe to the same program, call
// signal.Ignore(syscall.SIGPIPE) before you log to it.
//
// If the descriptor cannot be duplicated, each write fails with the reason.
func Stdio() io.ReadWriteCloser { return Join(os.Stdin, standardOutput(os.Stdout)) }

// Join returns a connection that reads from r and writes to w. Close returns at
// once and ends a Read and a Write of the connection that wait, even if r and w do
// not: a read of a terminal cannot be ended, and the one goroutine that is in it
// stays until it is done, its result lost. (The same holds for a write.) Close
// also closes r and w if they are an [io.Closer]. For standard input and output there
// is [Stdio].
func Join(r io.Reader, w io.Writer) io.ReadWriteCloser {
	mustHave("Join", "reader", r)
	mustHave("Join", "writer", w)
	return &joined{
		r: r, w: w, closed: make(chan struct{}),
		reads:  operation{do: r.Read, done: make(chan struct{}, 1)},
		writes: operation{do: w.Write, done: make(chan struct{}, 1)},
	}
}

// joined is a connection of two halves.
type joined struct {
	r      io.Reader
	w      io.Writer
	reads  operation
	writes operation
	once   sync.Once
	closed chan struct{}
}

// operation is a Read or a Write that goes on when nobody waits for it any more.
// So it has a buffer of its own.
type operation struct {
	do   func([]byte) (int, error)
	buf  []byte
	n    int
	err  error
	done chan struct{} // has one slot
}

// run does the operation with o.buf. It returns net.ErrClosed, and leaves the
// operation alone, if closed is closed before it is done.
func (o *operation) run(closed <-chan struct{}) (int, error) {
	buf := o.buf
	// Owner: the connection. End: do returns, perhaps after the connection's end.
	go func() {
		o.n, o.err = o.do(buf)
		o.done <- struct{}{}
	}()
	select {
	case <-o.done:
		return o.n, o.err
	case <-closed:
		return 0, net.ErrClosed
	}
}

// Read is called by one goroutine at a time, and so is Write.
func (j *joined) Read(p []byte) (int, error) {
	if j.isClosed() { // and the buffer may be in use
		return 0, net.ErrClosed
	}
	o := &j.reads
	o.buf = slices.Grow(o.buf[:0], len(p))[:len(p)]
	n, err := o.run(j.closed)
	copy(p, o.buf[:n])
	return n, err
}

func (j *joined) Write(p []byte) (int, error) {
	if j.isClosed() {
		return 0, net.ErrClosed
	}
	o := &j.writes
	o.buf = append(o.buf[:0], p...)
	return o.run(j.closed)
}

func (j *joined) isClosed() bool {
	select {
	case <-j.closed:
		return true
	default:
		return false
	}
}

// Close closes the halves, which need not wait for what is under way.
func (j *joined) Close() error {
	var errs []error
	j.once.Do(func() {
		close(j.closed)
		for _, half := range []any{j.w, j.r} {
			if c, ok := half.(io.Closer); ok {
				errs = append(errs, c.Close())
			}
		}
	})
	return errors.Join(errs...)
}

const (
	// exitTimeout and killTimeout are the defaults of Limits.ExitTimeout and
	// Limits.KillTimeout.
	exitTimeout = 5 * time.Second
	killTimeout = 2 * time.Second
	// exitNotice is how long the end of a program's input or output waits for the
	// program's own, to say why; and how long a program may take to end by SIGKILL.
	exitNotice = 200 * time.Millisecond
	// groupPoll is how often at least the session looks whether a process group is empty.
	groupPoll = 50 * time.Millisecond
)

// Command starts a program and a session over its standard input and output.
// Its standard error goes to Options.Logger, line by line, unless cmd.Stderr is
// set: without either, only its last line is seen, in the error that says that the program
// has ended. cmd.Stdin and cmd.Stdout must not be set.
//
// The end of the session is the end of the program, whichever comes first. The
// session ends the program in three steps:
//
//   - It closes the program's input, which the program should take for the request to end.
//   - After Limits.ExitTimeout (default 5 s) it sends SIGTERM, or calls cmd.Cancel if
//     that is set. Windows has no SIGTERM: without cmd.Cancel the program is killed.
//   - After another Limits.KillTimeout (default 2 s) it sends SIGKILL.
//
// cmd.WaitDelay, if set, is the default of both times. cmd.Cancel is called once at
// most. [exec.CommandContext] sets a cmd.Cancel that kills, so prefer [exec.Command]:
// the end of ctx is a [Session.Close]. Then Session.Err, and the error of the calls that
// were pending, match [ErrClosed] and wrap ctx's cause.
//
// On Unix, unless cmd.SysProcAttr is set, the program leads a process group of its own,
// and all signals go to the group. So what a wrapper such as sh or npx has started ends,
// too, even if the wrapper ends first. A process that leaves the group, as a daemon
// does, stays. In a terminal, Ctrl-C and Ctrl-Z then reach this program alone, which has
// to close the session, and a program of the group that reads the terminal itself is
// stopped. An empty [syscall.SysProcAttr] leaves the program in the group of this one, and
// signals go to the program alone. With Setsid, or Setpgid and no Pgid, they go to the
// group.
//
// [Session.Done] says that the program, and its group, has ended; how it ended is
// in cmd.ProcessState then, and is logged if it was not well. If it was the program
// that ended first, then [Session.Err], and the error of calls that were pending, wraps
// io.EOF, and an [*exec.ExitError] beside it if the program has failed. Its text is the
// program's exit status and the last line of its standard error, if the session reads that:
//
//	program ended: exit status 2 (its standard error ends with "unknown flag: -x")
//
// It is io.EOF alone if the program goes on for more than 200 ms after its output has ended. Processes that outlive the program and have its
// output hold the session up for cmd.WaitDelay (default 5 s) at most.
func Command(ctx context.Context, cmd *exec.Cmd, opts *Options) (*Session, error) {
	mustHaveContext("Command", ctx)
	o, err := resolveOptions(opts)
	if err == nil {
		err = context.Cause(ctx)
	}
	var s *Session
	if err == nil {
		s, err = startProgram(cmd, o)
	}
	if err != nil {
		return nil, fmt.Errorf("start program: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { s.close(&contextClosed{context.Cause(ctx)}) })
	s.OnClose(func(error) { stop() })
	return s, nil
}

// contextClosed is the end of a session with the context that it was started with.
type contextClosed struct{ cause error }

func (e *contextClosed) Error() string   { return ErrClosed.Error() + ": " + trimPrefix(e.cause) }
func (e *contextClosed) Unwrap() []error { return []error{ErrClosed, e.cause} }

func startProgram(cmd *exec.Cmd, o *Options) (*Session, error) {
	if cmd.Stdin != nil {
		return nil, errors.New("cmd.Stdin is set: it has to be nil, for the session writes to it")
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not a StdoutPipe, which Wait closes, with what is in it.
	if cmd.Stdout != nil {
		return nil, errors.Join(errors.New("cmd.Stdout is set: it has to be nil, for the session reads from it"), stdin.Close())
	}
	output, writer, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	cmd.Stdout = writer
	o.Logger = o.Logger.With(slog.String("program", cmd.Path))
	p := &program{
		WriteCloser: stdin,
		output:      output,
		cmd:         cmd,
		exitTimeout: durationOr(o.Limits.ExitTimeout, cmd.WaitDelay, exitTimeout),
		killTimeout: durationOr(o.Limits.KillTimeout, cmd.WaitDelay, killTimeout),
		ended:       make(chan struct{}),
		log:         o.Logger,
	}
	if cmd.WaitDelay <= 0 {
		cmd.WaitDelay = exitTimeout
	}
	if cmd.Cancel != nil {
		cmd.Cancel = sync.OnceValue(cmd.Cancel) // by the session, or at the end of cmd's context
	}
	p.group = leadGroup(cmd)
	err = p.start()
	writer.Close()
	if err != nil {
		output.Close()
		return nil, err
	}
	// Owner: the session. End: the program has ended.
	go p.wait()
	return startAlone(newStream(p, o.Framer), o), nil
}

// program is the connection to a program that runs.
type program struct {
	io.WriteCloser // its input
	output         *os.File
	cmd            *exec.Cmd
	group          bool // the program leads a process group
	exitTimeout    time.Duration
	killTimeout    time.Duration
	stderr         *copied // nil if the program writes to a file itself
	log            *slog.Logger

	ended chan struct{} // closed when the program has ended, others of its group perhaps not
	err   error         // how it has ended, nil if well
	at    time.Time     // when
}

// copied is the standard error of a program on its way to a writer.
type copied struct {
	from *os.File
	to   io.Writer
	done chan struct{} // closed when the copying has ended
}

// start starts the program. If that fails, it closes the program's input.
func (p *program) start() error {
	to := p.cmd.Stderr
	if to == nil {
		to = &lineLogger{log: p.log}
	}
	if _, file := to.(*os.File); file {
		return p.cmd.Start()
	}
	// With a writer that is no file, Wait would wait for all who have the other end.
	from, writer, err := os.Pipe()
	if err != nil {
		return errors.Join(err, p.WriteCloser.Close())
	}
	set := p.cmd.Stderr
	p.cmd.Stderr = writer
	err = p.cmd.Start() // which closes the input if it fails
	p.cmd.Stderr = set
	writer.Close()
	if err != nil {
		from.Close()
		return err
	}
	p.stderr = &copied{from, to, make(chan struct{})}
	// Owner: the session. End: the standard error has ended, or Close gives up.
	go p.stderr.run()
	return nil
}

func (c *copied) run() {
	defer close(c.done)
	defer c.from.Close() // if the writer has failed, the program has to know
	_, _ = io.Copy(c.to, c.from)
	if l, ok := c.to.(*lineLogger); ok {
		l.flush() // a last line without its end
	}
}

// lastLine returns the last line that was logged, "" unless the copying has ended.
func (c *copied) lastLine() string {
	select {
	case <-c.done:
		if l, ok := c.to.(*lineLogger); ok {
			return l.last
		}
	default:
	}
	return ""
}

// finish waits until all is copied, until deadline at most.
func (c *copied) finish(deadline time.Time) {
	_ = c.from.SetReadDeadline(deadline)
	stuck := time.NewTimer(time.Until(deadline) + exitNotice) // in the writer
	defer stuck.Stop()
	select {
	case <-c.done:
	case <-stuck.C:
	}
}

// wait waits for the program. Others that it has started may have its output open
// still. They do not hold the session up for longer than cmd.WaitDelay.
func (p *program) wait() {
	p.err = p.cmd.Wait()
	p.at = time.Now()
	_ = p.output.SetReadDeadline(p.at.Add(p.cmd.WaitDelay))
	close(p.ended)
}

func (p *program) Read(b []byte) (int, error) {
	n, err := p.output.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, p.because(err)
}

func (p *program) Write(b []byte) (int, error) {
	n, err := p.WriteCloser.Write(b)
	return n, p.because(err)
}

// because returns err, or that the program has ended if that is why there is one.
func (p *program) because(err error) error {
	if err == nil {
		return nil
	}
	patience := time.NewTimer(exitNotice)
	defer patience.Stop()
	select {
	case <-p.ended:
		if p.stderr != nil {
			select {
			case <-p.stderr.done: // its last line belongs to the error
			case <-patience.C: // others have its standard error
			}
		}
		if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
			return p.exitError(exit)
		}
		return io.EOF // though it may be the writer who noticed; see Session.endOfInput
	case <-patience.C: // it has closed its end only
	}
	return err
}

// exitError is the end of the input and output of a program that has ended.
type exitError struct {
	text   string
	causes []error // io.EOF, and an *exec.ExitError if the program has failed
}

func (e *exitError) Error() string   { return e.text }
func (e *exitError) Unwrap() []error { return e.causes }

// exitError returns the error for the program, which has ended with the causes given.
func (p *program) exitError(causes ...error) error {
	text := "program ended: " + p.cmd.ProcessState.String()
	if p.stderr != nil {
		if line := p.stderr.lastLine(); line != "" {
			text += fmt.Sprintf(" (its standard error ends with %q)", line)
		}
	}
	return &exitError{text, append([]error{io.EOF}, causes...)}
}

// Close ends the program, waits for that, and ends a Read.
func (p *program) Close() error {
	_ = p.WriteCloser.Close()
	err := p.end()
	_ = p.output.Close()
	deadline := time.Now().Add(exitNotice)
	if err == nil {
		if latest := p.at.Add(p.cmd.WaitDelay); latest.After(deadline) {
			deadline = latest
		}
	}
	if p.stderr != nil {
		p.stderr.finish(deadline)
	}
	if err != nil {
		p.log.LogAttrs(context.Background(), slog.LevelError, "program cannot be killed", slog.Any("error", err))
		return err
	}
	if p.err != nil {
		p.log.LogAttrs(context.Background(), slog.LevelWarn, "program ended", slog.Any("error", p.err))
	}
	return p.err
}

// end waits for the program, whose input is closed, and the others of its group to
// end. It sends them signals when their time is up.
func (p *program) end() error {
	if p.endsWithin(p.exitTimeout) {
		return nil
	}
	if canTerminate || p.cmd.Cancel != nil {
		p.warn("program, or what it has started, does not end, and is terminated", "Limits.ExitTimeout", p.exitTimeout)
		if err := p.terminate(); err != nil {
			p.log.LogAttrs(context.Background(), slog.LevelWarn, "program cannot be terminated", slog.Any("error", err))
		}
		if p.endsWithin(p.killTimeout) {
			return nil
		}
		p.warn("program, or what it has started, does not end, and is killed", "Limits.KillTimeout", p.killTimeout)
	} else {
		p.warn("program, or what it has started, does not end, and is killed", "Limits.ExitTimeout", p.exitTimeout)
	}
	if err := p.signal(os.Kill); err != nil {
		return err
	}
	<-p.ended
	p.endsWithin(exitNotice)
	return nil
}

func (p *program) warn(text, limit string, waited time.Duration) {
	p.log.LogAttrs(context.Background(), slog.LevelWarn, text, timeLimit(limit, waited))
}

// terminate asks the program to end.
func (p *program) terminate() error {
	if p.cmd.Cancel == nil {
		return p.signal(terminateSignal)
	}
	if err := p.cmd.Cancel(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// signal sends a signal to the program, or to its group if it leads one. That all
// have ended is no error.
func (p *program) signal(sig os.Signal) error {
	if p.group {
		if p.hasEnded() && !groupRuns(p.cmd.Process.Pid) {
			return nil // the number may be another group's
		}
		return signalGroup(p.cmd.Process.Pid, sig)
	}
	if err := p.cmd.Process.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// hasEnded reports whether the program itself has ended.
func (p *program) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// endsWithin waits for the program and the others of its group to end. It reports
// false if that takes longer than d.
func (p *program) endsWithin(d time.Duration) bool {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	select {
	case <-p.ended:
	case <-timeout.C:
		return false
	}
	if !p.group {
		return true
	}
	// The others are no children of this process, so nothing tells of their end.
	for pause := time.Millisecond; groupRuns(p.cmd.Process.Pid); pause = min(2*pause, groupPoll) {
		select {
		case <-time.After(pause):
		case <-timeout.C:
			return false
		}
	}
	return true
}

// maxLogLine is where a line is cut that a program writes to its standard error.
const maxLogLine = 4096

// maxLastLine is how many bytes of the last of these lines an error repeats.
const maxLastLine = 256

// lineLogger logs what is written to it, a line at a time.
type lineLogger struct {
	log  *slog.Logger
	line []byte
	last string // the beginning of the last line that was logged
}

func (l *lineLogger) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxLogLine-len(l.line))
		if i := bytes.IndexByte(rest[:n], '\n'); i >= 0 {
			n = i + 1
		}
		l.line = append(l.line, rest[:n]...)
		rest = rest[n:]
		if len(l.line) == maxLogLine || l.line[len(l.line)-1] == '\n' {
			l.flush()
		}
	}
	return len(p), nil
}

func (l *lineLogger) flush() {
	if line := bytes.TrimRight(l.line, "\r\n"); len(line) > 0 {
		l.last = bounded.Cut(bytes.TrimSpace(line), maxLastLine)
		l.log.LogAttrs(context.Background(), slog.LevelInfo, "program's standard error", slog.String("line", string(line)))
	}
	l.line = l.line[:0]
}
