package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each golden file has a command line, what it prints on stdout and stderr, and the exit
// code. -update writes the files anew.
func TestGolden(t *testing.T) {
	p := newPeer(t)
	document := filepath.Join("..", "..", "openrpc", "testdata", "shop.json")
	lines := "sum\n# a remark\n\necho message='two words'\n!params {\"a\":1}\nrefuse\nrows\n"
	for _, c := range []struct {
		name string
		in   invocation
		args []string
	}{
		{"json", invocation{}, []string{"call", "ADDR", "value"}},
		{"json_colour", invocation{}, []string{"call", "ADDR", "value", "--color", "always"}},
		{"json_terminal", invocation{terminal: true}, []string{"call", "ADDR", "value"}},
		{"compact", invocation{}, []string{"call", "ADDR", "value", "--output", "compact"}},
		{"compact_colour", invocation{terminal: true}, []string{"call", "ADDR", "value", "--output", "compact"}},
		{"raw_object", invocation{}, []string{"call", "ADDR", "value", "--output", "raw"}},
		{"raw_string", invocation{}, []string{"call", "ADDR", "echo", "two words", "-o", "raw"}},
		{"table_object", invocation{}, []string{"call", "ADDR", "value", "--output", "table"}},
		{"table_rows", invocation{}, []string{"call", "ADDR", "rows", "--output", "table"}},
		{"table_list", invocation{}, []string{"call", "ADDR", "echo", "[[1, \"two\", null]]", "--output", "table"}},
		{"table_scalar", invocation{}, []string{"call", "ADDR", "echo", "1", "--output", "table"}},
		{"table_empty", invocation{}, []string{"call", "ADDR", "echo", "[[]]", "--output", "table"}},
		{"jq", invocation{}, []string{"call", "ADDR", "rows", "--jq", ".[] | {name, old: (.age > 10)}", "--output", "compact"}},
		{"jq_raw", invocation{}, []string{"call", "ADDR", "rows", "--jq", ".[].name", "--output", "raw"}},
		{"jq_table", invocation{}, []string{"call", "ADDR", "rows", "--jq", "map({name})", "--output", "table"}},
		{"jq_big", invocation{}, []string{"call", "ADDR", "value", "--jq", ".big, .number", "--output", "compact"}},
		{"hostile_terminal", invocation{terminal: true, vars: map[string]string{"NO_COLOR": "1"}}, []string{"call", "ADDR", "hostile"}},
		{"hostile_compact", invocation{terminal: true, vars: map[string]string{"NO_COLOR": "1"}}, []string{"call", "ADDR", "hostile", "--output", "compact"}},
		{"hostile_table", invocation{terminal: true}, []string{"call", "ADDR", "hostile", "--output", "table"}},
		{"hostile_raw", invocation{terminal: true}, []string{"call", "ADDR", "hostile_text", "--output", "raw"}},
		{"error", invocation{}, []string{"call", "ADDR", "refuse"}},
		{"error_terminal", invocation{terminal: true}, []string{"call", "ADDR", "refuse"}},
		{"batch_json", invocation{stdin: lines}, []string{"batch", "ADDR"}},
		{"batch_compact", invocation{stdin: lines}, []string{"batch", "ADDR", "--output", "compact"}},
		{"batch_raw", invocation{stdin: lines}, []string{"batch", "ADDR", "--output", "raw"}},
		{"batch_table", invocation{stdin: lines}, []string{"batch", "ADDR", "--output", "table"}},
		{"batch_jq", invocation{stdin: lines}, []string{"batch", "ADDR", "--jq", ".[] | .error // empty", "--output", "compact"}},
		{"batch_each", invocation{stdin: lines}, []string{"batch", "ADDR", "--each", "--output", "compact"}},
		{"listen_json", invocation{}, []string{"listen", "ADDR", "--subscribe", "subscribe", "heads", "2", "true"}},
		{"listen_compact", invocation{}, []string{"listen", "ADDR", "--subscribe", "subscribe heads 2 true", "--output", "compact"}},
		{"listen_jq", invocation{}, []string{"listen", "ADDR", "--subscribe", "subscribe heads 2 true", "--jq", ".params.n // empty"}},
		{"describe", invocation{}, []string{"describe", "ADDR"}},
		{"describe_method", invocation{}, []string{"describe", "ADDR", "user.*", "echo"}},
		{"describe_file", invocation{}, []string{"describe", document}},
		{"describe_file_methods", invocation{}, []string{"describe", document, "*"}},
		{"describe_compact", invocation{}, []string{"describe", "ADDR", "--output", "compact"}},
		{"describe_jq", invocation{}, []string{"describe", "ADDR", "--jq", ".methods[].name", "--output", "raw"}},
		{"bad_json", invocation{}, []string{"call", "ADDR", "echo", `{"message": [1, 2,, 3]}`}},
		{"bad_json_lines", invocation{stdin: "{\n  \"message\": \"a\tb\",\n  \"x\" 1\n}\n"}, []string{"call", "ADDR", "echo", "-"}},
		{"bad_json_end", invocation{}, []string{"call", "ADDR", "echo", `{"message": [1, 2`}},
		{"bad_jq", invocation{}, []string{"call", "ADDR", "echo", "1", "--jq", ".a | [1, ."}},
		{"help", invocation{}, []string{"--help"}},
		{"help_call", invocation{}, []string{"call", "--help"}},
		{"help_batch", invocation{}, []string{"help", "batch"}},
		{"help_bench", invocation{}, []string{"bench", "--help"}},
		{"help_describe", invocation{}, []string{"describe", "-h"}},
		{"help_repl", invocation{}, []string{"repl", "-h"}},
		{"help_mock", invocation{}, []string{"serve-mock", "-h"}},
		{"help_proxy", invocation{}, []string{"proxy", "-h"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := make([]string, len(c.args))
			for i, arg := range c.args {
				args[i] = strings.ReplaceAll(arg, "ADDR", p.tcp)
			}
			r := c.in.run(args...)
			text := fmt.Sprintf("$ rpcx %s\n%s", quoteWords(c.args), r.stdout)
			if r.stderr != "" {
				text += "--- stderr\n" + r.stderr
			}
			text = strings.ReplaceAll(text+fmt.Sprintf("--- exit code %d\n", r.code), p.tcp, "ADDR")
			checkGolden(t, c.name, text)
		})
	}
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; go test -run TestGolden -update writes it", err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// quoteWords returns words as a shell takes them.
func quoteWords(words []string) string {
	var quoted []string
	for _, w := range words {
		if strings.ContainsAny(w, " {}[]|*\"'") {
			w = "'" + w + "'"
		}
		quoted = append(quoted, w)
	}
	return strings.Join(quoted, " ")
}
