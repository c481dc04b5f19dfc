package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx"
)

// proxyCall is the command proxy: its flags, and the state of its run.
type proxyCall struct {
	conn     *connFlags
	out      *outputFlags
	listen   listenFlags
	record   string
	maxConns int

	e       *env
	target  target
	log     *proxyLog
	links   atomic.Int64   // the number of the last connection
	open    chan struct{}  // has an element for each open connection; its capacity is the limit
	running sync.WaitGroup // goroutines of connections
}

func proxyCommand() *command {
	return &command{
		name:    "proxy",
		usage:   "LISTEN ADDR",
		summary: "Pass messages on, and show them",
		help: `
Clients connect to LISTEN, and rpcx connects to ADDR for each of them. Both have the
forms of ADDR. LISTEN may also be -, for the stdin and stdout of rpcx: then an editor
or another program starts rpcx in place of its server, and messages are shown on
stderr.

Every message is a line: the time, the number of the connection, --> from the client
or <-- from the server, and the message. A reply shows its method and how long the
call took. --output json and compact, and --jq, print an object for each message
instead, with time, conn, from, message, and calls for replies.

At tcp://, tls:// and unix:// addresses, and with a command, the bytes pass unchanged,
whatever they are. Bytes that are not a message of --framing are only described. Both
ends of a connection close separately.

If ADDR is http:// or ws://, clients of LISTEN speak HTTP or WebSockets, too, also if
LISTEN is only host:port. A request to the path of LISTEN goes to the path of ADDR, and
a longer path is added to that of ADDR. The messages pass unchanged. Of the headers,
Host becomes that of ADDR, and compression is not offered, so that messages can be
shown.

--record appends the objects to FILE, which only its owner can read. Secrets of
--header, --auth and --proxy are replaced in what is shown and recorded, headers of
HTTP are not recorded, and values of Authorization, Cookie and the like are replaced
where HTTP passes as lines. The messages themselves are recorded as they are, with
passwords in their params.

Messages over --max-size pass as well, but are not shown. A stdout that nobody reads
stops what passes. Ctrl-C ends rpcx.`,
		examples: `
rpcx proxy localhost:9000 localhost:8888 --record session.jsonl
rpcx proxy localhost:9000 wss://eth.example/ --auth @token
rpcx proxy - 'stdio:gopls' --framing lsp --record gopls.jsonl`,
		setup: func(fs *flags) action {
			p := &proxyCall{conn: declareConnFlags(fs), out: declareOutputFlags(fs, "text"), maxConns: 256}
			p.conn.maxSize = 1 << 20
			size := fs.Lookup("max-size")
			size.DefValue = size.Value.String()
			fs.group("Proxy")
			fs.File(&p.record, "record", "`FILE`: append what passes, as lines of JSON")
			fs.Int(&p.maxConns, "max-conns", "`NUMBER`: the most connections at a time")
			p.listen.declare(fs, "listen-")
			return p.run
		},
	}
}

func (p *proxyCall) run(ctx context.Context, e *env, args []string) (err error) {
	if p.conn.stdio != "" {
		args = append(args, "stdio:"+p.conn.stdio)
	}
	if len(args) != 2 {
		return usagef("want LISTEN and ADDR")
	}
	if p.maxConns < 1 {
		return usagef("flag --max-conns: want a number of 1 or more")
	}
	if p.target, err = p.conn.parseTarget(args[1]); err != nil {
		return err
	}
	p.e, p.open = e, make(chan struct{}, p.maxConns)
	overStdio := args[0] == "-"
	if overStdio {
		quiet := *e // stdout is for the client
		quiet.stdout, quiet.stdoutTTY = e.stderr, e.stderrTTY
		p.e = &quiet
	}
	printer, err := p.out.printer(p.e)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if p.log, err = newProxyLog(p.e, printer, p.conn, p.record, end); err != nil {
		return err
	}
	defer func() { err = errors.Join(p.log.close(), err) }()
	if overStdio {
		return p.serveStdio(ctx, e)
	}
	return p.serve(ctx, args[0])
}

// serveStdio serves one client, on stdin and stdout.
func (p *proxyCall) serveStdio(ctx context.Context, e *env) error {
	if p.isWeb() {
		return usagef("- is not possible with %s", p.target.shown)
	}
	client := &streamEnd{Reader: e.stdin, Writer: e.stdout}
	client.closeWrite = func() error { return closeIfCloser(e.stdout) }
	client.closeAll = func() error { return errors.Join(closeIfCloser(e.stdin), closeIfCloser(e.stdout)) }
	p.passStream(ctx, client, "stdin and stdout")
	return endOf(ctx)
}

