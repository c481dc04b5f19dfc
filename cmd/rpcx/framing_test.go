package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/rpcx"
)

// Each framing and protocol reaches a server that speaks it.
func TestFramingAndProtocol(t *testing.T) {
	for _, c := range []struct {
		flags  string
		change func(*rpcx.Options)
	}{
		{"--framing line", func(*rpcx.Options) {}},
		{"--framing lsp", func(o *rpcx.Options) { o.Framer = rpcx.HeaderFramer{} }},
		{"--framing length", func(o *rpcx.Options) { o.Framer = rpcx.LengthFramer{} }},
		{"--framing json", func(o *rpcx.Options) { o.Framer = rpcx.JSONFramer{} }},
		{"--protocol 1", func(o *rpcx.Options) { o.Protocol = rpcx.JSONRPCv1 }},
		{"--protocol loose", func(o *rpcx.Options) { o.Protocol = rpcx.JSONRPCLoose }},
		{"--protocol aiomas", func(o *rpcx.Options) { o.Protocol, o.Framer = rpcx.Aiomas, rpcx.LengthFramer{} }},
		{"--protocol aiomas --framing line", func(o *rpcx.Options) { o.Protocol = rpcx.Aiomas }},
	} {
		t.Run(c.flags, func(t *testing.T) {
			p := newPeer(t, c.change)
			args := append([]string{"call", p.tcp, "echo", "hello", "-o", "raw"}, strings.Fields(c.flags)...)
			checkResult(t, rpcxRun(args...), exitOK, "hello\n")
		})
	}
}

func TestGenerate(t *testing.T) {
	p := newPeer(t)
	file := filepath.Join(t.TempDir(), "rpc.go")
	checkResult(t, rpcxRun("gen", p.tcp, "--package", "sample", "--out", file), exitOK, "")
	code, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"package sample\n", "type User struct", "type Service interface", "func NewClient("} {
		if !strings.Contains(string(code), text) {
			t.Errorf("no %q in\n%s", text, code)
		}
	}
	checkResult(t, rpcxRun("gen", p.tcp, "--package", "sample"), exitOK, string(code))
	checkResult(t, rpcxRun("gen", p.http, "--package", "sample"), exitOK, string(code))

	document := rpcxRun("describe", p.ws, "--output", "json")
	checkResult(t, invocation{stdin: document.stdout}.run("gen", "-", "--package", "sample"), exitOK, string(code))
	checkResult(t, rpcxRun("gen", p.tcp, "--package", "no name"), exitUsage, "", "generate code")
	checkResult(t, rpcxRun("gen", p.tcp, "more"), exitUsage, "", `"more" is too much`)
	checkResult(t, invocation{stdin: `{"openrpc": "2.0"}`}.run("gen", "-"), exitUsage, "", "stdin is not an OpenRPC document")
}

// A peer without rpc.discover is no surprise: the command says how to go on.
func TestDescribeNothing(t *testing.T) {
	router := rpcx.NewRouter()
	p := newPeer(t, func(o *rpcx.Options) { o.Handler = router })
	checkResult(t, rpcxRun("describe", p.tcp), exitPeer, "", "it has no method rpc.discover (--discover names another)", `"code":-32601`)
}

// The texts of a stranger's document do no harm to a terminal, or to the lines of a list.
func TestDescribeHostile(t *testing.T) {
	const document = `{"openrpc":"1.3.2","info":{"title":"T\u001b]0;x\u0007","version":"1\n2"},"methods":[{
		"name":"a\u001b[31m\nb","summary":"s\r\u202e\nnext","params":[{"name":"p\n\u009b","schema":{"type":"str\u001bing"}}],
		"result":{"name":"r","schema":{"enum":["\u001b[0m",{"a":"\u009b1m"}]}},
		"errors":[{"code":1,"message":"m\u001b\n"}],
		"examples":[{"name":"x\u001b","params":[{"name":"p","value":"\u009b"}]}]}]}`
	for name, args := range map[string][]string{"list": {"describe", "-"}, "methods": {"describe", "-", "*"}, "JSON": {"describe", "-", "-o", "json"}} {
		t.Run(name, func(t *testing.T) {
			r := invocation{stdin: document, terminal: true, vars: map[string]string{"NO_COLOR": "1"}}.run(args...)
			if r.code != exitOK || r.stdout == "" || strings.ContainsAny(r.stdout+r.stderr, "\x1b\x07\r\u009b\u202e") {
				t.Errorf("exit code %d\n%q\n%q", r.code, r.stdout, r.stderr)
			}
		})
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "a/b", true}, {"a*", "ab", true}, {"a*", "ba", false},
		{"*a", "ba", true}, {"*a", "ab", false}, {"a*a", "a", false}, {"a*a", "aa", true}, {"a*b*c", "a-b-c", true},
		{"a*b*c", "a-c-b", false}, {"**", "x", true}, {"", "", true}, {"", "x", false}, {"[a", "[a", true}, {"*ab*ab", "abab", true}, {"*ab*ab", "aab", false},
	} {
		if got := matches(c.pattern, c.name); got != c.want {
			t.Errorf("%q, %q: %v", c.pattern, c.name, got)
		}
	}
}

func TestColoured(t *testing.T) {
	for _, c := range []struct {
		color, key, value string
		terminal, want    bool
	}{
		{"auto", "", "", true, true},
		{"auto", "", "", false, false},
		{"auto", "NO_COLOR", "1", true, false},
		{"auto", "NO_COLOR", "", true, true},
		{"auto", "TERM", "dumb", true, false},
		{"always", "NO_COLOR", "1", false, true},
		{"never", "", "", true, false},
	} {
		e := &env{getenv: func(key string) string {
			if key == c.key {
				return c.value
			}
			return ""
		}}
		if got := (&outputFlags{color: c.color}).coloured(e, c.terminal); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// The escapes of a text for a terminal are the same JSON, and a text without control
// characters is unchanged.
func TestEscapeControl(t *testing.T) {
	for text, want := range map[string]string{
		"plain ünï 東京 👩":     "plain ünï 東京 👩",
		"a\n\tb":             "a\n\tb",
		"\x1b\x00\x7f\r":     `\u001b\u0000\u007f\u000d`,
		"\u0085\u009b":       `\u0085\u009b`,
		"\u202e\u2066\u200b": `\u202e\u2066\u200b`,
		"\u2028\u2029":       `\u2028\u2029`,
		"\U000e0001":         `\udb40\udc01`,
		"\xff":               `\ufffd`,
	} {
		if got := escapeControl(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
