package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/rpcx/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// The picture in the README is what the command prints now.
func TestRecording(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("the session is run by bash: apt-get install bash")
	}
	file := filepath.Join(t.TempDir(), "new.svg")
	if err := record(t.Context(), file, false); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "rpcx.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("docs/rpcx.svg is out of date; go -C cmd/rpcx run ./internal/record -o ../../docs/rpcx.svg\n%s", difference(string(got), string(want)))
	}
}

// difference returns the first line that differs.
func difference(got, want string) string {
	wanted := strings.Split(want, "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(wanted) || line != wanted[i] {
			return "the first new line is " + line
		}
	}
	return "lines are missing at the end"
}

func TestWrap(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want []string
	}{
		"short":          {"ab", []string{"ab"}},
		"empty":          {"", []string{""}},
		"exactly a row":  {strings.Repeat("x", columns), []string{strings.Repeat("x", columns)}},
		"more":           {strings.Repeat("x", columns) + "\x1b[32myz\x1b[0m", []string{strings.Repeat("x", columns), "#85e89d:yz"}},
		"colours":        {"a\x1b[36m1\x1b[0mb", []string{"a#b392f0:1b"}},
		"a long colour":  {"\x1b[33m" + strings.Repeat("x", columns+1), []string{"#ffab70:" + strings.Repeat("x", columns), "#ffab70:x"}},
		"unknown colour": {"\x1b[35mx", []string{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, row := range wrap(c.line) {
				var text strings.Builder
				for _, s := range row {
					if s.colour != "" {
						text.WriteString(s.colour + ":")
					}
					text.WriteString(s.text)
				}
				got = append(got, text.String())
			}
			if strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
