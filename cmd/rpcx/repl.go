package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
)

// repl is the command repl: its flags, and the state of its run.
type repl struct {
	conn      *connFlags
	out       *outputFlags
	discover  string
	noHistory bool

	e       *env // stdout and stderr write above the prompt
	p       *printer
	target  target
	input   lineInput
	history *history // nil for none

	mu      sync.Mutex         // guards the following fields
	current *connection        // nil before the first connection, and after the end of one
	queue   []string           // lines that wait for the running line
	cancel  context.CancelFunc // ends the running line; nil if none is running
	methods methodTable        // what Tab and .methods know

	wake     chan struct{} // the queue has a line
	printing sync.Mutex    // one value at a time
	failed   bool          // a line has failed; only for input that is no terminal
}

func replCommand() *command {
	return &command{
		name:    "repl",
		usage:   "ADDR",
		summary: "Call methods line by line, and see notifications meanwhile",
		help: `
A line is METHOD [PARAMS], as in batch: the params are JSON, or arguments as those of
call. A line that begins with ! is a notification. JSON that is not complete goes on
in the next line. Lines that begin with a dot are for rpcx itself: .help lists them.

Notifications and requests of the peer appear above the prompt. Requests are refused.
When the connection has ended, the next call connects again.

  Tab       completes a method or the name of a param. At the first Tab, the peer is
            asked for its methods by rpc.discover. Methods that were called are known,
            too.
  Ctrl-C    ends the running call, and drops the lines that wait for it
  Ctrl-D    ends rpcx
  Up, Down  go through the history; Ctrl-R searches it

The prompt is > for a line, * while a call runs, and . within JSON. A line may be
typed while a call runs, and is run afterwards.

The history is in $XDG_STATE_HOME/rpcx/history, or ~/.local/state/rpcx/history, which
only its owner can read. Lines with a secret of --header, --auth or --proxy are not
kept, and neither are lines that begin with a space.

If stdin or stdout is not a terminal, lines are run one after the other without a prompt.
The exit code is 1 then if a reply was an error.`,
		examples: `
rpcx repl localhost:8888
rpcx repl wss://eth.example/ --output compact
printf 'sum 1 2\n!log done\n' | rpcx repl localhost:8888`,
		setup: func(fs *flags) action {
			r := &repl{conn: declareConnFlags(fs), out: declareOutputFlags(fs), discover: "rpc.discover"}
			fs.group("Repl")
			fs.String(&r.discover, "discover", "`METHOD`: what is asked for the peer's methods; '' for nothing")
			fs.Bool(&r.noHistory, "no-history", "neither read nor write the history")
			return r.run
		},
	}
}

// maxQueued bounds the lines that wait for the running line.
const maxQueued = 1000

// busyAfter is the time after which the prompt shows that a call is running.
const busyAfter = 200 * time.Millisecond

// The prompts have the same width: the line editor changes one into another in place.
const (
	promptReady = "> "
	promptBusy  = "* "
	promptMore  = ". "
)

