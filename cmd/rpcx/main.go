// Rpcx is a command for JSON-RPC servers: it calls methods, sends notifications and
// batches, listens to notifications, measures, and describes methods. Run "rpcx --help".
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	// With a receiver for SIGPIPE, a write to a closed stdout is an error, not the end of the
	// process. Programs that rpcx starts still have the default.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(ctx, processEnv(), os.Args[1:]))
}

// env is what a command has from its process. Tests replace all of it.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// stdinTTY, stdoutTTY and stderrTTY tell whether the files are terminals.
	stdinTTY, stdoutTTY, stderrTTY bool
	getenv                         func(key string) string
	interrupted                    <-chan struct{} // closed by Ctrl-C; set by run
}

func processEnv() *env {
	return &env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		stdinTTY:  term.IsTerminal(int(os.Stdin.Fd())),
		stdoutTTY: term.IsTerminal(int(os.Stdout.Fd())),
		stderrTTY: term.IsTerminal(int(os.Stderr.Fd())),
		getenv:    os.Getenv,
	}
}

// run runs a command line, and returns the exit code. Errors are printed on stderr.
func run(ctx context.Context, e *env, args []string) int {
	e.interrupted = ctx.Done()
	c, err := dispatch(ctx, e, args)
	code := exitCodeOf(ctx, err)
	if code != exitOK && code != exitInterrupted {
		printError(e, c, err)
	}
	return code
}

// dispatch finds the command, reads the flags, and runs the command. c is nil if args
// name no command.
func dispatch(ctx context.Context, e *env, args []string) (c *command, err error) {
	if len(args) == 0 {
		return nil, usagef("no command; the commands are %s", commandNames())
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		return nil, printHelp(e, args[1:])
	case "-version", "--version", "version":
		return nil, printText(e, versionText()+"\n")
	}
	c = findCommand(args[0])
	if c == nil {
		return nil, usagef("unknown command %q%s; the commands are %s",
			args[0], didYouMean(args[0], commandNameList()), commandNames())
	}
	fs := newFlags()
	action := c.setup(fs)
	positional, err := fs.parse(args[1:])
	if errors.Is(err, errHelp) {
		return c, printCommandHelp(e, c)
	}
	if err != nil {
		return c, err
	}
	return c, action(ctx, e, positional)
}
