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
	return &joinedConn{
		r: r, w: w, closed: make(chan struct{}),
		readOperation:  ioOperation{perform: r.Read, returned: make(chan struct{}, 1)},
		writeOperation: ioOperation{perform: w.Write, returned: make(chan struct{}, 1)},
	}
}

// joinedConn is a connection of two halves.
type joinedConn struct {
	r              io.Reader
	w              io.Writer
	readOperation  ioOperation
	writeOperation ioOperation
	closeOnce      sync.Once
	closed         chan struct{}
}

// ioOperation is a Read or a Write that goes on when nobody waits for it any more.
// So it has a buffer of its own.
type ioOperation struct {
	perform  func([]byte) (int, error)
	buf      []byte
	n        int
	err      error
	returned chan struct{} // has one slot
}

// runUntilClosed does the operation with o.buf. It returns net.ErrClosed, and leaves the
// operation alone, if closed is closed before it is done.
func (o *ioOperation) runUntilClosed(closed <-chan struct{}) (int, error) {
	buf := o.buf
	// Owner: the connection. End: do returns, perhaps after the connection's end.
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

// Read is called by one goroutine at a time, and so is Write.
func (j *joinedConn) Read(p []byte) (int, error) {
	if j.isClosed() { // and the buffer may be in use
		return 0, net.ErrClosed
	}
	o := &j.readOperation
	o.buf = slices.Grow(o.buf[:0], len(p))[:len(p)]
	n, err := o.runUntilClosed(j.closed)
	copy(p, o.buf[:n])
	return n, err
}

func (j *joinedConn) Write(p []byte) (int, error) {
	if j.isClosed() {
		return 0, net.ErrClosed
	}
	o := &j.writeOperation
	o.buf = append(o.buf[:0], p...)
	return o.runUntilClosed(j.closed)
}

func (j *joinedConn) isClosed() bool {
	select {
	case <-j.closed:
		return true
	default:
		return false
	}
}

// Close closes the halves, which need not wait for what is under way.
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
	// program's own, to say why; and how long a program may take to end by SIGKILL.
	exitNoticeTime = 200 * time.Millisecond
	// groupPollInterval is how often at least the session looks whether a process group is empty.
	groupPollInterval = 50 * time.Millisecond
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
	stop := context.AfterFunc(ctx, func() { s.closeAndFlush(&contextClosedError{context.Cause(ctx)}) })
	s.OnClose(func(error) { stop() })
	return s, nil
}

// contextClosedError is the end of a session with the context that it was started with.
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
		cmd.Cancel = sync.OnceValue(cmd.Cancel) // by the session, or at the end of cmd's context
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

// program is the connection to a program that runs.
type program struct {
	io.WriteCloser // its input
	stdout         *os.File
	cmd            *exec.Cmd
	leadsGroup     bool // the program leads a process group
	exitTimeout    time.Duration
	killTimeout    time.Duration
	stderr         *stderrCopy // nil if the program writes to a file itself
	log            *slog.Logger

	exited   chan struct{} // closed when the program has ended, others of its group perhaps not
	exitErr  error         // how it has ended, nil if well
	exitTime time.Time     // when
}

// stderrCopy is the standard error of a program on its way to a writer.
type stderrCopy struct {
	source      *os.File
	destination io.Writer
	copyEnded   chan struct{} // closed when the copying has ended
}

// startProcess starts the program. If that fails, it closes the program's input.
func (p *program) startProcess() error {
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
	p.stderr = &stderrCopy{from, to, make(chan struct{})}
	// Owner: the session. End: the standard error has ended, or Close gives up.
	go p.stderr.copyLines()
	return nil
}

func (c *stderrCopy) copyLines() {
	defer close(c.copyEnded)
	defer c.source.Close() // if the writer has failed, the program has to know
	_, _ = io.Copy(c.destination, c.source)
	if l, ok := c.destination.(*lineLogger); ok {
		l.logLine() // a last line without its end
	}
}

// lastLine returns the last line that was logged, "" unless the copying has ended.
func (c *stderrCopy) lastLine() string {
	select {
	case <-c.copyEnded:
		if l, ok := c.destination.(*lineLogger); ok {
			return l.lastLine
		}
	default:
	}
	return ""
}

// waitUntilCopied waits until all is copied, until deadline at most.
func (c *stderrCopy) waitUntilCopied(deadline time.Time) {
	_ = c.source.SetReadDeadline(deadline)
	stuck := time.NewTimer(time.Until(deadline) + exitNoticeTime) // in the writer
	defer stuck.Stop()
	select {
	case <-c.copyEnded:
	case <-stuck.C:
	}
}

// waitForExit waits for the program. Others that it has started may have its output open
// still. They do not hold the session up for longer than cmd.WaitDelay.
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

// exitErrorOr returns err, or that the program has ended if that is why there is one.
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
			case <-p.stderr.copyEnded: // its last line belongs to the error
			case <-patience.C: // others have its standard error
			}
		}
		if exit, ok := errors.AsType[*exec.ExitError](p.exitErr); ok {
			return p.newExitError(exit)
		}
		return io.EOF // though it may be the writer who noticed; see Session.endOfInput
	case <-patience.C: // it has closed its end only
	}
	return err
}

// programExitError is the end of the input and output of a program that has ended.
type programExitError struct {
	text   string
	causes []error // io.EOF, and an *exec.ExitError if the program has failed
}

func (e *programExitError) Error() string   { return e.text }
func (e *programExitError) Unwrap() []error { return e.causes }

// newExitError returns the error for the program, which has ended with the causes given.
func (p *program) newExitError(causes ...error) error {
	text := "program ended: " + p.cmd.ProcessState.String()
	if p.stderr != nil {
		if line := p.stderr.lastLine(); line != "" {
			text += fmt.Sprintf(" (its standard error ends with %q)", line)
		}
	}
	return &programExitError{text, append([]error{io.EOF}, causes...)}
}

// Close ends the program, waits for that, and ends a Read.
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

// waitOrKill waits for the program, whose input is closed, and the others of its group to
// end. It sends them signals when their time is up.
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

// sendSignal sends a signal to the program, or to its group if it leads one. That all
// have ended is no error.
func (p *program) sendSignal(sig os.Signal) error {
	if p.leadsGroup {
		if p.hasEnded() && !isProcessGroupRunning(p.cmd.Process.Pid) {
			return nil // the number may be another group's
		}
		return signalProcessGroup(p.cmd.Process.Pid, sig)
	}
	if err := p.cmd.Process.Signal(sig); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// hasEnded reports whether the program itself has ended.
func (p *program) hasEnded() bool {
	select {
	case <-p.exited:
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
	case <-p.exited:
	case <-timeout.C:
		return false
	}
	if !p.leadsGroup {
		return true
	}
	// The others are no children of this process, so nothing tells of their end.
	for pause := time.Millisecond; isProcessGroupRunning(p.cmd.Process.Pid); pause = min(2*pause, groupPollInterval) {
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
	log      *slog.Logger
	line     []byte
	lastLine string // the beginning of the last line that was logged
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
