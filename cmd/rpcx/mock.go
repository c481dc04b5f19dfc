package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// mock is the command serve-mock.
type mock struct {
	conn      connFlags // the dialect; the other fields are unused
	listen    listenFlags
	addr      string
	origins   []string
	delay     time.Duration
	errorRate string
	notify    []string
	every     time.Duration

	e             *env
	rate          float64
	discover      json.RawMessage // the document
	methods       map[string]*mockMethod
	notifications []messageLine
}

// mockMethod is how a method is answered.
type mockMethod struct {
	name     string
	examples []mockExample
	errors   []*rpcx.Error
	failures atomic.Uint64 // chooses the next of errors
}

// mockExample is a result, for the params that match.
type mockExample struct {
	params []openrpc.ExampleValue
	any    bool // for all params
	result json.RawMessage
}

func mockCommand() *command {
	return &command{
		name:    "serve-mock",
		usage:   "FILE",
		summary: "Serve the examples of an OpenRPC document, or given results",
		help: `
FILE is an OpenRPC document, or a JSON object of results as {"method": result}; - is
stdin.

A call is answered with the result of the example that has the same params, or else
with that of the first example. A method without examples is answered with an example
or the default of its result's schema, or else with null. Other methods do not exist:
error -32601. rpc.discover returns the document. With --error-rate, calls fail with
the errors that the document has for the method, one after the other, or else with
-32603. Notifications are accepted.

--listen has the same forms as ADDR. At http:// and ws:// addresses, HTTP and
WebSockets are both served. Ctrl-C ends rpcx.`,
		examples: `
rpcx serve-mock openrpc.json
rpcx serve-mock openrpc.json --listen http://localhost:8080/rpc --delay 200ms --error-rate 0.1
echo '{"sum": 3, "status": {"ok": true}}' | rpcx serve-mock - --listen unix:///tmp/mock.sock`,
		setup: func(fs *flags) action {
			m := &mock{addr: "localhost:8888", every: time.Second}
			m.conn.protocol, m.conn.maxSize = "auto", defaultMaxSize
			fs.group("Server")
			fs.String(&m.addr, "listen", "`ADDR`: where to listen")
			fs.Choice(&m.conn.framing, "framing", "`FRAMING`: how messages are kept apart. Default: line, or as ADDR says", "line", "lsp", "length", "json", "ws", "http")
			fs.Choice(&m.conn.protocol, "protocol", "`VERSION`: JSON-RPC 2.0 or 1.0, a mix of both, aiomas, or that of a client's first message", "auto", "2", "1", "loose", "aiomas")
			fs.Choice(&m.conn.cancel, "cancel", "`DIALECT`: how clients tell that a call is given up", "lsp", "mcp")
			fs.Size(&m.conn.maxSize, "max-size", "`SIZE`: the largest message; 0 for no limit")
			m.listen.declare(fs, "")
			fs.List(&m.origins, "origin", "`HOST`: web pages of this host may call, or * for all; may be repeated")
			fs.Bool(&m.conn.verbose, "verbose", "report calls and connections on stderr")
			fs.alias("v", "verbose")
			fs.group("Answers")
			fs.Duration(&m.delay, "delay", "`TIME`: the delay of each answer")
			fs.String(&m.errorRate, "error-rate", "`NUMBER`: the part of calls that fail, from 0 to 1")
			fs.List(&m.notify, "notify", "`'METHOD PARAMS'`: a notification for each connection, again and again; may be repeated")
			fs.Duration(&m.every, "every", "`TIME`: the time between the notifications")
			return m.run
		},
	}
}

func (m *mock) run(ctx context.Context, e *env, args []string) error {
	if len(args) != 1 {
		return usagef("want one FILE: an OpenRPC document, or JSON as {\"method\": result}")
	}
	m.e = e
	if err := m.readFlags(); err != nil {
		return err
	}
	text, err := readDocumentFile(e, args[0])
	if err != nil {
		return err
	}
	title, err := m.readFile(text)
	if err != nil {
		return usagef("%s: %w", args[0], err)
	}
	t, err := m.conn.parseAddr(m.addr)
	if err != nil {
		return err
	}
	l, err := m.listen.listen(ctx, t)
	if err != nil {
		return err
	}
	if err := printText(e, escapeFor(e.stdoutTTY, m.summary(cmp.Or(title, args[0]), shownAddr(t, l)))); err != nil {
		l.Close()
		return err
	}
	return m.serve(ctx, t, l)
}

