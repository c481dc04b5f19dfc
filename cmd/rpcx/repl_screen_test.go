//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/openrpc"
)

// screen is a terminal of tmux in which the command runs.
type screen struct {
	t    *testing.T
	tmux []string // the program, and how it finds the terminal
}

// newScreen starts the command in a terminal.
func newScreen(t *testing.T, width, height int, env []string, args ...string) *screen {
	t.Helper()
	tmux := interoptest.Program(t, "apt-get install tmux", "tmux")
	dir, err := os.MkdirTemp("", "tmux") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, []byte("set -g status off\nset -s escape-time 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, tmux: []string{tmux, "-u", "-S", filepath.Join(dir, "s"), "-f", config}}
	start := []string{"new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height)}
	for _, v := range append(env, asCommand+"=1", "NO_COLOR=1", "LC_ALL=C.UTF-8") {
		start = append(start, "-e", v)
	}
	start = append(start, "--", "sh", "-c", `"$@"; echo "exit code $?"; cat`, "sh", os.Args[0])
	s.run(append(start, args...)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the screen at the end:\n%s", strings.Join(s.lines(), "\n"))
		}
		exec.Command(s.tmux[0], append(s.tmux[1:], "kill-server")...).Run()
		os.RemoveAll(dir)
	})
	return s
}

