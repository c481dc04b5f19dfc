package rpcx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"time"
)

const (
	// exitTimeout is how long a program may take to end once its input is closed.
	exitTimeout = 5 * time.Second
	// exitNotice is how long the end of a program's input or output waits for the
	// program's own, to say why.
	exitNotice = 200 * time.Millisecond
)

// Command starts a program and a session over its standard input and output.
// Its standard error goes to Options.Logger, line by line, unless cmd.Stderr is
// set. cmd.Stdin and cmd.Stdout must not be.
//
// The end of the session is the end of the program, whichever comes first. The
// session closes the program's input, which it should take for the request to end,
// and kills it if it has not ended after 5 s, or cmd.WaitDelay if that is set.
// Programs that it has started and that have its output hold the session up no
// longer than that, either. [Session.Done] says that it has ended; how it ended is
// in cmd.ProcessState then, and is logged if it was not well. If it was the program
// that ended first, and not well, then [Session.Err], and the error of calls that were
// pending, wraps an [*exec.ExitError] beside io.EOF; not if it, or what it started with
// its standard error, goes on for more than 200 ms after that was noticed. The end of
// ctx is a [Session.Close].
func Command(ctx context.Context, cmd *exec.Cmd, opts *Options) (*Session, error) {
	o := options(opts)
	err := context.Cause(ctx)
	var s *Session
	if err == nil {
		s, err = startProgram(cmd, o)
	}
	if err != nil {
		return nil, fmt.Errorf("start program: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	s.OnClose(func(error) { stop() })
	return s, nil
}

func startProgram(cmd *exec.Cmd, o *Options) (*Session, error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not a StdoutPipe, which Wait closes, with what is in it.
	if cmd.Stdout != nil {
		return nil, errors.Join(errors.New("cmd.Stdout is set"), stdin.Close())
	}
	output, writer, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	cmd.Stdout = writer
	o.Logger = o.Logger.With(slog.String("program", cmd.Path))
	stderr := &lineLogger{log: o.Logger}
	if cmd.Stderr == nil {
		cmd.Stderr = stderr
	}
	if cmd.WaitDelay <= 0 {
		cmd.WaitDelay = exitTimeout
	}
	err = cmd.Start() // which closes stdin if it fails
	writer.Close()
	if err != nil {
		output.Close()
		return nil, err
	}
	p := &program{WriteCloser: stdin, output: output, cmd: cmd, ended: make(chan struct{}), stderr: stderr, log: o.Logger}
	// Owner: the session. End: the program has ended.
	go p.wait()
	return startAlone(newStream(p, o.Framer), o), nil
}

// program is the connection to a program that runs.
type program struct {
	io.WriteCloser // its input
	output         *os.File
	cmd            *exec.Cmd
	ended          chan struct{} // closed when it has
	err            error         // how, then; nil if well
	stderr         *lineLogger
	log            *slog.Logger
}

// wait waits for the program. Others that it has started may have its output open
// still, and keep the session no longer than it may take to end itself.
func (p *program) wait() {
	p.err = p.cmd.Wait()
	_ = p.output.SetReadDeadline(time.Now().Add(p.cmd.WaitDelay))
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
		if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
			return &exitError{exit}
		}
		return io.EOF // though it may be the writer who noticed
	case <-patience.C: // it has closed its end only, or another has its standard error
	}
	return err
}

// exitError is the end of the input and output of a program that has failed.
type exitError struct{ exit *exec.ExitError }

func (e *exitError) Error() string   { return "program ended: " + e.exit.Error() }
func (e *exitError) Unwrap() []error { return []error{io.EOF, e.exit} }

// Close ends the program, waits for that, and ends a Read.
func (p *program) Close() error {
	_ = p.WriteCloser.Close()
	killed := make(chan struct{})
	kill := time.AfterFunc(p.cmd.WaitDelay, func() {
		defer close(killed)
		if p.cmd.Process.Kill() == nil { // it has not ended
			p.log.LogAttrs(context.Background(), slog.LevelWarn, "program does not end, and is killed",
				slog.Duration("waited", p.cmd.WaitDelay))
		}
	})
	<-p.ended
	if !kill.Stop() {
		<-killed // so that nothing is logged once the session is done
	}
	_ = p.output.Close()
	p.stderr.flush() // nobody writes to it any more
	if p.err != nil {
		p.log.LogAttrs(context.Background(), slog.LevelWarn, "program ended", slog.Any("error", p.err))
	}
	return p.err
}

// maxLogLine is where a line is cut that a program writes to its standard error.
const maxLogLine = 4096

// lineLogger logs what is written to it, a line at a time.
type lineLogger struct {
	log  *slog.Logger
	line []byte
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
		l.log.LogAttrs(context.Background(), slog.LevelInfo, "program's standard error", slog.String("line", string(line)))
	}
	l.line = l.line[:0]
}
