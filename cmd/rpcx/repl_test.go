package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// Without a terminal, the lines of stdin are run one after the other.
func TestReplWithoutTerminal(t *testing.T) {
	p := newPeer(t)
	for _, c := range []struct {
		name, stdin    string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"calls", "params 1\n# a remark\n\nparams a=2\n", nil, 0, "[1]\n{\"a\":2}\n", ""},
		{"no last newline", "params 1", nil, 0, "[1]\n", ""},
		{"a notification", "!params 1\nparams 2\n", nil, 0, "[2]\n", ""},
		{"JSON over lines", "params [1,\n2\n]\nparams {\"a\": \"[\"}\n", nil, 0, "[1,2]\n{\"a\":\"[\"}\n", ""},
		{"JSON that does not end", "params 1\nparams [1,\n2", nil, 1, "[1]\n", "params: not JSON: the end is missing"},
		{"a string that does not end", "params [\"a\nparams 1\n", nil, 1, "[1]\n", "params: not JSON"},
		{"JSON with too many ends", "params [1]]\nparams 1\n", nil, 1, "[1]\n", "params: not JSON"},
		{"an error of the peer", "refuse\nparams 1\n", nil, 1, "[1]\n", `{"code":42,"message":"refused: naïve`},
		{"a timeout", "hang\nparams 1\n", []string{"--timeout", "20ms"}, 1, "[1]\n", "no reply within 20ms"},
		{"the end", "params 1\n.quit\nparams 2\n", nil, 0, "[1]\n", ""},
		{"an unknown command", ".nothing\n", nil, 1, "", "unknown command .nothing"},
		{"a command without its dot", "exit\nhelp\nparams 1\n", nil, 1, "[1]\n", "to rpcx itself, write .exit\n{\"code\":-32601"},
		{"a filter", "params 1 2\n", []string{"--jq", ".[]"}, 0, "1\n2\n", ""},
		{"methods", ".methods user.*\n", nil, 0, "", ""},
		{"describe without a method", ".describe\n", nil, 1, "", ".describe needs a method"},
		{"no document", "params 1\n.methods\n", []string{"--discover", "nothing"}, 0, "[1]\nThe peer does not describe itself. Methods that were called:\n  params\n", ""},
		{"a dash", "params -\n", nil, 1, "", "stdin has the lines"},
		{"a new connection", "hangup\nparams 1\n", nil, 1, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := invocation{stdin: c.stdin}.run(append([]string{"repl", p.tcp, "-o", "compact"}, c.args...)...)
			if c.stdout == "" { // not compared
				c.stdout = r.stdout
			}
			checkResult(t, r, c.code, c.stdout, c.stderr)
		})
	}
	checkResult(t, invocation{stdin: "params 1\n"}.run("repl", p.http, "-o", "compact"), 0, "[1]\n")
	checkResult(t, rpcxRun("repl", p.tcp, "params"), exitUsage, "", `"params" is too much`)
	checkResult(t, rpcxRun("repl", "127.0.0.1:1"), exitConnection, "", "refused")
}