func (r *repl) run(ctx context.Context, e *env, args []string) (err error) {
	if r.p, err = r.out.printer(e); err != nil {
		return err
	}
	if r.target, args, err = r.conn.targetOf(args); err != nil {
		return err
	}
	if len(args) > 0 {
		return usagef("%q is too much: calls are lines of stdin", clip(args[0]))
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	r.wake = make(chan struct{}, 1)
	interactive := e.stdinTTY && e.stdoutTTY && e.getenv("TERM") != "dumb"
	if interactive {
		r.openHistory(e)
		if r.input, err = newTerminalInput(ctx, e, r.history.lines(), r.complete); err != nil {
			return err
		}
	} else {
		r.input = newPlainInput(ctx, e)
	}
	defer r.input.close()
	r.e = r.input.env()
	r.p.w = r.e.stdout
	c, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer r.disconnect()
	if !interactive {
		return r.runPlain(ctx)
	}
	notice(r.e, "%s; Tab completes, Ctrl-C ends a call, Ctrl-D ends rpcx; .help", c.description())
	var worker sync.WaitGroup
	worker.Go(func() { r.runQueue(ctx) }) // Owner: run. End: the end of ctx.
	defer worker.Wait()
	defer end()
	return r.readLines(ctx)
}

// readLines reads from the terminal until Ctrl-D.
func (r *repl) readLines(ctx context.Context) error {
	hinted := false
	for {
		line, err := readStatement(r.input)
		switch {
		case errors.Is(err, errInterrupted):
			if !r.interrupt() && !hinted {
				hinted = true
				notice(r.e, "Ctrl-D ends rpcx")
			}
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			notice(r.e, "%s", err)
			continue
		}
		r.remember(line)
		line = strings.TrimSpace(line)
		if line == ".quit" || line == ".exit" {
			return nil
		}
		if line != "" && !r.enqueue(line) {
			notice(r.e, "not run: %d lines wait already", maxQueued)
		}
	}
}

// enqueue adds a line for runQueue. It returns false if too many lines wait.
func (r *repl) enqueue(line string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) >= maxQueued {
		return false
	}
	r.queue = append(r.queue, line)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// interrupt ends the running line, and drops those that wait. It returns false if nothing
// was running.
func (r *repl) interrupt() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = nil
	if r.cancel == nil {
		return false
	}
	r.cancel()
	return true
}

