package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"github.com/ergochat/readline"
)

// lineInput is where the lines of a repl come from.
type lineInput interface {
	// readLine returns a line without its newline; errInterrupted after Ctrl-C; io.EOF at
	// the end of the input, after Ctrl-D, and after the end of the context. With more, the
	// line continues a statement.
	readLine(more bool) (string, error)
	// setPrompt changes the prompt, also while readLine waits.
	setPrompt(prompt string)
	// remember adds a line to the lines that Up brings back.
	remember(line string)
	// env returns the environment whose outputs do not disturb the input.
	env() *env
	close()
}

var errInterrupted = errors.New("interrupted")

// maxStatement bounds the bytes of a call that is typed, or read from stdin.
const maxStatement = 16 << 20

// readStatement reads a line, and further lines while its JSON is not complete.
func readStatement(in lineInput) (string, error) {
	var depth jsonDepth
	var statement strings.Builder
	for {
		line, err := in.readLine(statement.Len() > 0)
		switch {
		case err == io.EOF && statement.Len() > 0:
			return statement.String(), nil // the error of the JSON says what is missing
		case err != nil:
			return "", err
		case statement.Len()+len(line) > maxStatement:
			return "", fmt.Errorf("a call of more than %d MiB; write @FILE for large params", maxStatement>>20)
		}
		if statement.Len() > 0 {
			statement.WriteByte('\n')
		}
		statement.WriteString(line)
		if depth.read(line) <= 0 {
			return statement.String(), nil
		}
	}
}

// jsonDepth counts the open brackets of a statement. Words outside of JSON may have quotes
// as in a shell. A string that does not end in its line is an error of JSON, and ends the
// statement.
type jsonDepth struct {
	depth int
	begun bool // within the JSON
}

func (d *jsonDepth) read(line string) int {
	if !d.begun {
		i := strings.IndexAny(line, " \t")
		if i < 0 {
			return 0
		}
		line = strings.TrimSpace(line[i:])
		if line == "" || line[0] != '{' && line[0] != '[' {
			return 0
		}
		d.begun = true
	}
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '{', '[':
			d.depth++
		case '}', ']':
			d.depth--
		case '"':
			n := stringLen(line[i:])
			if n < 2 || line[i+n-1] != '"' {
				return 0
			}
			i += n - 1
		}
	}
	return d.depth
}

// terminalInput is a line editor on a terminal. Output appears above the prompt.
//
// The editor may print above its line at any time, but does not lock all that a key changes
// there. So mu is locked while a key acts: from filterKey, which sees each key first, until
// the editor reads again, or returns. Output and prompts wait meanwhile. At the end of the
// input, the editor completes its line without filterKey: from then on, output is written to
// the terminal itself.
type terminalInput struct {
	editor *readline.Instance
	e      *env
	unbind func() // ends what newTerminalInput has begun
	raw    rawMode

	mu     sync.Mutex // guards the editor's line, and the prompt
	prompt string
	more   bool        // promptMore is shown in place of prompt
	ended  bool        // the input has ended
	inKey  atomic.Bool // mu is locked for a key
}

// newTerminalInput returns the input from a terminal. complete returns what may follow the
// beginning of a line.
func newTerminalInput(ctx context.Context, e *env, lines []string, complete func(line string) []string) (*terminalInput, error) {
	t := &terminalInput{prompt: promptReady}
	tty := &columnTeller{in: e.stdin, out: e.stdout, t: t}
	editor, err := readline.NewFromConfig(&readline.Config{
		Prompt: promptReady, Stdin: tty, Stdout: tty, Stderr: e.stderr,
		HistoryLimit: maxHistoryLines, DisableAutoSaveHistory: true, HistorySearchFold: true,
		AutoComplete: completer(func(line string) []string {
			t.endKey() // complete may call the peer
			defer t.beginKey()
			return complete(line)
		}),
		FuncIsTerminal:      func() bool { return true },
		FuncFilterInputRune: t.filterKey,
		InterruptPrompt:     "^C", EOFPrompt: "\n",
	})
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	t.editor = editor
	config := editor.GetConfig()
	t.raw = rawMode{enterTTY: config.FuncMakeRaw, exitTTY: config.FuncExitRaw}
	config.FuncMakeRaw, config.FuncExitRaw = t.raw.enter, t.raw.exit
	if err := editor.SetConfig(config); err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	ignoreContinued := whenContinued(t.raw.repair)
	ignoreContext := context.AfterFunc(ctx, t.closeEditor)
	t.unbind = func() { ignoreContinued(); ignoreContext() }
	for _, line := range lines {
		t.remember(line)
	}
	above := *e
	above.stdout = aboveLine{t, e.stdout}
	if e.stderrTTY {
		above.stderr = above.stdout
	}
	t.e = &above
	return t, nil
}