func (m *mock) readFlags() error {
	if m.errorRate != "" {
		rate, err := strconv.ParseFloat(m.errorRate, 64)
		if err != nil || !(rate >= 0 && rate <= 1) {
			return usagef("flag --error-rate: %q is not a number from 0 to 1", m.errorRate)
		}
		m.rate = rate
	}
	for _, text := range m.notify {
		n, err := parseLine(m.e, strings.TrimPrefix(text, "!"))
		if err != nil {
			return usagef("--notify: %w", err)
		}
		m.notifications = append(m.notifications, n)
	}
	if len(m.notifications) > 0 && m.every <= 0 {
		return usagef("flag --every: want a time of more than 0")
	}
	return nil
}

// readFile reads the methods. The title is that of the document, or "".
func (m *mock) readFile(text json.RawMessage) (title string, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		return "", errors.New(`want an OpenRPC document, or an object as {"method": result}`)
	}
	m.methods = map[string]*mockMethod{}
	if _, isDocument := members["openrpc"]; !isDocument {
		doc := &openrpc.Document{OpenRPC: openrpc.Version, Info: openrpc.Info{Title: "mock", Version: "1"}}
		for name, result := range members {
			m.methods[name] = &mockMethod{name: name, examples: []mockExample{{any: true, result: result}}}
			doc.Methods = append(doc.Methods, &openrpc.Method{Name: name, Params: []*openrpc.Content{}, ParamsKind: "any",
				Result: &openrpc.Content{Name: "result", Schema: json.RawMessage("true")}})
		}
		slices.SortFunc(doc.Methods, func(a, b *openrpc.Method) int { return cmp.Compare(a.Name, b.Name) })
		m.discover, err = marshal(doc)
		return "", err
	}
	doc, err := openrpc.Parse(text)
	if err != nil {
		return "", err
	}
	for _, described := range doc.Methods {
		m.methods[described.Name] = newMockMethod(described)
	}
	m.discover = text
	return doc.Info.Title, nil
}

func newMockMethod(described *openrpc.Method) *mockMethod {
	method := &mockMethod{name: described.Name}
	for _, example := range described.Examples {
		x := mockExample{params: slices.Clone(example.Params), result: json.RawMessage("null")}
		for i := range x.params { // an example may leave the names out
			if x.params[i].Name == "" && i < len(described.Params) {
				x.params[i].Name = described.Params[i].Name
			}
		}
		if example.Result != nil {
			x.result = example.Result.Value
		}
		method.examples = append(method.examples, x)
	}
	if len(method.examples) == 0 && described.Result != nil {
		if value := schemaExample(described.Result.Schema); value != nil {
			method.examples = []mockExample{{any: true, result: value}}
		}
	}
	for _, e := range described.Errors {
		err := &rpcx.Error{Code: e.Code, Message: e.Message}
		if e.Data != nil {
			err.Data = e.Data
		}
		method.errors = append(method.errors, err)
	}
	return method
}

// schemaExample returns a value that a schema names, or nil.
func schemaExample(schema json.RawMessage) json.RawMessage {
	var named struct {
		Const    json.RawMessage
		Examples []json.RawMessage
		Default  json.RawMessage
		Enum     []json.RawMessage
	}
	if json.Unmarshal(schema, &named) != nil { // true and false are schemas
		return nil
	}
	values := append([]json.RawMessage{named.Const}, named.Examples...)
	values = append(append(values, named.Default), named.Enum...)
	i := slices.IndexFunc(values, func(v json.RawMessage) bool { return v != nil })
	if i < 0 {
		return nil
	}
	return values[i]
}

// summary says what is served.
func (m *mock) summary(title, addr string) string {
	const most = 20
	var b strings.Builder
	fmt.Fprintf(&b, "serving %q at %s, %s:\n", title, addr, countOf(len(m.methods), "method"))
	names := make([]string, 0, len(m.methods))
	for name := range m.methods {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		if i == most {
			fmt.Fprintf(&b, "  … and %d more\n", len(names)-most)
			break
		}
		fmt.Fprintf(&b, "  %s%s\n", oneLine(name), m.methods[name].about())
	}
	return b.String()
}

func (x *mockMethod) about() string {
	n := 0
	for _, example := range x.examples {
		if !example.any {
			n++
		}
	}
	text := ": " + countOf(n, "example")
	switch {
	case len(x.examples) == 0:
		text = ": no example, answered with null"
	case n == 0:
		text = ""
	}
	if len(x.errors) > 0 {
		text += ", " + countOf(len(x.errors), "error")
	}
	return text
}