func (s *screen) run(args ...string) string {
	s.t.Helper()
	out, err := exec.Command(s.tmux[0], append(slices.Clone(s.tmux[1:]), args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

// text types a text, and keys presses keys by their names.
func (s *screen) text(text string) { s.t.Helper(); s.run("send-keys", "-l", "--", text) }
func (s *screen) keys(names ...string) {
	s.t.Helper()
	s.run(append([]string{"send-keys"}, names...)...)
}

// line types a line.
func (s *screen) line(text string) { s.t.Helper(); s.text(text); s.keys("Enter") }

// lines returns the lines of the screen up to the last that is not blank.
func (s *screen) lines() []string {
	s.t.Helper()
	lines := strings.Split(strings.TrimRight(s.run("capture-pane", "-p"), " \n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// wait waits until the screen ends with lines.
func (s *screen) wait(want ...string) {
	s.t.Helper()
	s.eventually(func() (string, bool) {
		got := s.lines()
		end := got[max(0, len(got)-len(want)):]
		return strings.Join(got, "\n"), slices.Equal(end, want)
	}, strings.Join(want, "\n"))
}

// waitCursor waits until the cursor is in a column.
func (s *screen) waitCursor(column int) {
	s.t.Helper()
	s.eventually(func() (string, bool) {
		got := s.run("display-message", "-p", "#{cursor_x}")
		return got, got == fmt.Sprint(column)
	}, fmt.Sprint(column))
}

// waitExit waits for the end of the command.
func (s *screen) waitExit(code int) {
	s.t.Helper()
	s.eventually(func() (string, bool) {
		got := s.lines()
		return strings.Join(got, "\n"), got[len(got)-1] == fmt.Sprintf("exit code %d", code)
	}, fmt.Sprintf("exit code %d", code))
}

// signal sends a signal to the command.
func (s *screen) signal(sig syscall.Signal) {
	s.t.Helper()
	shell := s.run("display-message", "-p", "#{pane_pid}")
	children, err := os.ReadFile("/proc/" + shell + "/task/" + shell + "/children")
	if err != nil {
		s.t.Skip(err) // only Linux has this file
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) eventually(look func() (got string, ok bool), want string) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		got, ok := look()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the screen has\n%s\nwant\n%s", got, want)
		}
		time.Sleep(10 * time.Millisecond) // tmux tells nobody of a change
	}
}

// screenPeer is a peer whose sessions the test can use.
type screenPeer struct {
	*peer
	state string // XDG_STATE_HOME
}

func newScreenPeer(t *testing.T) *screenPeer {
	return &screenPeer{peer: newPeer(t), state: t.TempDir()}
}

// start starts a repl of the peer, and waits for the prompt.
func (p *screenPeer) start(t *testing.T, width, height int, args ...string) *screen {
	t.Helper()
	s := newScreen(t, width, height, []string{"XDG_STATE_HOME=" + p.state}, append([]string{"repl", p.tcp}, args...)...)
	s.wait(">")
	return s
}

// notify sends a notification to the sessions.
func (p *screenPeer) notify(t *testing.T, method string, params any) {
	t.Helper()
	n := 0
	for s := range p.srv.Sessions() {
		n++
		if err := s.Notify(t.Context(), method, params); err != nil {
			t.Error(err)
		}
	}
	if n == 0 {
		t.Error("nobody to notify")
	}
}

func (p *screenPeer) historyFile() string { return filepath.Join(p.state, "rpcx", "history") }

func TestInteropScreenCallsAndHistory(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20)
	s.line("params 1 two")
	s.wait("> params 1 two", "[", "  1,", `  "two"`, "]", ">")
	s.line("refuse")
	s.wait("> refuse", `{"code":42,"message":"refused: naïve \u001b[31m","data":{"why":["tired"]}}`, ">")
	s.line("params [1,,2]")
	s.wait("> params [1,,2]", "params: not JSON: ',' is not expected here", "  [1,,2]", "     ^", ">")
	s.line(" params secret") // a space keeps a line out of the history
	s.wait("[", `  "secret"`, "]", ">")
	s.keys("C-d")
	s.waitExit(0)

	s = p.start(t, 100, 20, "-o", "compact")
	s.keys("Up", "Up", "Up")
	s.wait("> params 1 two")
	s.keys("BSpace")
	s.line("rees")
	s.wait("> params 1 twrees", `[1,"twrees"]`, ">")
	s.keys("C-r")
	s.text("two")
	s.keys("Enter")
	s.wait(`[1,"two"]`, ">")
	s.keys("C-d")
	s.waitExit(0)

	text, err := os.ReadFile(p.historyFile())
	want := "params 1 two\nrefuse\nparams [1,,2]\nparams 1 twrees\nparams 1 two\n"
	if err != nil || string(text) != want {
		t.Errorf("history %q, %v; want %q", text, err, want)
	}
	checkPrivate(t, p.historyFile(), 0o600)
	checkPrivate(t, filepath.Dir(p.historyFile()), 0o700)
}

// Ctrl-C ends the call and drops the lines behind it, and rpcx goes on.
func TestInteropScreenInterrupt(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	s.line("hang")
	s.wait("> hang", "*") // the prompt says that a call runs
	s.line("params behind")
	s.keys("C-c")
	s.wait("> hang", "* params behind", "* ^C", "cancelled", ">")
	s.line("params on")
	s.wait("> params on", `["on"]`, ">")
	s.text("params not sent")
	s.keys("C-c")
	s.wait("> params not sent^C", "Ctrl-D ends rpcx", ">")
	s.line(`params {"a":`)
	s.wait(`> params {"a":`, ".")
	s.keys("C-c") // also ends JSON that is not complete
	s.line("params again")
	s.wait(`["again"]`, ">")
	s.text("params Z")
	s.keys("C-z") // without a shell that controls jobs, nothing happens
	s.keys("Enter")
	s.wait(`["Z"]`, ">")
	s.keys("C-d")
	s.waitExit(0)
}

func TestInteropScreenMultipleLines(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	s.line(`params {"a": [1,`)
	s.line(`2], "b": "}"`)
	s.line(`}`)
	s.wait(`> params {"a": [1,`, `. 2], "b": "}"`, `. }`, `{"a":[1,2],"b":"}"}`, ">")
	s.keys("Up") // the history has one line of it
	s.wait(`> params {"a": [1, 2], "b": "}" }`)
	s.keys("C-a", "C-k", "C-d")
	s.waitExit(0)
}

// What the peer sends on its own appears above the line that is being typed.
func TestInteropScreenNotifications(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 60, 20, "-o", "compact")
	s.text("params half")
	s.wait("> params half")
	p.notify(t, "news", map[string]any{"n": 1})
	p.notify(t, "news", rpcx.Args{2})
	s.wait(`← news {"n":1}`, "← news [2]", "> params half")
	s.waitCursor(len("> params half"))
	s.keys("Left", "Left")
	p.notify(t, "news", nil)
	s.wait("← news [2]", "← news", "> params half")
	s.waitCursor(len("> params ha"))
	s.text("ha")
	s.keys("Enter")
	s.wait("> params hahalf", `["hahalf"]`, ">")
	for peer := range p.srv.Sessions() {
		err := peer.Call(t.Context(), "question", rpcx.Args{1}, nil)
		if e, ok := err.(*rpcx.Error); !ok || e.Code != rpcx.CodeMethodNotFound {
			t.Errorf("a request of the peer has error %v", err)
		}
	}
	s.wait("← (refused) question [1]", ">")
}

// Keys of each kind work while the peer floods the screen. The race detector sees whether
// output and keys change the line at the same time.
func TestInteropScreenKeysInAFlood(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	stop := p.flood(t)
	for range 10 {
		s.line("params 1")
		s.text("params two")
		s.keys("C-c", "C-l")
		s.line(`params {"a":`)
		s.line("3}")
		s.text("us")
		s.keys("Tab", " ", "Tab", "Tab", "C-a", "C-k", "C-y", "C-u")
		s.keys("Up", "Up", "Down", "Left", "C-t", "Home", "End", "M-b", "C-w", "C-c")
		s.keys("C-r", "t", "w", "C-r", "BSpace", "C-c", "C-u", "a", "DC", "BSpace")
	}
	stop()
	s.keys("C-c")
	s.line("params end")
	s.wait(`["end"]`, ">")
	stop = p.flood(t)
	s.text("params half")
	s.wait("> params half")
	s.signal(syscall.SIGTERM)
	s.waitExit(exitInterrupted)
	stop()
}

// flood sends notifications and requests to the sessions until stop is called, or the
// sessions end.
func (p *screenPeer) flood(t *testing.T) (stop func()) {
	var stopped atomic.Bool
	var senders sync.WaitGroup
	for s := range p.srv.Sessions() {
		senders.Go(func() {
			// Each request is refused after the screen has all that came before it.
			for err := rpcx.ErrMethodNotFound; !stopped.Load() && errors.Is(err, rpcx.ErrMethodNotFound); {
				_ = s.Notify(t.Context(), "news", nil)
				err = s.Call(t.Context(), "question", nil, nil)
			}
		})
	}
	return func() { stopped.Store(true); senders.Wait() }
}

// Keys that are typed ahead, or pasted, are read as if they came one by one.
func TestInteropScreenKeysTypedAhead(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	s.text("params 1\r\x1b") // the beginning of an arrow key
	s.wait("> params 1", "[1]", ">")
	s.text("[D")
	s.text("\x03\x1b[")
	s.wait("> ^C", "Ctrl-D ends rpcx", ">")
	s.text("D")
	var pasted strings.Builder
	for i := range 60 {
		fmt.Fprintf(&pasted, "params %d%s\r", i, strings.Repeat("日", 30))
	}
	s.text(pasted.String() + "params end\r")
	s.wait(fmt.Sprintf(`["59%s"]`, strings.Repeat("日", 30)), `["end"]`, ">")
	s.keys("C-d")
	s.waitExit(0)
	text, err := os.ReadFile(p.historyFile())
	if want := strings.ReplaceAll("params 1\r"+pasted.String()+"params end\r", "\r", "\n"); err != nil || string(text) != want {
		t.Errorf("history %q, %v; want %q", text, err, want)
	}
}

// A line that is not complete is not run when its terminal is gone.
func TestInteropScreenHangUp(t *testing.T) {
	p := newScreenPeer(t)
	s := newScreen(t, 100, 20, []string{"XDG_STATE_HOME=" + p.state}, "version")
	s.waitExit(0)
	s.run("respawn-pane", "-k", "--", "sh", "-c", `trap '' HUP; exec "$0" repl "$1"`, os.Args[0], p.tcp)
	s.wait(">")
	s.text("params half")
	s.wait("> params half")
	s.run("respawn-pane", "-k", "--", "cat")
	s.eventually(func() (string, bool) {
		n := p.srv.Stats().Sessions
		return fmt.Sprint(n), n == 0
	}, "0 sessions")
	if m := drain(p.received); len(m) > 0 {
		t.Errorf("the peer has received %q", m)
	}
	if text, err := os.ReadFile(p.historyFile()); err != nil || len(text) > 0 {
		t.Errorf("history %q, %v", text, err)
	}
}

// A shell takes the raw mode from the terminal of a process that is stopped.
func TestInteropScreenStoppedFromOutside(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	s.text("params half")
	s.wait("> params half")
	tty := s.run("display-message", "-p", "#{pane_tty}")
	settings := func() string {
		out, err := exec.Command("stty", "-F", tty, "-a").CombinedOutput()
		if err != nil {
			t.Skipf("stty: %v\n%s", err, out) // only GNU's has -F
		}
		return string(out)
	}
	raw := settings()
	s.signal(syscall.SIGSTOP)
	if out, err := exec.Command("stty", "-F", tty, "sane").CombinedOutput(); err != nil {
		t.Fatalf("stty: %v\n%s", err, out)
	}
	if settings() == raw {
		t.Fatal("the terminal is raw after stty sane")
	}
	s.signal(syscall.SIGCONT)
	s.eventually(func() (string, bool) {
		got := settings()
		return got, strings.Contains(got, "-icanon") && strings.Contains(got, "-echo ")
	}, raw)
	s.keys("Enter")
	s.wait("> params half", `["half"]`, ">")
	s.keys("C-c")
	s.wait("> ^C", "Ctrl-D ends rpcx", ">")
	s.keys("C-d")
	s.waitExit(0)
}

// Control characters of the peer do not act on the terminal, wherever they stand.
func TestInteropScreenHostile(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	p.notify(t, "evil\x1b]0;owned\x07\n> params", rpcx.Args{"\x1b[2J\u009b31m\u202e"})
	s.wait(`← evil\u001b]0;owned\u0007\n> params ["\u001b[2J\u009b31m\u202e"]`, ">")
	s.line("hostile")
	s.wait(`{"title\u001b]0;owned":"\u001b[31mred\u001b[0m","c1":"\u009b31m","bidi":"\u202eabc","bell":"\u0007"}`, ">")
	p.notify(t, "long", rpcx.Args{strings.Repeat("x", maxShown+1)})
	s.eventually(func() (string, bool) {
		text := strings.Join(s.lines(), "")
		return text, strings.Contains(text, fmt.Sprintf("… (%d bytes)", maxShown+5))
	}, "the end of a long message")
	if title := s.run("display-message", "-p", "#{pane_title}"); strings.Contains(title, "owned") {
		t.Errorf("the peer has changed the title to %q", title)
	}
	// A pasted control character does not act, either.
	s.keys("C-l")
	s.line("params a\u009b31mb")
	s.wait("> params a31mb", `["a31mb"]`, ">")
}

func TestInteropScreenWideCharacters(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 40, 20, "-o", "compact")
	s.text("params 日本語 😀 e\u0301x")
	s.wait("> params 日本語 😀 e\u0301x")
	s.waitCursor(21)
	s.keys("Left", "Left", "Left", "Left", "BSpace") // the emoji; é is two characters
	s.wait("> params 日本語  e\u0301x")
	s.waitCursor(16)
	s.text("한글")
	s.wait("> params 日本語 한글 e\u0301x")
	s.waitCursor(20)
	p.notify(t, "通知", rpcx.Args{"✓"})
	s.wait(`← 通知 ["✓"]`, "> params 日本語 한글 e\u0301x")
	s.waitCursor(20)
	s.keys("Enter")
	s.wait("[\"日本語\",\"한글\",\"e\u0301x\"]", ">")
	// A wide character that does not fit at the edge is in the next line.
	s.text("params " + strings.Repeat("a", 30) + "漢字")
	s.wait("> params "+strings.Repeat("a", 30), "漢字")
	s.waitCursor(4)
	s.keys("BSpace", "BSpace", "BSpace")
	s.wait("> params " + strings.Repeat("a", 29))
}

func TestInteropScreenNarrowAndResized(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 20, 24, "-o", "compact")
	s.line("params 1")
	s.wait("> params 1", "[1]", ">")
	s.text(`params {"abc": "defghijklmnopqrstuvwxyz"}`)
	s.wait(`> params {"abc": "de`, "fghijklmnopqrstuvwxy", `z"}`)
	p.notify(t, "news", rpcx.Args{"in a narrow window"})
	s.wait(`← news ["in a narrow`, ` window"]`, `> params {"abc": "de`, "fghijklmnopqrstuvwxy", `z"}`)
	s.run("resize-window", "-x", "50", "-y", "24")
	p.notify(t, "news", rpcx.Args{"in a wide window"})
	s.wait(`← news ["in a wide window"]`, `> params {"abc": "defghijklmnopqrstuvwxyz"}`)
	s.run("resize-window", "-x", "30", "-y", "24")
	p.notify(t, "news", rpcx.Args{3})
	s.wait("← news [3]", `> params {"abc": "defghijklmno`, `pqrstuvwxyz"}`)
	s.keys("C-a")
	s.waitCursor(2)
	s.keys("C-e", "BSpace", "BSpace")
	s.text(`!"}`)
	s.keys("Enter")
	s.run("resize-window", "-x", "60", "-y", "24")
	s.wait(`{"abc":"defghijklmnopqrstuvwxyz!"}`, ">")
}

