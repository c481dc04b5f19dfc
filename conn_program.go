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

// Stdio returns standard input and output as a single connection. A program that another
// program starts and talks to uses NewSession(Stdio(), opts). No other code may use
// standard input and output then: printed text would be taken for messages. Log to
// [os.Stderr]. Close closes both files.
//
// If the other program is gone, a write fails and the session ends with the cause, so
// OnClose and Done work. On Unix, Stdio therefore writes to a duplicate of descriptor 1. Go
// ends a program by SIGPIPE if a write to [os.Stdout] or os.Stderr itself finds no reader.
// Stdio does not change the handling of signals, which belongs to the program. If standard
// error may be a pipe to the same program, call signal.Ignore(syscall.SIGPIPE) before
// logging there.
//
// If the descriptor cannot be duplicated, each write fails with the reason.
func Stdio() io.ReadWriteCloser { return Join(os.Stdin, standardOutput(os.Stdout)) }

// Join returns a connection that reads from r and writes to w. Close returns at once, and
// ends a waiting Read or Write of the connection. Close also closes r and w if they
// implement [io.Closer].
//
// r and w may go on waiting after Close: a read of a terminal cannot be ended, for example.
// In this case a goroutine stays until the read or write returns, and the result is lost.
// For standard input and output, use [Stdio].
func Join(r io.Reader, w io.Writer) io.ReadWriteCloser {
	mustHave("Join", "reader", r)
	mustHave("Join", "writer", w)
	return &joinedConn{
		r: r, w: w, closed: make(chan struct{}),
		readOperation:  ioOperation{perform: r.Read, returned: make(chan struct{}, 1)},
		writeOperation: ioOperation{perform: w.Write, returned: make(chan struct{}, 1)},
	}
}

// joinedConn is a connection made of a reader and a writer.
type joinedConn struct {
	r              io.Reader
	w              io.Writer
	readOperation  ioOperation
	writeOperation ioOperation
	closeOnce      sync.Once
	closed         chan struct{}
}

// ioOperation is a Read or a Write that may outlive the connection. It has its own buffer
// for that reason.
type ioOperation struct {
	perform  func([]byte) (int, error)
	buf      []byte
	n        int
	err      error
	returned chan struct{} // capacity 1
}

// runUntilClosed performs the operation with o.buf. If closed is closed first, it returns
// net.ErrClosed and leaves the operation running.
func (o *ioOperation) runUntilClosed(closed <-chan struct{}) (int, error) {
	buf := o.buf
	// Owner: the connection. End: perform returns, perhaps after the connection's end.
	go func() {
		o.n, o.err = o.perform(buf)
		o.returned <- struct{}{}
	}()
	select {
	case <-o.returned:
		return o.n, o.err
	case <-closed:
		return 0, net.ErrClosed
	}
}

// Read may be called by a single goroutine at a time. The same holds for Write.
func (j *joinedConn) Read(p []byte) (int, error) {
	if isClosed(j.closed) { // a running operation may still use the buffer
		return 0, net.ErrClosed
	}
	o := &j.readOperation
	o.buf = slices.Grow(o.buf[:0], len(p))[:len(p)]
	n, err := o.runUntilClosed(j.closed)
	copy(p, o.buf[:n])
	return n, err
}

func (j *joinedConn) Write(p []byte) (int, error) {
	if isClosed(j.closed) {
		return 0, net.ErrClosed
	}
	o := &j.writeOperation
	o.buf = append(o.buf[:0], p...)
	return o.runUntilClosed(j.closed)
}

