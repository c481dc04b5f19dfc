package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
)

// methodTable is what is known of the peer's methods.
type methodTable struct {
	doc    *openrpc.Document
	asked  bool            // the peer has answered to --discover
	called map[string]bool // by this repl
}

// maxCalled bounds the methods that are kept for Tab.
const maxCalled = 10_000

// discoverTimeout is how long Tab waits for the peer's description.
const discoverTimeout = 2 * time.Second

// noteMethod keeps a method that the peer knows.
func (r *repl) noteMethod(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, rpcx.ErrMethodNotFound) {
		return
	}
	if r.methods.called == nil {
		r.methods.called = map[string]bool{}
	}
	if len(r.methods.called) < maxCalled {
		r.methods.called[method] = true
	}
}

// document returns the peer's description of its methods, or nil. The peer is asked once it
// is needed, and again if it could not answer, as before a login.
func (r *repl) document(ctx context.Context) (*openrpc.Document, error) {
	r.mu.Lock()
	c, doc, asked := r.current, r.methods.doc, r.methods.asked
	r.mu.Unlock()
	if doc != nil || asked || c == nil || r.discover == "" {
		return doc, nil
	}
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	var text json.RawMessage
	err := c.Call(ctx, r.discover, nil, &text)
	if err == nil {
		doc, err = openrpc.Parse(text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.methods.doc = doc
	r.methods.asked = err == nil || errors.Is(err, rpcx.ErrMethodNotFound) || text != nil
	return doc, err
}

// complete returns the words that the beginning of a line may continue with: methods, names
// of params, or commands of rpcx itself. All words are safe for a terminal.
func (r *repl) complete(head string) []string {
	method, rest, hasParams := strings.Cut(strings.TrimPrefix(head, "!"), " ")
	if hasParams && (method == ".describe" || method == ".methods") {
		method, _, hasParams = strings.Cut(strings.TrimLeft(rest, " "), " ")
		return r.completeMethods("", method, hasParams)
	}
	if strings.HasPrefix(head, ".") {
		return dotCommands()
	}
	mark := ""
	if strings.HasPrefix(head, "!") {
		mark = "!"
	}
	return r.completeMethods(mark, method, hasParams)
}

func (r *repl) completeMethods(mark, method string, hasParams bool) (words []string) {
	doc, _ := r.document(context.Background())
	if hasParams {
		return paramNames(doc, method)
	}
	for _, name := range r.methodNames(doc) {
		if strings.HasPrefix(name, method) && isWord(name) {
			words = append(words, mark+name)
		}
	}
	return words
}

// methodNames returns the methods of the document, and those that were called.
func (r *repl) methodNames(doc *openrpc.Document) (names []string) {
	if doc != nil {
		for _, m := range doc.Methods {
			names = append(names, m.Name)
		}
	}
	r.mu.Lock()
	for name := range r.methods.called {
		names = append(names, name)
	}
	r.mu.Unlock()
	slices.Sort(names)
	return slices.Compact(names)
}

// paramNames returns the beginnings name= of a method's params.
func paramNames(doc *openrpc.Document, method string) (words []string) {
	if doc == nil {
		return nil
	}
	for _, m := range doc.Methods {
		if m.Name != method {
			continue
		}
		for _, p := range m.Params {
			if nameOf(p.Name+"=") == p.Name && isWord(p.Name) {
				words = append(words, p.Name+"=")
			}
		}
	}
	return words
}

// isWord reports whether a name of a peer can be a word of a line, and is harmless to show.
func isWord(name string) bool {
	const longest = 200
	return name != "" && len(name) <= longest && !strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || isControlOrTab(r) })
}

const replHelp = `METHOD [PARAMS]       call; the params are JSON, a b, or name=value, or @FILE
!METHOD [PARAMS]      notify
.methods [PATTERN]    the methods of the peer; PATTERN may end with *
.describe METHOD      what the peer says about a method
.help                 this text
.quit                 the end, as Ctrl-D`

func dotCommands() []string { return []string{".describe", ".help", ".methods", ".quit"} }

// runDot runs a command of rpcx itself.
func (r *repl) runDot(ctx context.Context, line string) error {
	words := strings.Fields(line)
	switch words[0] {
	case ".help":
		return r.write(replHelp)
	case ".methods", ".describe":
		if words[0] == ".describe" && len(words) == 1 {
			return errors.New(".describe needs a method")
		}
		return r.describe(ctx, words[1:])
	}
	return fmt.Errorf("unknown command %s%s; .help lists the commands", words[0], didYouMean(words[0], dotCommands()))
}

// describe shows methods: of the peer's document, or those that were called.
func (r *repl) describe(ctx context.Context, names []string) error {
	if _, err := r.connect(ctx); err != nil {
		return err
	}
	doc, err := r.document(ctx)
	if err != nil && !errors.Is(err, rpcx.ErrMethodNotFound) {
		return err
	}
	if doc != nil {
		text, err := describeText(doc, names)
		if err != nil {
			return err
		}
		return r.write(escapeFor(r.p.terminal, strings.TrimRight(text, "\n")))
	}
	called := r.methodNames(nil)
	if len(called) == 0 {
		return fmt.Errorf("the peer does not describe itself (%s), and nothing was called yet", r.discover)
	}
	return r.write("The peer does not describe itself. Methods that were called:\n" +
		escapeFor(r.p.terminal, "  "+strings.Join(called, "\n  ")))
}

func (r *repl) write(text string) error {
	r.printing.Lock()
	defer r.printing.Unlock()
	return r.p.write(text)
}
