package rpcx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"time"
)

// exitTimeout is how long a program may take to end once its input is closed.
const exitTimeout = 5 * time.Second

// Command starts a program and a session over its standard input and output.
// Its standard error goes to Options.Logger, line by line, unless cmd.Stderr is
// set. cmd.Stdin and cmd.Stdout must not be.
//
// The end of the session is the end of the program, whichever comes first. The
// session closes the program's input, which it should take for the request to end,
// and kills it if it has not ended after 5 s, or cmd.WaitDelay if that is set.
// [Session.Done] says that it has ended; how it ended is logged if it was not well.
// The end of ctx is a [Session.Close].
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
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	log := o.Logger.With(slog.String("program", cmd.Path))
	stderr := &lineLogger{log: log}
	if cmd.Stderr == nil {
		cmd.Stderr = stderr
	}
	if cmd.WaitDelay <= 0 {
		cmd.WaitDelay = exitTimeout
	}
	if err := cmd.Start(); err != nil {
		return nil, err // it has closed the pipes
	}
	s := newSession(newStream(&program{stdin, stdout, cmd, stderr, log}, o.Framer), o, RoleClient, &pool{}, &load{})
	s.start()
	s.connected()
	return s, nil
}

// program is the connection to a program that runs.
type program struct {
	io.WriteCloser // its input
	io.Reader      // its output
	cmd            *exec.Cmd
	stderr         *lineLogger
	log            *slog.Logger
}

// Close ends the program and waits for that, which ends a Read as well.
func (p *program) Close() error {
	_ = p.WriteCloser.Close()
	kill := time.AfterFunc(p.cmd.WaitDelay, func() {
		p.log.LogAttrs(context.Background(), slog.LevelWarn, "program does not end, and is killed",
			slog.Duration("waited", p.cmd.WaitDelay))
		_ = p.cmd.Process.Kill()
	})
	err := p.cmd.Wait()
	kill.Stop()
	p.stderr.flush() // nobody writes to it any more
	if err != nil {
		p.log.LogAttrs(context.Background(), slog.LevelWarn, "program ended", slog.Any("error", err))
	}
	return err
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