// A notification and a result that come together are shown in either order.
func TestReplShowsNotifications(t *testing.T) {
	p := newPeer(t)
	r := invocation{stdin: "subscribe heads 1 false\nparams done\n"}.run("repl", p.tcp, "-o", "compact")
	lines := slices.Sorted(strings.Lines(r.stdout))
	want := []string{`"subscribed to heads"` + "\n", "[\"done\"]\n", `← news {"n":1,"topic":"heads"}` + "\n"}
	if r.code != 0 || !slices.Equal(lines, want) && !slices.Equal(lines, want[:2]) {
		t.Errorf("%+v", r)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rpcx", "history")
	h, err := readHistory(path)
	if err != nil || len(h.past) != 0 {
		t.Fatalf("%v, %v", h, err)
	}
	for i := range maxHistoryLines + 5 {
		if err := h.add(strings.Repeat("x", i%10+1)); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := os.Stat(path)
	if h, err = readHistory(path); err != nil || len(h.past) != maxHistoryLines {
		t.Fatalf("%d lines, %v", len(h.past), err)
	}
	after, err := os.Stat(path)
	if err != nil || after.Size() >= before.Size() || after.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, before %d bytes", after, err, before.Size())
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("files %q", left)
	}
	// A file that something else has filled is read from its end.
	if err := os.WriteFile(path, []byte(strings.Repeat("y", maxHistoryFile)+"\nlast\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h, err = readHistory(path); err != nil || !slices.Equal(h.past, []string{"last"}) {
		t.Errorf("%q, %v", h.lines(), err)
	}
}

// A history that others can read is made private. Lines with control characters would act
// on the terminal, and are left out.
func TestHistoryOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	text := "good\n\x1b]0;owned\x07\n\u009b2J\nbad \xff\n" + strings.Repeat("l", maxHistoryLine+1) + "\n\nemoji 👨\u200d👩\n"
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	h, err := readHistory(path)
	if err != nil || !slices.Equal(h.past, []string{"good", "emoji 👨\u200d👩"}) {
		t.Errorf("%q, %v", h.lines(), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestHistoryPath(t *testing.T) {
	for _, c := range []struct{ state, home, want string }{
		{"/state", "/home/ann", "/state/rpcx/history"},
		{"", "/home/ann", "/home/ann/.local/state/rpcx/history"},
		{"relative", "/home/ann", "/home/ann/.local/state/rpcx/history"},
		{"", "", ""},
	} {
		vars := map[string]string{"XDG_STATE_HOME": c.state, "HOME": c.home}
		if got := historyPath(&env{getenv: func(k string) string { return vars[k] }}); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestJSONDepth(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  int
	}{
		{[]string{"sum"}, 0},
		{[]string{"sum ["}, 1},
		{[]string{"sum [", "{", "}"}, 1},
		{[]string{`sum ["]`}, 0},
		{[]string{`sum ["\"]"`}, 1},
		{[]string{"sum", "["}, 0},
		{[]string{"sum [1] ["}, 1},
		{[]string{"sum a=["}, 0},
		{[]string{"sum 'it is ["}, 0},
	} {
		var d jsonDepth
		got := 0
		for _, line := range c.lines {
			got = d.read(line)
		}
		if got != c.want {
			t.Errorf("%q: %d, want %d", c.lines, got, c.want)
		}
	}
}

// The terminal stays raw between two lines, and is left at Ctrl-Z and at the end.
func TestRawModeStaysBetweenLines(t *testing.T) {
	var calls string
	m := rawMode{
		enterTTY: func() error { calls += "enter "; return nil },
		exitTTY:  func() error { calls += "exit "; return nil },
	}
	check := func(want string) {
		t.Helper()
		if calls != want {
			t.Errorf("%q, want %q", calls, want)
		}
		calls = ""
	}
	m.repair() // before the first line
	check("")
	m.enter()
	m.exit()
	m.enter()
	check("enter ")
	m.leaveOnce() // Ctrl-Z
	m.exit()
	check("exit ")
	m.repair() // the process goes on: the editor enters the mode itself
	m.enter()
	m.exit()
	check("enter ")
	m.repair() // after a stop from outside
	check("exit enter ")
	m.leaveForGood()
	check("exit ")
	m.enter() // a line that had begun
	m.repair()
	m.exit()
	check("")
}

// The editor has read all that came before it asks for the column, and so reads the answer
// next, whatever was typed ahead.
func TestColumnTellerAnswersFirst(t *testing.T) {
	typed := "params 1\r\x1b[params \xe6\n\x97\xa5\x03\x1bO\x04" + strings.Repeat("日", 2000) + "\r"
	teller := &columnTeller{in: iotest.DataErrReader(strings.NewReader(typed)), t: &terminalInput{}}
	buf := make([]byte, 4096)
	var got strings.Builder
	for {
		n, err := teller.Read(buf)
		if err != nil {
			break
		}
		got.Write(buf[:n])
		if i := bytes.IndexAny(buf[:n], lastKeys); i >= 0 {
			if i < n-1 {
				t.Errorf("a line ends before the last bytes of %q", buf[:n])
			}
			fmt.Fprint(teller, columnQuestion)
			if n, err := teller.Read(buf); err != nil || string(buf[:n]) != columnAnswer {
				t.Errorf("the question is answered with %q, %v", buf[:n], err)
			}
		}
	}
	if got.String() != typed {
		t.Errorf("read %q, want %q", &got, typed)
	}
	if !teller.t.hasEnded() {
		t.Error("the end is not noted")
	}
}
