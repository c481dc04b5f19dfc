package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"example.com/rpcx"
)

// batchCall is the flags of batch, and its connection.
type batchCall struct {
	conn *connFlags
	out  *outputFlags
	each bool
}

func batchCommand() *command {
	return &command{
		name:    "batch",
		usage:   "ADDR [@FILE] < LINES",
		summary: "Send many calls and notifications in one message",
		help: `
Each line of stdin, or of FILE, is METHOD [PARAMS]. The params are JSON, or arguments as
those of call. A line that begins with ! is a notification, and one that begins with # a
remark. If a line is wrong, nothing is sent.

The replies are one array, in the order of the lines. An element has the number of the
line, the method, and either the result or the error. With --output raw, each result is a
line of its own, and errors go to stderr. If a reply is an error, the exit code is 1.

With --each, every line is a message of its own, sent after the reply to the line before.
This is for peers that have no batches, such as JSON-RPC 1.0, LSP and MCP.`,
		examples: `
printf 'sum [1,2]\necho message=hi\n!log "it rains"\n' | rpcx batch localhost:8888 --output compact
rpcx batch https://rpc.example/ @calls.txt --jq '.[].result'`,
		setup: func(fs *flags) action {
			b := &batchCall{}
			fs.Bool(&b.each, "each", "send each line as a message of its own, one after the other")
			b.out, b.conn = declareOutputFlags(fs), declareConnFlags(fs)
			return b.run
		},
	}
}

func (b *batchCall) run(ctx context.Context, e *env, args []string) error {
	p, err := b.out.printer(e)
	if err != nil {
		return err
	}
	t, args, err := b.conn.targetOf(args)
	if err != nil {
		return err
	}
	lines, err := b.lines(e, args)
	if err != nil {
		return err
	}
	dialCtx, cancel := b.conn.withTimeout(ctx)
	defer cancel()
	// The peer's limit counts, not this one.
	c, err := b.conn.dial(dialCtx, e, t, &rpcx.Options{Limits: rpcx.Limits{Batch: max(len(lines), 1)}})
	if err != nil {
		return err
	}
	defer c.Close()
	if b.each {
		return b.sendEach(ctx, e, c, lines, p)
	}
	return b.sendBatch(dialCtx, e, c, lines, p)
}

// lines reads the lines from stdin or a file.
func (b *batchCall) lines(e *env, args []string) ([]messageLine, error) {
	switch {
	case len(args) == 0 || len(args) == 1 && args[0] == "-":
		if e.stdinTTY {
			notice(e, "one call on each line, as in: sum [1,2]; Ctrl-D ends the batch")
		}
		return readLines(e, e.stdinReader())
	case len(args) > 1:
		return nil, usagef("more than one file of lines")
	}
	path, ok := strings.CutPrefix(args[0], "@")
	if !ok {
		return nil, usagef("%q is not @FILE; the calls are lines of stdin, or of @FILE", clip(args[0]))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%w", err)
	}
	defer f.Close()
	return readLines(e, f)
}

// batchReply is an element of the array that batch prints.
type batchReply struct {
	Line   int             `json:"line"`
	Method string          `json:"method"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  json.RawMessage `json:"error,omitempty"`
}

// sendBatch sends all lines in one message.
func (b *batchCall) sendBatch(ctx context.Context, e *env, c *connection, lines []messageLine, p *printer) error {
	var batch rpcx.Batch
	results := make([]json.RawMessage, len(lines))
	for i, line := range lines {
		if line.notification {
			batch.Notify(line.method, paramsOrNil(line.params))
		} else {
			batch.Call(line.method, paramsOrNil(line.params), &results[i])
		}
	}
	err := c.SendBatch(ctx, &batch)
	failed, ok := errors.AsType[*rpcx.BatchError](err)
	if err != nil && !ok {
		if unsent, _ := errors.AsType[*rpcx.ProtocolError](err); unsent != nil && unsent.Unsent {
			return usagef("%w\n--each sends each line as a message of its own.", err)
		}
		return c.explain(err)
	}
	if ok && !slices.ContainsFunc(failed.Errs, isReply) {
		return c.explain(failed.Errs[0])
	}
	replies := replyList{e: e, c: c, p: p}
	for i, n := 0, 0; i < len(lines); i++ {
		if lines[i].notification {
			continue
		}
		var callErr error
		if ok && n < len(failed.Errs) {
			callErr = failed.Errs[n]
		}
		n++
		if err := replies.add(ctx, lines[i], results[i], callErr); err != nil {
			return err
		}
	}
	return replies.finish(ctx)
}

// isReply reports whether the outcome of a call has come from the peer.
func isReply(err error) bool {
	_, refused := errors.AsType[*rpcx.Error](err)
	return err == nil || refused
}

// sendEach sends the lines one after the other. It stops where the connection fails.
func (b *batchCall) sendEach(ctx context.Context, e *env, c *connection, lines []messageLine, p *printer) error {
	replies := replyList{e: e, c: c, p: p}
	for _, line := range lines {
		result, err := b.sendLine(ctx, c, line)
		if err == nil && line.notification {
			continue
		}
		if err := replies.add(ctx, line, result, err); err != nil {
			return err
		}
		if replies.broken != nil {
			break
		}
	}
	return replies.finish(ctx)
}

func (b *batchCall) sendLine(ctx context.Context, c *connection, line messageLine) (result json.RawMessage, err error) {
	ctx, cancel := b.conn.withTimeout(ctx)
	defer cancel()
	if line.notification {
		return nil, c.Notify(ctx, line.method, paramsOrNil(line.params))
	}
	err = c.Call(ctx, line.method, paramsOrNil(line.params), &result)
	return result, err
}

// replyList collects the replies to a batch, and prints each at once if the form is raw.
type replyList struct {
	e       *env
	c       *connection
	p       *printer
	replies []batchReply
	refused int   // errors of the peer
	broken  error // the first other error
}

func (l *replyList) add(ctx context.Context, line messageLine, result json.RawMessage, err error) error {
	reply := batchReply{Line: line.number, Method: line.method, Result: result}
	if peer, ok := errors.AsType[*rpcx.Error](err); ok {
		l.refused++
		reply.Result, reply.Error = nil, peerErrorJSON(peer)
	} else if err != nil {
		err = l.c.explain(err)
		if l.broken == nil {
			l.broken = fmt.Errorf("line %d, %s: %w", line.number, line.method, err)
		}
		reply.Result = nil
		reply.Error, _ = marshal(map[string]string{"message": err.Error()})
	}
	if l.p.form != "raw" || l.p.filter != nil {
		l.replies = append(l.replies, reply)
		return nil
	}
	if reply.Error == nil {
		return l.p.print(ctx, result)
	}
	text, err := marshal(reply)
	if err != nil {
		return err
	}
	notice(l.e, "%s", text)
	return nil
}

// finish prints the array, and returns the error that decides the exit code.
func (l *replyList) finish(ctx context.Context) error {
	if l.p.form != "raw" || l.p.filter != nil {
		if l.replies == nil {
			l.replies = []batchReply{} // notifications only
		}
		text, err := marshal(l.replies)
		if err != nil {
			return err
		}
		if err := l.p.print(ctx, text); err != nil {
			return err
		}
	}
	if l.broken != nil {
		return l.broken
	}
	if l.refused > 0 {
		return &exitError{code: exitPeer, err: fmt.Errorf("%d calls were answered with an error", l.refused), silent: true}
	}
	return nil
}