// countOf returns a number and its noun, as in "1 example" and "2 examples".
func countOf(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// serve serves until ctx ends.
func (m *mock) serve(ctx context.Context, t target, l net.Listener) error {
	o := m.conn.options(m.e, nil)
	if m.conn.protocol == "auto" {
		o.Protocol = rpcx.JSONRPCAutoDetect
	}
	o.Handler = rpcx.HandlerFunc(m.answer)
	o.Limits.ProcessingTimeout = max(m.delay*2, time.Minute)
	var notifiers sync.WaitGroup
	ctx, end := context.WithCancel(ctx)
	defer notifiers.Wait()
	defer end()
	srv := &rpcx.Server{Options: *o, ShutdownTimeout: closeTimeout}
	if len(m.notifications) > 0 {
		srv.OnSession = func(s *rpcx.Session) {
			notifiers.Go(func() { m.sendNotifications(ctx, s) }) // Owner: serve. End: of the session, or of ctx.
		}
	}
	if t.kind == kindStream {
		return m.ended(ctx, srv.ServeContext(ctx, l))
	}
	post := &rpchttp.Handler{Server: srv, MaxSize: m.conn.sizeLimit(), Origins: m.origins}
	upgrade := &websocket.Acceptor{Server: srv, Config: websocket.Config{MaxSize: m.conn.sizeLimit()}, Origins: m.origins}
	web := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			upgrade.ServeHTTP(w, r)
		} else {
			post.ServeHTTP(w, r)
		}
	})}
	return m.ended(ctx, websocket.ServeContext(ctx, srv, web, l))
}

// ended returns nil if Ctrl-C has ended the server.
func (m *mock) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// answer answers a request by an example.
func (m *mock) answer(ctx context.Context, req *rpcx.Request) (result any, err error) {
	if m.conn.verbose {
		defer func() { m.report(req, result, err) }()
	}
	method := m.methods[req.Method]
	switch {
	case req.IsNotification():
		return nil, nil
	case method == nil && req.Method == "rpc.discover":
		return m.discover, nil
	case method == nil:
		return nil, rpcx.MethodNotFound(req.Method)
	}
	if m.delay > 0 {
		timer := time.NewTimer(m.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if m.rate > 0 && rand.Float64() < m.rate {
		return nil, method.nextError()
	}
	return method.resultFor(req.Params), nil
}

func (x *mockMethod) nextError() error {
	if len(x.errors) == 0 {
		return rpcx.Errorf(rpcx.CodeInternalError, "failed by --error-rate")
	}
	return x.errors[(x.failures.Add(1)-1)%uint64(len(x.errors))]
}

// resultFor returns the result of the example with these params, or of the first example.
func (x *mockMethod) resultFor(params rpcx.Params) json.RawMessage {
	if len(x.examples) == 0 {
		return json.RawMessage("null")
	}
	for _, example := range x.examples {
		if example.matches(params) {
			return example.result
		}
	}
	return x.examples[0].result
}

// matches reports whether params are those of the example: by name, by position, or, as
// aiomas can, the first by position.
func (x mockExample) matches(params rpcx.Params) bool {
	var values []json.RawMessage
	var named map[string]json.RawMessage
	if params.Positional != nil && json.Unmarshal(params.Positional, &values) != nil {
		return false
	}
	if params.Named != nil && json.Unmarshal(params.Named, &named) != nil {
		return false
	}
	if len(values)+len(named) != len(x.params) {
		return false
	}
	for i, want := range x.params {
		value := named[want.Name]
		if i < len(values) {
			value = values[i]
		}
		if !equalJSON(value, want.Value) {
			return false
		}
	}
	return true
}

// equalJSON reports whether two texts are the same JSON value. The texts must be JSON.
// A nil text equals nothing.
func equalJSON(a, b json.RawMessage) bool {
	if a == nil || b == nil {
		return false
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return bytes.Equal(a, b)
	}
	return reflect.DeepEqual(x, y)
}

// sendNotifications sends the notifications of --notify to a session, again and again.
func (m *mock) sendNotifications(ctx context.Context, s *rpcx.Session) {
	ticker := time.NewTicker(m.every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.Done():
			return
		case <-ctx.Done():
			return
		}
		for _, n := range m.notifications {
			if s.Notify(ctx, n.method, paramsOrNil(n.params)) != nil {
				return
			}
		}
	}
}

// report shows a request and its answer on stderr.
func (m *mock) report(req *rpcx.Request, result any, err error) {
	text := shown(req.Method)
	if params := paramsOf(req); params != nil {
		text += " " + shown(compact(params))
	}
	switch peer, isPeer := errors.AsType[*rpcx.Error](err); {
	case req.IsNotification():
	case isPeer:
		text += " → " + string(peerErrorJSON(peer))
	case err != nil:
		text += " → " + flatten(err.Error())
	default:
		text += " → " + shown(compact(result.(json.RawMessage)))
	}
	notice(m.e, "%s", text)
}