func closeIfCloser(v any) error {
	if c, ok := v.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (p *proxyCall) isWeb() bool { return p.target.kind == kindWS || p.target.kind == kindHTTP }

// serve accepts clients until ctx ends.
func (p *proxyCall) serve(ctx context.Context, addr string) error {
	t, err := p.conn.parseAddr(addr)
	if err != nil {
		return err
	}
	if web := t.kind == kindWS || t.kind == kindHTTP; web || p.isWeb() {
		// LISTEN may be host:port for a web address.
		switch {
		case !p.isWeb():
			return usagef("%s passes to a web address only, and not to %s", t.shown, p.target.shown)
		case !web && t.kind != kindStream:
			return usagef("%s passes to a web address, and cannot listen at %s", p.target.shown, t.shown)
		}
	}
	l, err := p.listen.listen(ctx, t)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	shown := shownAddr(t, l)
	if t.kind == kindStream && p.isWeb() { // clients write the scheme of ADDR
		shown = webAddr(shown, p.target.kind)
	}
	notice(p.e, "listening at %s, passing to %s", shown, p.target.shown)
	if p.isWeb() {
		err = p.serveWeb(ctx, l, webPath(t))
	} else {
		err = p.accept(ctx, l)
	}
	l.Close()
	p.running.Wait()
	return errors.Join(endOf(ctx), err)
}

// endOf returns nil if Ctrl-C has ended ctx, or else the cause: an error of the output.
func endOf(ctx context.Context) error {
	if out, ok := errors.AsType[*outputError](context.Cause(ctx)); ok {
		return out
	}
	return nil
}

// accept accepts streams.
func (p *proxyCall) accept(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return connectionError(err)
		}
		if !p.admit(conn) {
			continue
		}
		// Owner: serve. End: both ends are closed; the end of ctx closes them.
		p.running.Go(func() {
			defer func() { <-p.open }()
			p.passStream(ctx, endOfConn(conn), conn.RemoteAddr().String())
		})
	}
}

// admit takes a place for a connection, or closes it.
func (p *proxyCall) admit(conn net.Conn) bool {
	select {
	case p.open <- struct{}{}:
		return true
	default:
		conn.Close()
		p.log.tell(0, "refused %s: %d connections are open (--max-conns)", conn.RemoteAddr(), p.maxConns)
		return false
	}
}

// streamEnd is one end of a connection that passes.
type streamEnd struct {
	io.Reader
	io.Writer
	closeWrite func() error
	closeAll   func() error
}

func endOfConn(conn net.Conn) *streamEnd {
	end := &streamEnd{Reader: conn, Writer: conn, closeAll: conn.Close, closeWrite: conn.Close}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		end.closeWrite = half.CloseWrite
	}
	return end
}

// passStream connects to the server, and passes bytes until both directions have ended.
func (p *proxyCall) passStream(ctx context.Context, client *streamEnd, name string) {
	n := int(p.links.Add(1))
	begin := time.Now()
	closeClient := context.AfterFunc(ctx, func() { client.closeAll() })
	defer client.closeAll()
	defer closeClient()
	server, wait, err := p.connectEnd(ctx, n)
	if err != nil {
		p.log.tell(n, "%s: cannot connect: %s", name, p.conn.explain(err, heardUnknown))
		return
	}
	closeServer := context.AfterFunc(ctx, func() { server.closeAll() })
	defer closeServer()
	p.log.tell(n, "opened by %s", name)
	calls := newCallTable()
	up := newTap(p.newSplitter(), func(m tapped) { p.log.show(n, fromClient, m, calls) })
	down := newTap(p.newSplitter(), func(m tapped) { p.log.show(n, fromServer, m, calls) })
	var both sync.WaitGroup
	var upErr, downErr error
	both.Go(func() { upErr = passBytes(server, client, up) })     // Owner: passStream. End: client's end.
	both.Go(func() { downErr = passBytes(client, server, down) }) // Owner: passStream. End: server's end.
	both.Wait()
	server.closeAll()
	wait()
	why := ""
	if err := errors.Join(upErr, downErr); err != nil && ctx.Err() == nil {
		why = ": " + p.conn.redact(err.Error())
	}
	p.log.tell(n, "closed after %s, %s%d bytes, %s%d bytes%s", roundTime(time.Since(begin)), fromClient.arrow(), up.total, fromServer.arrow(), down.total, why)
}

