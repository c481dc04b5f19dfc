package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/rpcx/internal/interoptest"
)

// A shell itself completes the words of a command line.
func TestInteropCompletion(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "params.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, shell := range []struct {
		name string
		// script completes $LINE with the completion script in $SCRIPT, and prints a
		// candidate on each line.
		script []string
	}{
		{"bash", []string{"--norc", "-c", `source "$SCRIPT"; read -ra COMP_WORDS <<<"$LINE"
[[ $LINE == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); compopt() { :; }
_rpcx; printf '%s\n' "${COMPREPLY[@]}"`}},
		{"fish", []string{"--no-config", "-c", `source "$SCRIPT"; complete -C "$LINE" | string split -f1 \t; true`}},
		{"zsh", []string{"-f", "-c", zshCompleter}},
	} {
		t.Run(shell.name, func(t *testing.T) {
			path := interoptest.Program(t, "apt-get install "+shell.name, shell.name)
			script := filepath.Join(t.TempDir(), "completion")
			r := rpcxRun("completion", shell.name)
			checkResult(t, r, exitOK, r.stdout)
			if err := os.WriteFile(script, []byte(r.stdout), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				line string
				want []string // are among the candidates
				not  []string // are not
			}{
				{"rpcx ", commandNameList(), nil},
				{"rpcx ca", []string{"call"}, []string{"batch"}},
				{"rpcx call --", []string{"--framing", "--output", "--tls-ca"}, []string{"--subscribe"}},
				{"rpcx listen --sub", []string{"--subscribe"}, []string{"--framing"}},
				{"rpcx call --framing ", []string{"line", "lsp", "length", "json", "ws", "http"}, []string{"--framing"}},
				{"rpcx call localhost:1 x --output ta", []string{"table"}, []string{"json"}},
				{"rpcx describe --output te", []string{"text"}, []string{"table"}},
				{"rpcx call --tls-ca par", []string{"params.json"}, nil},
				{"rpcx completion ", []string{"bash", "zsh", "fish"}, nil},
			} {
				cmd := exec.CommandContext(t.Context(), path, shell.script...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "SCRIPT="+script, "LINE="+c.line, "HOME="+dir, "XDG_CONFIG_HOME="+dir, "TERM=dumb")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", c.line, err, out)
				}
				got := candidates(string(out))
				for _, want := range c.want {
					if !slices.Contains(got, want) {
						t.Errorf("%q: no %q among %q", c.line, want, got)
					}
				}
				for _, not := range c.not {
					if slices.Contains(got, not) {
						t.Errorf("%q: %q among %q", c.line, not, got)
					}
				}
			}
		})
	}
}

// candidates returns the words on the lines of out. A shell may add = to a flag.
func candidates(out string) (words []string) {
	for line := range strings.Lines(out) {
		words = append(words, strings.TrimSuffix(strings.TrimSpace(line), "="))
	}
	return words
}

// zshCompleter types $LINE and a tab in a zsh of its own, since zsh completes only in its
// line editor. There, compadd writes the candidates to a file. The key ^Y ends the shell.
const zshCompleter = `
export HITS=$HOME/hits
: > $HITS
zmodload zsh/zpty || exit 1
zpty z zsh -f -i
zpty -w z '
PROMPT=; autoload -Uz compinit; compinit -C; source "$SCRIPT"
compadd() {
	if (( ${@[(I)-[AOD]*]} )); then builtin compadd "$@"; return; fi
	local -a hits
	builtin compadd -O hits "$@"
	print -rl -- $hits >> $HITS
	return 1
}
end-now() { exit }
zle -N end-now; bindkey "^Y" end-now; print READY'
while zpty -r z text; do [[ $text == *READY* && $text != *print* ]] && break; done
zpty -w -n z "$LINE"$'\t'$'\x19'
while zpty -r z text; do :; done
cat $HITS
`