func (t *terminalInput) readLine(more bool) (string, error) {
	t.showPrompt(func() { t.more = more })
	line, err := t.editor.ReadLine()
	t.endKey()
	if t.hasEnded() {
		return "", io.EOF // the editor returns the line as if it were complete
	}
	if errors.Is(err, readline.ErrInterrupt) {
		return "", errInterrupted
	}
	return line, err
}

func (t *terminalInput) setPrompt(prompt string) { t.showPrompt(func() { t.prompt = prompt }) }

// showPrompt shows the prompt after a change of t.
func (t *terminalInput) showPrompt(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	prompt := t.prompt
	if t.more {
		prompt = promptMore
	}
	if !t.ended {
		t.editor.SetPrompt(prompt)
		t.editor.Refresh()
	}
}

// remember adds a line. The first call ends a walk through the history. Otherwise the
// editor would keep the line that the walk has reached.
func (t *terminalInput) remember(line string) {
	_ = t.editor.SaveToHistory("")
	if line != "" {
		_ = t.editor.SaveToHistory(line)
	}
}

func (t *terminalInput) env() *env { return t.e }

func (t *terminalInput) close() {
	t.unbind()
	t.closeEditor()
}

func (t *terminalInput) closeEditor() {
	t.markEnded()
	_ = t.editor.Close()
}

// filterKey drops control characters that no key has, as in a pasted text: the terminal
// would obey them. It returns with mu locked, and endKey unlocks mu.
func (t *terminalInput) filterKey(r rune) (rune, bool) {
	t.beginKey()
	if r == readline.CharCtrlZ {
		t.raw.leaveOnce()
		continueSoon()
	}
	return r, r < 0x80 || !unicode.IsControl(r)
}

// beginKey locks mu for a key, unless it is locked for the one before: a pasted text is read
// as a whole.
func (t *terminalInput) beginKey() {
	if !t.inKey.Load() {
		t.mu.Lock()
		t.inKey.Store(true)
	}
}

// endKey unlocks mu if it is locked for a key. The editor's reader and readLine may both call
// it after a close.
func (t *terminalInput) endKey() {
	if t.inKey.CompareAndSwap(true, false) {
		t.mu.Unlock()
	}
}

// markEnded notes that the input has ended. The terminal is restored first: mu may be locked
// by a write to a terminal that nobody reads.
func (t *terminalInput) markEnded() {
	t.raw.leaveForGood()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
}

func (t *terminalInput) hasEnded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// aboveLine writes above the line of a terminalInput.
type aboveLine struct {
	t   *terminalInput
	out io.Writer
}

func (w aboveLine) Write(p []byte) (int, error) {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	if w.t.ended {
		return w.out.Write(p)
	}
	return w.t.editor.Stdout().Write(p)
}

// rawMode is the raw mode of a terminal. The editor enters it before each line, and exits
// after it. rawMode ignores these exits: a key between two lines would be echoed, and Ctrl-C
// would end rpcx.
type rawMode struct {
	enterTTY, exitTTY func() error

	mu       sync.Mutex
	entered  bool
	leaving  bool // the next exit leaves the mode
	disabled bool // enter does nothing
}

func (m *rawMode) enter() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaving = false
	return m.enterLocked()
}

func (m *rawMode) enterLocked() error {
	if m.entered || m.disabled {
		return nil
	}
	err := m.enterTTY()
	m.entered = err == nil
	return err
}

func (m *rawMode) exit() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.leaving {
		return nil
	}
	return m.exitLocked()
}

func (m *rawMode) exitLocked() error {
	if !m.entered {
		return nil
	}
	m.entered = false
	return m.exitTTY()
}

// leaveOnce lets the next exit leave the mode.
func (m *rawMode) leaveOnce() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leaving = true
}

// leaveForGood leaves the mode. A later enter does nothing.
func (m *rawMode) leaveForGood() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disabled = true
	_ = m.exitLocked()
}