// passBytes copies from one end to the other, and closes the other's input at the end. The
// tap sees the bytes before they go on, so that a request is known before its reply.
func passBytes(dst, src *streamEnd, t *tap) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			t.feed(buf[:n])
			if _, werr := dst.Write(buf[:n]); werr != nil {
				t.end()
				src.closeAll() // nobody receives what src still sends
				return werr
			}
		}
		switch {
		case err == io.EOF:
			t.end()
			dst.closeWrite()
			return nil
		case err != nil:
			t.end()
			dst.closeAll()
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
				return nil // the other direction says why
			}
			return err
		}
	}
}

// connectEnd connects to the server, or starts its program. wait waits for the end of the
// program.
func (p *proxyCall) connectEnd(ctx context.Context, n int) (end *streamEnd, wait func(), err error) {
	if p.target.kind == kindStdio {
		return p.startProgram(n)
	}
	d, err := p.conn.newDialer(p.e, p.target)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := p.conn.withTimeout(ctx)
	defer cancel()
	conn, err := d.Dialer.Connect(ctx, p.target.addr)
	if err != nil {
		return nil, nil, err
	}
	return endOfConn(conn), func() {}, nil
}

// startProgram starts the program of a stdio: target. A program that does not end after its
// input has ended is killed.
func (p *proxyCall) startProgram(n int) (*streamEnd, func(), error) {
	cmd := exec.Command(p.target.command[0], p.target.command[1:]...)
	cmd.Stderr = p.e.stderr
	cmd.WaitDelay = closeTimeout
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	cmd.Stdout = writer
	err = cmd.Start()
	writer.Close()
	if err != nil {
		stdout.Close()
		return nil, nil, err
	}
	ended := make(chan struct{})
	// Owner: passStream, by wait. End: of the program, which wait kills if necessary.
	go func() {
		defer close(ended)
		if err := cmd.Wait(); err != nil {
			p.log.tell(n, "the program has ended: %s", err)
		}
	}()
	wait := func() {
		timer := time.AfterFunc(closeTimeout, func() { _ = cmd.Process.Kill() })
		<-ended
		timer.Stop()
	}
	end := &streamEnd{Reader: stdout, Writer: stdin, closeWrite: stdin.Close}
	end.closeAll = func() error { return errors.Join(stdin.Close(), stdout.Close()) }
	return end, wait, nil
}

// callTable finds the requests of replies, by id. The ids of the two directions are apart.
type callTable struct {
	mu      sync.Mutex
	pending [2]map[string]pendingCall
}

type pendingCall struct {
	method string
	begin  time.Time
}

// The bounds of a callTable. Calls over these limits have no duration.
const (
	maxPending = 10_000
	maxIDSize  = 256
)

func newCallTable() *callTable {
	return &callTable{pending: [2]map[string]pendingCall{{}, {}}}
}

// callTime is how long a call took that a message answers.
type callTime struct {
	Method  string  `json:"method"`
	Seconds float64 `json:"seconds"`
}

// match keeps the requests of a message, and returns the calls that the message answers.
func (t *callTable) match(from direction, message json.RawMessage, at time.Time) (ended []callTime) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, item := range itemsOf(message) {
		id := compact(item.ID)
		if item.ID == nil || id == "null" || len(id) > maxIDSize {
			continue
		}
		if item.Method != "" {
			if own := t.pending[from]; len(own) < maxPending {
				own[id] = pendingCall{item.Method, at}
			}
			continue
		}
		peers := t.pending[1-from]
		if call, ok := peers[id]; ok {
			delete(peers, id)
			ended = append(ended, callTime{call.method, at.Sub(call.begin).Seconds()})
		}
	}
	return ended
}

// messageItem is a request, notification or reply.
type messageItem struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
}

// itemsOf returns the items of a message: of one, of a batch, or of aiomas.
func itemsOf(message json.RawMessage) []messageItem {
	var one messageItem
	if json.Unmarshal(message, &one) == nil {
		return []messageItem{one}
	}
	var batch []messageItem
	if json.Unmarshal(message, &batch) == nil {
		return batch
	}
	var aiomas []json.RawMessage
	if json.Unmarshal(message, &aiomas) != nil || len(aiomas) != 3 {
		return nil
	}
	one.ID = aiomas[1]
	if string(aiomas[0]) == "0" { // a request: type, id, [method, args, kwargs]
		var content []json.RawMessage
		if json.Unmarshal(aiomas[2], &content) != nil || len(content) == 0 || json.Unmarshal(content[0], &one.Method) != nil {
			return nil
		}
	}
	return []messageItem{one}
}

// newSplitter returns the splitter of --framing for one direction.
func (p *proxyCall) newSplitter() splitter {
	return p.conn.options(p.e, &rpcx.Options{}).Framer.NewSplitter()
}