// Tab completes what rpc.discover has, except names that would act on the terminal.
func TestInteropScreenCompletion(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	if m := drain(p.received); len(m) > 0 {
		t.Errorf("the peer is asked %q before a Tab", m)
	}
	s.text("us")
	s.keys("Tab")
	s.wait("> user.find")
	s.text(" ")
	s.keys("Tab")
	s.wait("> user.find", "name=  limit=")
	s.text("n")
	s.keys("Tab", "Tab")
	s.wait("> user.find name=")
	s.keys("C-u")
	s.line(".desc") // and the commands of rpcx
	s.wait("> .desc", `unknown command .desc (did you mean ".describe"?); .help lists the commands`, ">")
	s.text(".des")
	s.keys("Tab")
	s.text(" ec")
	s.keys("Tab", "Enter")
	s.wait("Result:", "  result: any", ">")
}

func drain(ch chan string) (got []string) {
	for {
		select {
		case x := <-ch:
			got = append(got, x)
		default:
			return got
		}
	}
}

func TestCompletionIsHarmless(t *testing.T) {
	var long = strings.Repeat("x", 300)
	doc, err := json.Marshal(map[string]any{"openrpc": "1.3.2", "info": map[string]any{"title": "x", "version": "1"}, "methods": []any{
		map[string]any{"name": "evil\x1b[2J", "params": []any{}},
		map[string]any{"name": "evil two", "params": []any{}},
		map[string]any{"name": "evil" + long, "params": []any{}},
		map[string]any{"name": "evil.but.fine", "params": []any{
			map[string]any{"name": "a\x1b", "schema": true}, map[string]any{"name": "b c", "schema": true}, map[string]any{"name": "ok", "schema": true},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := openrpc.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	r := &repl{methods: methodTable{doc: parsed, called: map[string]bool{"evil.called": true, "evil.\x07": true}}}
	for _, c := range []struct {
		head string
		want []string
	}{
		{"ev", []string{"evil.but.fine", "evil.called"}},
		{"!ev", []string{"!evil.but.fine", "!evil.called"}},
		{"other", nil},
		{"evil.but.fine ", []string{"ok="}},
		{"!evil.but.fine ", []string{"ok="}},
		{"nothing ", nil},
		{".d", dotCommands()},
		{".describe evil.c", []string{"evil.called"}},
		{".methods ev", []string{"evil.but.fine", "evil.called"}},
	} {
		if got := r.complete(c.head); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.head, got, c.want)
		}
	}
}

// When the peer has closed the connection, the next call connects again.
func TestInteropScreenReconnects(t *testing.T) {
	p := newScreenPeer(t)
	s := p.start(t, 100, 20, "-o", "compact")
	s.text("params typed")
	for session := range p.srv.Sessions() {
		session.Close()
	}
	s.wait("the peer has closed the connection; the next call connects again", "> params typed")
	s.keys("Enter")
	s.wait("> params typed", `["typed"]`, ">")
	if err := p.srv.Close(); err != nil {
		t.Fatal(err)
	}
	p.srv.Wait(context.Background())
	s.wait("the peer has closed the connection; the next call connects again", ">")
	s.line("params gone")
	s.eventually(func() (string, bool) {
		text := strings.Join(s.lines(), "\n")
		return text, strings.Contains(text, "connection refused")
	}, "connection refused")
	s.keys("C-d")
	s.waitExit(0)
}

// A secret of the command line is not in the history, and cannot be brought back by Up.
func TestInteropScreenSecrets(t *testing.T) {
	p := newScreenPeer(t)
	const secret = "hunter2hunter2"
	s := newScreen(t, 100, 20, []string{"XDG_STATE_HOME=" + p.state}, "repl", p.ws, "-o", "compact",
		"--header", "X-Key: "+secret, "--auth", "ann:open-sesame", "--verbose")
	s.wait(">")
	s.line("params first")
	s.line("params " + secret)
	s.line("params open-sesame")
	s.line("params YW5uOm9wZW4tc2VzYW1l") // ann:open-sesame as it is sent
	s.wait(`["YW5uOm9wZW4tc2VzYW1l"]`, ">")
	s.keys("Up")
	s.wait("> params first")
	s.keys("C-u", "C-d")
	s.waitExit(0)
	text, err := os.ReadFile(p.historyFile())
	if err != nil || string(text) != "params first\n" {
		t.Errorf("history %q, %v", text, err)
	}
}

// The end of rpcx leaves the terminal as it was, also when a signal ends it.
func TestInteropScreenRestoresTheTerminal(t *testing.T) {
	p := newScreenPeer(t)
	code := map[string]int{"C-d": exitOK, "busy": exitOK, "SIGTERM": exitInterrupted}
	for end := range code {
		t.Run(end, func(t *testing.T) {
			s := newScreen(t, 100, 20, []string{"XDG_STATE_HOME=" + p.state}, "version")
			s.waitExit(0)
			s.run("respawn-pane", "-k", "--", "sh", "-c", `stty -a >"$XDG_STATE_HOME/before"; trap '' TERM; "$0" repl "$1"; echo "exit code $?"
				stty -a >"$XDG_STATE_HOME/after"; echo done; cat`, os.Args[0], p.tcp)
			s.wait(">")
			switch end {
			case "busy":
				s.line("hang")
				s.wait("> hang", "*")
				s.keys("C-d")
			case "SIGTERM":
				s.text("params half")
				s.wait("> params half")
				s.signal(syscall.SIGTERM)
			default:
				s.keys(end)
			}
			s.wait(fmt.Sprintf("exit code %d", code[end]), "done")
			before, err1 := os.ReadFile(filepath.Join(p.state, "before"))
			after, err2 := os.ReadFile(filepath.Join(p.state, "after"))
			if err1 != nil || err2 != nil || len(before) == 0 || string(before) != string(after) {
				t.Errorf("before (%v):\n%s\nafter (%v):\n%s", err1, before, err2, after)
			}
		})
	}
}