// runQueue runs the lines of the queue, until ctx ends.
func (r *repl) runQueue(ctx context.Context) {
	for {
		lineCtx, line, ok := r.nextLine(ctx)
		if !ok {
			select {
			case <-r.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		ready := r.showBusy()
		err := r.runLine(lineCtx, line)
		if ctx.Err() == nil {
			r.printFailure(err)
		}
		r.finishLine()
		ready()
	}
}

// showBusy changes the prompt after busyAfter, until ready is called.
func (r *repl) showBusy() (ready func()) {
	var mu sync.Mutex
	done := false
	timer := time.AfterFunc(busyAfter, func() {
		mu.Lock()
		defer mu.Unlock()
		if !done {
			r.input.setPrompt(promptBusy)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done = true
		if !timer.Stop() {
			r.input.setPrompt(promptReady)
		}
	}
}

// nextLine takes a line from the queue, and makes its context.
func (r *repl) nextLine(ctx context.Context) (context.Context, string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 || ctx.Err() != nil {
		return nil, "", false
	}
	line := r.queue[0]
	r.queue = r.queue[1:]
	ctx, r.cancel = context.WithCancel(ctx)
	return ctx, line, true
}

func (r *repl) finishLine() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel()
	r.cancel = nil
}

// runPlain runs lines that come from no terminal, until their end.
func (r *repl) runPlain(ctx context.Context) error {
	for {
		line, err := readStatement(r.input)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			if r.failed {
				return &exitError{code: exitPeer, err: errors.New("a line has failed"), silent: true}
			}
			return nil
		case err != nil:
			return usagef("%w", err)
		}
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if line == ".quit" || line == ".exit" {
			return nil
		}
		err = r.runLine(ctx, line)
		if _, ok := errors.AsType[*outputError](err); ok {
			return err
		}
		r.printFailure(err)
		r.failed = r.failed || err != nil
	}
}

// runLine runs one line: a call, a notification, or a command of rpcx itself.
func (r *repl) runLine(ctx context.Context, line string) error {
	if strings.HasPrefix(line, ".") {
		return r.runDot(ctx, line)
	}
	m, err := parseLine(r.e, line)
	if err != nil {
		return err
	}
	callCtx, cancel := r.conn.withTimeout(ctx)
	defer cancel()
	c, err := r.connect(callCtx)
	if err != nil {
		return err
	}
	if m.notification {
		return c.explain(c.Notify(callCtx, m.method, paramsOrNil(m.params)))
	}
	result, err := c.call(callCtx, m.method, m.params)
	if _, ok := errors.AsType[*rpcx.Error](err); err == nil || ok {
		r.noteMethod(m.method, err)
	}
	if errors.Is(err, rpcx.ErrMethodNotFound) && (m.method == "exit" || slices.Contains(dotCommands(), "."+m.method)) {
		r.printing.Lock()
		notice(r.e, "to rpcx itself, write .%s", m.method)
		r.printing.Unlock()
	}
	if err != nil {
		return err
	}
	return r.print(ctx, result)
}

func (r *repl) print(ctx context.Context, value json.RawMessage) error {
	r.printing.Lock()
	defer r.printing.Unlock()
	return r.p.print(ctx, value)
}

// printFailure prints why a line has failed: an error of the peer as JSON, any other error as
// text.
func (r *repl) printFailure(err error) {
	if err == nil {
		return
	}
	text := r.conn.redact(err.Error())
	if peer, ok := errors.AsType[*rpcx.Error](err); ok {
		text = string(peerErrorJSON(peer))
	} else if errors.Is(err, context.Canceled) {
		text = "cancelled"
	}
	r.printing.Lock()
	defer r.printing.Unlock()
	notice(r.e, "%s", text)
}

// connect returns the connection, or a new one if there is none.
func (r *repl) connect(ctx context.Context) (*connection, error) {
	r.mu.Lock()
	c := r.current
	r.mu.Unlock()
	if c != nil {
		return c, nil
	}
	// A terminal that is slow slows the peer down, in place of a loss.
	c, err := r.conn.dial(ctx, r.e, r.target, &rpcx.Options{
		Handler: rpcx.HandlerFunc(r.servePeer),
		Order:   rpcx.Sequential,
		Limits:  rpcx.Limits{ProcessingTimeout: -1, Queue: 1 << 17, QueueBytes: maxInput},
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.current = c
	r.mu.Unlock()
	if c.session != nil {
		c.session.OnClose(func(err error) { r.forget(c, err) })
	}
	return c, nil
}

// forget drops a connection that has ended, so that the next call connects again.
func (r *repl) forget(c *connection, err error) {
	r.mu.Lock()
	lost := r.current == c
	if lost {
		r.current = nil
	}
	r.mu.Unlock()
	if !lost {
		return // by disconnect
	}
	why := "the peer has closed the connection"
	if !errors.Is(err, io.EOF) {
		why = "the connection has ended: " + c.explain(err).Error()
	}
	notice(r.e, "%s; the next call connects again", r.conn.redact(why))
}

func (r *repl) disconnect() {
	r.mu.Lock()
	c := r.current
	r.current = nil
	r.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// maxShown bounds the runes of a peer's message that are shown above the prompt.
const maxShown = 4096

// servePeer shows what the peer sends on its own.
func (r *repl) servePeer(_ context.Context, req *rpcx.Request) (any, error) {
	text := shown(req.Method)
	if params := paramsOf(req); params != nil {
		text += " " + shown(compact(params))
	}
	kind := "←"
	if !req.IsNotification() {
		kind = "← (refused)"
	}
	r.printing.Lock()
	defer r.printing.Unlock()
	_ = r.p.write(kind + " " + text)
	if req.IsNotification() {
		return nil, nil
	}
	return nil, rpcx.MethodNotFound(req.Method)
}

// paramsOf returns the params of a request as JSON, or nil. A request of aiomas has both
// kinds, and one of them is mostly empty.
func paramsOf(req *rpcx.Request) json.RawMessage {
	named := req.Params.Named
	if named != nil && (req.Params.Positional == nil || string(named) != "{}") {
		return named
	}
	return req.Params.Positional
}

// shown returns a text of the peer as a part of one line, without control characters.
func shown(text string) string {
	cut := 0
	for i := range text {
		if cut++; cut > maxShown {
			text = fmt.Sprintf("%s… (%d bytes)", text[:i], len(text))
			break
		}
	}
	return flatten(text)
}
