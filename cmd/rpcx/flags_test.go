package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	type values struct {
		text    string
		yes     bool
		wait    time.Duration
		n, size int
		list    []string
		choice  string
	}
	for _, c := range []struct {
		name, args string
		positional string
		want       values
		err        string
	}{
		{"none", "a b", "a b", values{}, ""},
		{"before and after", "--text x a -n 3 b --yes", "a b", values{text: "x", n: 3, yes: true}, ""},
		{"one dash or two, with = or without", "-text=x --n=3 -wait 2m", "", values{text: "x", n: 3, wait: 2 * time.Minute}, ""},
		{"an alias", "-t x", "", values{text: "x"}, ""},
		{"repeated", "--list a --list b", "", values{list: []string{"a", "b"}}, ""},
		{"a value that looks like a flag", "--text --yes", "", values{text: "--yes"}, ""},
		{"a bool with a value", "--yes=false a", "a", values{}, ""},
		{"a bool takes no next argument", "--yes a", "a", values{yes: true}, ""},
		{"numbers and dashes are arguments", "-1 - -2.5 -.5", "-1 - -2.5 -.5", values{}, ""},
		{"the end of flags", "-- --text -n", "--text -n", values{}, ""},
		{"sizes", "--size 2KiB", "", values{size: 2048}, ""},
		{"a time of zero", "--wait 0", "", values{}, ""},
		{"unknown", "--txet x", "", values{}, `unknown flag --txet (did you mean "--text"?)`},
		{"unknown and near nothing", "--zzzzzz", "", values{}, "unknown flag --zzzzzz"},
		{"the beginning of a name", "-choi a", "", values{}, `unknown flag -choi (did you mean "--choice"?)`},
		{"no value", "a --text", "", values{}, "flag --text needs a value"},
		{"no number", "--n x", "", values{}, `flag --n: "x" is not a number of 0 or more`},
		{"a negative number", "--n -1", "", values{}, `flag --n: "-1" is not a number`},
		{"no time", "--wait 5", "", values{}, `flag --wait: "5" is not a time; write 500ms`},
		{"no size", "--size 5MB", "", values{}, `flag --size: "5MB" is not a size`},
		{"too large", "--size 99999999999GiB", "", values{}, `is not a size`},
		{"no choice", "--choice c", "", values{}, `flag --choice: "c" is not one of a, b`},
		{"help", "a -h", "", values{}, errHelp.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got values
			fs := newFlags()
			fs.String(&got.text, "text", "")
			fs.alias("t", "text")
			fs.Bool(&got.yes, "yes", "")
			fs.Duration(&got.wait, "wait", "")
			fs.Int(&got.n, "n", "")
			fs.Size(&got.size, "size", "")
			fs.List(&got.list, "list", "")
			fs.Choice(&got.choice, "choice", "", "a", "b")
			positional, err := fs.parse(strings.Fields(c.args))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.list, c.want.list) {
				t.Errorf("list %q, want %q", got.list, c.want.list)
			}
			got.list, c.want.list = nil, nil
			if text := strings.Join(positional, " "); text != c.positional || got.text != c.want.text || got.yes != c.want.yes ||
				got.wait != c.want.wait || got.n != c.want.n || got.size != c.want.size || got.choice != c.want.choice {
				t.Errorf("got %+v and %q, want %+v and %q", got, text, c.want, c.positional)
			}
		})
	}
}

// Each command's flags have texts, and no flag is declared twice.
func TestFlagsOfCommands(t *testing.T) {
	for _, c := range commands() {
		fs := flagsOf(c)
		for _, name := range fs.names() {
			value, usage := unquoteUsage(fs, name)
			if usage == "" || strings.Contains(usage, "`") || (value == "value") {
				t.Errorf("%s --%s: the help has value %q and text %q", c.name, name, value, usage)
			}
		}
		if c.summary == "" || strings.HasSuffix(c.summary, ".") {
			t.Errorf("%s: summary %q", c.name, c.summary)
		}
		for line := range strings.Lines(c.help) {
			if displayWidth(line) > 93 {
				t.Errorf("%s: a line of the help is too long: %s", c.name, line)
			}
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"timeuot", "timeout", 1}, {"header", "headers", 1}, {"ab", "ba", 1}, {"abc", "xyz", 3}} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := editDistance(c.b, c.a); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

func TestCommandLines(t *testing.T) {
	for _, c := range []struct {
		name, args string
		code       int
		stderr     string
	}{
		{"nothing", "", exitUsage, "no command"},
		{"an unknown command", "cal", exitUsage, `unknown command "cal" (did you mean "call"?)`},
		{"help for an unknown command", "help cal", exitUsage, `did you mean "call"?`},
		{"an unknown flag", "call localhost:1 x --timeot 1s", exitUsage, `unknown flag --timeot (did you mean "--timeout"?)`},
		{"no address", "call", exitUsage, "no address; want host:port"},
		{"no method", "call localhost:1", exitUsage, "no method: write one after ADDR"},
		{"no port", "call localhost x", exitUsage, `address "localhost" has no port; want host:port, as in localhost:8888`},
		{"an unknown scheme", "call ftp://localhost:21 x", exitUsage, `has an unknown scheme`},
		{"no lines", "batch localhost:1", exitUsage, "no lines"},
		{"a bad line", "batch localhost:1 @testdata/bad_lines.txt", exitUsage, "line 3"},
		{"no file", "batch localhost:1 @nothing", exitUsage, "no such file"},
		{"no params file", "call localhost:1 x @nothing", exitUsage, "no such file"},
		{"listening over HTTP", "listen http://localhost:1", exitUsage, "HTTP brings no notifications"},
		{"params without a subscription", "listen localhost:1 x", exitUsage, "params come after --subscribe"},
		{"no document", "describe main.go", exitUsage, "not JSON"},
		{"no shell", "completion csh", exitUsage, "want bash, zsh or fish"},
		{"a refused connection", "call localhost:1 x", exitConnection, "refused"},
		{"a program that is not there", "call stdio:no-such-program x", exitConnection, "Is the program installed"},
	} {
		t.Run(c.name, func(t *testing.T) { checkResult(t, rpcxRun(strings.Fields(c.args)...), c.code, "", c.stderr) })
	}
	if r := rpcxRun("version"); r.code != exitOK || !strings.HasPrefix(r.stdout, "rpcx ") {
		t.Errorf("version: %+v", r)
	}
}