// repair enters the mode again after the process was stopped: the shell has taken the mode
// from the terminal.
func (m *rawMode) repair() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entered {
		_ = m.exitLocked() // exitTTY restores what enterTTY has found
		_ = m.enterLocked()
	}
}

// columnTeller answers the editor's question for the column of the cursor, which comes
// before each prompt: column 1, since each output ends with a newline. So the editor waits
// for no terminal that does not answer. Keys that end a line, or the input, are the last of
// a Read: the editor has nothing left then when it asks, and reads the answer first.
type columnTeller struct {
	in    io.Reader
	out   io.Writer
	t     *terminalInput
	asked atomic.Bool
	buf   [4096]byte
	rest  []byte // the part of buf that the editor has not read
}

const (
	columnQuestion = "\x1b[6n"
	columnAnswer   = "\x1b[1;1R"
	lastKeys       = "\r\n\x03\x04" // Enter, Ctrl-J, Ctrl-C and Ctrl-D
)

func (c *columnTeller) Write(p []byte) (int, error) {
	if string(p) == columnQuestion {
		c.asked.Store(true)
		return len(p), nil
	}
	return c.out.Write(p)
}

func (c *columnTeller) Read(p []byte) (int, error) {
	c.t.endKey()
	if len(p) >= len(columnAnswer) && c.asked.CompareAndSwap(true, false) {
		return copy(p, columnAnswer), nil
	}
	if len(c.rest) == 0 {
		n, err := c.in.Read(c.buf[:])
		if n == 0 && err != nil {
			c.t.markEnded()
			return 0, err
		}
		c.rest = c.buf[:n]
	}
	n := len(c.rest)
	if i := bytes.IndexAny(c.rest, lastKeys); i >= 0 {
		n = i + 1
	}
	n = copy(p, c.rest[:n])
	c.rest = c.rest[n:]
	return n, nil
}

// plainInput reads lines of a file or pipe, or of a terminal without abilities.
type plainInput struct {
	e      *env
	prompt bool
	lines  chan plainLine
	ctx    context.Context
}

type plainLine struct {
	text string
	err  error
}

func newPlainInput(ctx context.Context, e *env) *plainInput {
	p := &plainInput{e: e, prompt: e.stdinTTY && e.stdoutTTY, lines: make(chan plainLine), ctx: ctx}
	// Owner: the repl. End: the input, or ctx; a Read that waits ends with the process.
	go p.readLines()
	return p
}

func (p *plainInput) readLines() {
	defer close(p.lines)
	scanner := bufio.NewScanner(p.e.stdin)
	scanner.Buffer(nil, maxStatement)
	send := func(l plainLine) bool {
		select {
		case p.lines <- l:
			return true
		case <-p.ctx.Done():
			return false
		}
	}
	for scanner.Scan() {
		if !send(plainLine{text: scanner.Text()}) {
			return
		}
	}
	err := scanner.Err()
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		err = fmt.Errorf("a line of more than %d MiB; write @FILE for large params", maxStatement>>20)
	case err == nil || errors.Is(err, os.ErrClosed):
		return
	}
	send(plainLine{err: err})
}

func (p *plainInput) readLine(more bool) (string, error) {
	if p.prompt {
		prompt := promptReady
		if more {
			prompt = promptMore
		}
		_, _ = io.WriteString(p.e.stdout, prompt)
	}
	select {
	case l, ok := <-p.lines:
		if !ok {
			return "", io.EOF
		}
		return l.text, l.err
	case <-p.ctx.Done():
		return "", io.EOF
	}
}

func (p *plainInput) setPrompt(string) {}
func (p *plainInput) remember(string)  {}
func (p *plainInput) env() *env        { return p.e }
func (p *plainInput) close()           {}

// completer is a function as a completer of the editor.
type completer func(line string) []string

// Do implements readline.AutoCompleter. The words of the completer are whole, and the
// editor wants what follows the beginning.
func (c completer) Do(line []rune, pos int) (rest [][]rune, length int) {
	head := string(line[:pos])
	begun := head[strings.LastIndexByte(head, ' ')+1:]
	for _, word := range c(head) {
		if after, ok := strings.CutPrefix(word, begun); ok {
			rest = append(rest, []rune(after))
		}
	}
	return rest, len([]rune(begun))
}