// isClosed reports whether ch, a channel that nothing is sent on, is closed.
func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// Close closes both halves, without waiting for running operations.
func (j *joinedConn) Close() error {
	var errs []error
	j.closeOnce.Do(func() {
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
	// defaultExitTimeout and defaultKillTimeout are the defaults of Limits.ExitTimeout and
	// Limits.KillTimeout.
	defaultExitTimeout = 5 * time.Second
	defaultKillTimeout = 2 * time.Second
	// exitNoticeTime is how long the end of a program's input or output waits for the
	// program's exit, for a better error. It also bounds the wait for a killed process
	// group, and is the least time for copying the standard error.
	exitNoticeTime = time.Second
	// groupPollInterval is the longest pause between two checks for an empty process group.
	groupPollInterval = 50 * time.Millisecond
)

// Command starts a program, and a session over its standard input and output. The program's
// standard error goes to Options.Logger, line by line, unless cmd.Stderr is set. With
// neither Logger nor cmd.Stderr, only the last line is kept, for the error of an ended
// program. cmd.Stdin and cmd.Stdout must not be set.
//
// The session ends when the program ends, and the other way round. The session ends the
// program in three steps:
//
//   - It closes the program's input, which the program should take as a request to end.
//   - After Limits.ExitTimeout (default 5 s) it sends SIGTERM, or calls cmd.Cancel if set.
//     Windows has no SIGTERM: without cmd.Cancel the program is killed.
//   - After another Limits.KillTimeout (default 2 s) it sends SIGKILL.
//
// cmd.WaitDelay, if set, is the default of both times. cmd.Cancel is called at most once.
// [exec.CommandContext] sets a cmd.Cancel that kills, so prefer [exec.Command].
//
// The end of ctx closes the session like [Session.Close]. Session.Err, and the error of
// pending calls, then match [ErrClosed] and wrap ctx's cause.
//
// On Unix, unless cmd.SysProcAttr is set, the program leads its own process group, and
// signals go to the whole group. So programs started by a wrapper such as sh or npx end
// too, even if the wrapper ends first. A process that leaves the group, such as a daemon,
// stays.
//
// In a terminal, Ctrl-C and Ctrl-Z then reach only the calling program, which has to close
// the session. A program of the group that reads the terminal itself is stopped. With an
// empty [syscall.SysProcAttr] the program stays in the caller's group, and signals go to
// the program alone. With Setsid, or Setpgid and no Pgid, signals go to the group.
//
// [Session.Done] is closed when the program and its group have ended. cmd.ProcessState then
// holds the exit status; a failure is also logged. If the program ended first,
// [Session.Err] and the error of pending calls wrap io.EOF, and after a failure also an
// [*exec.ExitError]. The text has the exit status and, if the session reads the standard
// error, its last line:
//
//	program ended: exit status 2 (its standard error ends with "unknown flag: -x")
//
// If the program closes its output but runs for another second, the error is io.EOF alone.
// Processes that outlive the program and hold its output delay the session by at most
// cmd.WaitDelay (default 5 s).
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
	stop := context.AfterFunc(ctx, func() { s.closeAndFlush(&contextClosedError{context.Cause(ctx)}) })
	s.OnClose(func(error) { stop() })
	return s, nil
}

// contextClosedError is the close cause of a session whose start context has ended.
type contextClosedError struct{ cause error }

func (e *contextClosedError) Error() string   { return ErrClosed.Error() + ": " + trimPrefix(e.cause) }
func (e *contextClosedError) Unwrap() []error { return []error{ErrClosed, e.cause} }

func startProgram(cmd *exec.Cmd, o *Options) (*Session, error) {
	if cmd.Stdin != nil {
		return nil, errors.New("cmd.Stdin is set: it has to be nil, for the session writes to it")
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// A StdoutPipe does not fit: Wait would close the pipe with unread output.
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
		stdout:      output,
		cmd:         cmd,
		exitTimeout: durationOr(o.Limits.ExitTimeout, cmd.WaitDelay, defaultExitTimeout),
		killTimeout: durationOr(o.Limits.KillTimeout, cmd.WaitDelay, defaultKillTimeout),
		exited:      make(chan struct{}),
		log:         o.Logger,
	}
	if cmd.WaitDelay <= 0 {
		cmd.WaitDelay = defaultExitTimeout
	}
	if cmd.Cancel != nil {
		cmd.Cancel = sync.OnceValue(cmd.Cancel) // called by the session, or at the end of cmd's context
	}
	p.leadsGroup = leadProcessGroup(cmd)
	err = p.startProcess()
	writer.Close()
	if err != nil {
		output.Close()
		return nil, err
	}
	// Owner: the session. End: the program has ended.
	go p.waitForExit()
	return startStandalone(newStream(p, o.Framer), o), nil
}

// program is the connection to a running program.
type program struct {
	io.WriteCloser // the program's input
	stdout         *os.File
	cmd            *exec.Cmd
	leadsGroup     bool // the program leads a process group
	exitTimeout    time.Duration
	killTimeout    time.Duration
	stderr         *stderrCopy // nil if the program writes to a file
	log            *slog.Logger

	exited   chan struct{} // closed when the program has ended; its group may still run
	exitErr  error         // result of cmd.Wait, nil on success
	exitTime time.Time     // time of the exit
}

// stderrCopy copies the standard error of a program to a writer.
type stderrCopy struct {
	source      *os.File
	destination io.Writer
	copyEnded   chan struct{} // closed when the copying has ended
}

// startProcess starts the program. If the start fails, startProcess closes the program's
// input.
func (p *program) startProcess() error {
	to := p.cmd.Stderr
	if to == nil {
		to = &lineLogger{log: p.log}
	}
	if _, file := to.(*os.File); file {
		return p.cmd.Start()
	}
	// If the writer is no file, Wait would wait for every process with the pipe's other
	// end.
	from, writer, err := os.Pipe()
	if err != nil {
		return errors.Join(err, p.WriteCloser.Close())
	}
	set := p.cmd.Stderr
	p.cmd.Stderr = writer
	err = p.cmd.Start() // closes the input on failure
	p.cmd.Stderr = set
	writer.Close()
	if err != nil {
		from.Close()
		return err
	}
	p.stderr = &stderrCopy{from, to, make(chan struct{})}
	// Owner: the session. End: the standard error has ended, or Close gives up.
	go p.stderr.copyLines()
	return nil
}

func (c *stderrCopy) copyLines() {
	defer close(c.copyEnded)
	defer c.source.Close() // if the writer has failed, the program must notice
	_, _ = io.Copy(c.destination, c.source)
	if l, ok := c.destination.(*lineLogger); ok {
		l.logLine() // a last line without a newline
	}
}

// lastLine returns the last logged line, or "" if the copying has not ended.
func (c *stderrCopy) lastLine() string {
	if l, ok := c.destination.(*lineLogger); ok && isClosed(c.copyEnded) {
		return l.lastLine
	}
	return ""
}

// waitUntilCopied waits for the end of the copying, until deadline at most.
func (c *stderrCopy) waitUntilCopied(deadline time.Time) {
	_ = c.source.SetReadDeadline(deadline)
	stuck := time.NewTimer(time.Until(deadline) + exitNoticeTime) // the writer may hang
	defer stuck.Stop()
	select {
	case <-c.copyEnded:
	case <-stuck.C:
	}
}

// waitForExit waits for the program. Child processes may still hold the program's output
// open; they delay the session by at most cmd.WaitDelay.
func (p *program) waitForExit() {
	p.exitErr = p.cmd.Wait()
	p.exitTime = time.Now()
	_ = p.stdout.SetReadDeadline(p.exitTime.Add(p.cmd.WaitDelay))
	close(p.exited)
}

func (p *program) Read(b []byte) (int, error) {
	n, err := p.stdout.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, p.exitErrorOr(err)
}

func (p *program) Write(b []byte) (int, error) {
	n, err := p.WriteCloser.Write(b)
	return n, p.exitErrorOr(err)
}

// exitErrorOr returns err, or the program's exit error if the exit caused err.
func (p *program) exitErrorOr(err error) error {
	if err == nil {
		return nil
	}
	patience := time.NewTimer(exitNoticeTime)
	defer patience.Stop()
	select {
	case <-p.exited:
		if p.stderr != nil {
			select {
			case <-p.stderr.copyEnded: // the error quotes the last line
			case <-patience.C: // other processes hold the standard error
			}
		}
		if exit, ok := errors.AsType[*exec.ExitError](p.exitErr); ok {
			return p.newExitError(exit)
		}
		return io.EOF // the writer may have noticed first; see Session.endOfInput
	case <-patience.C: // the program has only closed its end
	}
	return err
}

// programExitError is the end of input and output after the program's exit.
type programExitError struct {
	text   string
	causes []error // io.EOF, and an *exec.ExitError after a failure
}

func (e *programExitError) Error() string   { return e.text }
func (e *programExitError) Unwrap() []error { return e.causes }

// newExitError returns the error of the ended program, with the given causes.
func (p *program) newExitError(causes ...error) error {
	text := "program ended: " + p.cmd.ProcessState.String()
	if p.stderr != nil {
		if line := p.stderr.lastLine(); line != "" {
			text += fmt.Sprintf(" (its standard error ends with %q)", line)
		}
	}
	return &programExitError{text, append([]error{io.EOF}, causes...)}
}

// Close ends the program, waits for the exit, and ends a Read.
func (p *program) Close() error {
	_ = p.WriteCloser.Close()
	err := p.waitOrKill()
	_ = p.stdout.Close()
	deadline := time.Now().Add(exitNoticeTime)
	if err == nil {
		if latest := p.exitTime.Add(p.cmd.WaitDelay); latest.After(deadline) {
			deadline = latest
		}
	}
	if p.stderr != nil {
		p.stderr.waitUntilCopied(deadline)
	}
	if err != nil {
		p.log.LogAttrs(context.Background(), slog.LevelError, "program cannot be killed", slog.Any("error", err))
		return err
	}
	if p.exitErr != nil {
		p.log.LogAttrs(context.Background(), slog.LevelWarn, "program ended", slog.Any("error", p.exitErr))
	}
	return p.exitErr
}

// waitOrKill waits for the end of the program and its group, after the input was closed.
// When a timeout passes, it sends a signal.
func (p *program) waitOrKill() error {
	if p.endsWithin(p.exitTimeout) {
		return nil
	}
	if canTerminate || p.cmd.Cancel != nil {
		p.logWarning("program, or what it has started, does not end, and is terminated", "Limits.ExitTimeout", p.exitTimeout)
		if err := p.askToTerminate(); err != nil {
			p.log.LogAttrs(context.Background(), slog.LevelWarn, "program cannot be terminated", slog.Any("error", err))
		}
		if p.endsWithin(p.killTimeout) {
			return nil
		}
		p.logWarning("program, or what it has started, does not end, and is killed", "Limits.KillTimeout", p.killTimeout)
	} else {
		p.logWarning("program, or what it has started, does not end, and is killed", "Limits.ExitTimeout", p.exitTimeout)
	}
	if err := p.sendSignal(os.Kill); err != nil {
		return err
	}
	<-p.exited
	p.endsWithin(exitNoticeTime)
	return nil
}

func (p *program) logWarning(text, limit string, waited time.Duration) {
	p.log.LogAttrs(context.Background(), slog.LevelWarn, text, timeLimitAttr(limit, waited))
}

// askToTerminate asks the program to end.
func (p *program) askToTerminate() error {
	if p.cmd.Cancel == nil {
		return p.sendSignal(terminateSignal)
	}
	if err := p.cmd.Cancel(); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// sendSignal sends a signal to the program, or to the group that the program leads. If
// every process has ended, the result is nil.
func (p *program) sendSignal(sig os.Signal) error {
	if p.leadsGroup {
		if p.hasEnded() && !isProcessGroupRunning(p.cmd.Process.Pid) {
			return nil // another group may have the number now
		}
		return signalProcessGroup(p.cmd.Process.Pid, sig)
	}
	if err := p.cmd.Process.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// hasEnded reports whether the program itself has ended.
func (p *program) hasEnded() bool { return isClosed(p.exited) }

// endsWithin waits for the end of the program and its group, and reports whether both ended
// within d.
func (p *program) endsWithin(d time.Duration) bool {
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	select {
	case <-p.exited:
	case <-timeout.C:
		return false
	}
	if !p.leadsGroup {
		return true
	}
	// The group's other processes are no children of this process, so no event reports
	// their end.
	for pause := time.Millisecond; isProcessGroupRunning(p.cmd.Process.Pid); pause = min(2*pause, groupPollInterval) {
		select {
		case <-time.After(pause):
		case <-timeout.C:
			return false
		}
	}
	return true
}

// maxLogLine is the length at which a line of standard error is cut, in bytes.
const maxLogLine = 4096

// maxLastLine is how many bytes of the last line an error quotes.
const maxLastLine = 256

// lineLogger logs its input line by line.
type lineLogger struct {
	log      *slog.Logger
	line     []byte
	lastLine string // beginning of the last logged line
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
			l.logLine()
		}
	}
	return len(p), nil
}

func (l *lineLogger) logLine() {
	if line := bytes.TrimRight(l.line, "\r\n"); len(line) > 0 {
		l.lastLine = bounded.Cut(bytes.TrimSpace(line), maxLastLine)
		l.log.LogAttrs(context.Background(), slog.LevelInfo, "program's standard error", slog.String("line", string(line)))
	}
	l.line = l.line[:0]
}
