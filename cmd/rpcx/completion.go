package main

import (
	"context"
	"fmt"
	"strings"
)

// completionScript returns the script for a shell, or "".
func completionScript(shell string) string {
	switch shell {
	case "bash":
		return bashCompletion()
	case "zsh":
		return zshCompletion()
	case "fish":
		return fishCompletion()
	}
	return ""
}

func completionCommand() *command {
	return &command{
		name:    "completion",
		usage:   "bash|zsh|fish",
		summary: "Print a script that completes commands and flags in a shell",
		examples: `
source <(rpcx completion bash)
rpcx completion zsh > "${fpath[1]}/_rpcx"
rpcx completion fish > ~/.config/fish/completions/rpcx.fish`,
		setup: func(*flags) action {
			return func(_ context.Context, e *env, args []string) error {
				if len(args) != 1 {
					return usagef("want one shell: bash, zsh or fish")
				}
				script := completionScript(args[0])
				if script == "" {
					return usagef("no completion for %q; want bash, zsh or fish", args[0])
				}
				return printText(e, script)
			}
		},
	}
}

// flagsOf returns the flags of a command.
func flagsOf(c *command) *flags {
	fs := newFlags()
	c.setup(fs)
	return fs
}

// takesValue reports whether a flag is followed by a value.
func (fs *flags) takesValue(name string) bool {
	_, ok := fs.Lookup(name).Value.(*boolValue)
	return !ok
}

// argumentChoices returns words for the argument after a command.
func argumentChoices(c *command) string {
	if c.name == "completion" {
		return "bash zsh fish"
	}
	return ""
}

func bashCompletion() string {
	var b strings.Builder
	b.WriteString(`# Completion of rpcx for bash. Made by "rpcx completion bash".
_rpcx() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags=
	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		COMPREPLY=($(compgen -W "` + strings.Join(append(commandNameList(), "help", "--help", "--version"), " ") + `" -- "$cur"))
		return
	fi
	case ${COMP_WORDS[1]}:$prev in
`)
	for _, c := range commands() {
		fs := flagsOf(c)
		for _, name := range fs.names() {
			choices := fs.values[name]
			pattern := c.name + ":--" + name
			if short := fs.aliasOf(name); short != "" {
				pattern += "|" + c.name + ":-" + short
			}
			switch {
			case len(choices) > 0 && choices[0] == completeFiles:
				fmt.Fprintf(&b, "\t%s) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", pattern)
			case len(choices) > 0:
				fmt.Fprintf(&b, "\t%s) COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return ;;\n", pattern, strings.Join(choices, " "))
			case fs.takesValue(name):
				fmt.Fprintf(&b, "\t%s) return ;;\n", pattern)
			}
		}
		if words := argumentChoices(c); words != "" {
			fmt.Fprintf(&b, "\t%s:%s) COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return ;;\n", c.name, c.name, words)
		}
	}
	b.WriteString("\tesac\n\tcase ${COMP_WORDS[1]} in\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "\t%s) flags=\"--%s\" ;;\n", c.name, strings.Join(append(flagsOf(c).names(), "help"), " --"))
	}
	b.WriteString(`	help) COMPREPLY=($(compgen -W "` + strings.Join(commandNameList(), " ") + `" -- "$cur")); return ;;
	esac
	case $cur in
	-*) COMPREPLY=($(compgen -W "$flags" -- "$cur")) ;;
	@*) compopt -o filenames; COMPREPLY=($(compgen -P @ -f -- "${cur#@}")) ;;
	*) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
	esac
}
complete -F _rpcx rpcx
`)
	return b.String()
}

func zshCompletion() string {
	quote := strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`).Replace
	var b strings.Builder
	b.WriteString(`#compdef rpcx
# Completion of rpcx for zsh. Made by "rpcx completion zsh".
_rpcx() {
	local context state state_descr line
	typeset -A opt_args
	local -a list
	if (( CURRENT == 2 )); then
		list=(
`)
	for _, c := range commands() {
		fmt.Fprintf(&b, "\t\t\t'%s:%s'\n", c.name, quote(c.summary))
	}
	b.WriteString(`		)
		_describe command list
		return
	fi
	local command=$words[2]
	shift words
	(( CURRENT-- ))
	case $command in
`)
	for _, c := range commands() {
		fmt.Fprintf(&b, "\t%s)\n\t\t_arguments -S", c.name)
		fs := flagsOf(c)
		for _, name := range fs.names() {
			_, usage := unquoteUsage(fs, name)
			names := "--" + name
			spec := fmt.Sprintf("[%s]", quote(usage))
			if fs.takesValue(name) {
				switch choices := fs.values[name]; {
				case len(choices) > 0 && choices[0] == completeFiles:
					spec += ":file:_files"
				case len(choices) > 0:
					spec += fmt.Sprintf(":%s:(%s)", name, strings.Join(choices, " "))
				default:
					spec += ":" + name + ":"
				}
				names += "="
			}
			if short := fs.aliasOf(name); short != "" {
				fmt.Fprintf(&b, " \\\n\t\t\t'(--%s)-%s%s'", name, short, spec)
			}
			fmt.Fprintf(&b, " \\\n\t\t\t'*%s%s'", names, spec)
		}
		if words := argumentChoices(c); words != "" {
			fmt.Fprintf(&b, " \\\n\t\t\t'1:argument:(%s)'\n\t\t;;\n", words)
		} else {
			b.WriteString(" \\\n\t\t\t'--help[show the help]' \\\n\t\t\t'*:argument:_files'\n\t\t;;\n")
		}
	}
	b.WriteString(`	esac
}
if [ "$funcstack[1]" = _rpcx ]; then
	_rpcx "$@"
else
	compdef _rpcx rpcx
fi
`)
	return b.String()
}

func fishCompletion() string {
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace
	var b strings.Builder
	b.WriteString("# Completion of rpcx for fish. Made by \"rpcx completion fish\".\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "complete -c rpcx -n __fish_use_subcommand -f -a %s -d '%s'\n", c.name, quote(c.summary))
	}
	for _, c := range commands() {
		fs := flagsOf(c)
		condition := "-n '__fish_seen_subcommand_from " + c.name + "'"
		for _, name := range fs.names() {
			_, usage := unquoteUsage(fs, name)
			fmt.Fprintf(&b, "complete -c rpcx %s -l %s", condition, name)
			if short := fs.aliasOf(name); short != "" {
				b.WriteString(" -s " + short)
			}
			if fs.takesValue(name) {
				switch choices := fs.values[name]; {
				case len(choices) > 0 && choices[0] == completeFiles:
					b.WriteString(" -r -F")
				case len(choices) > 0:
					fmt.Fprintf(&b, " -x -a '%s'", strings.Join(choices, " "))
				default:
					b.WriteString(" -x")
				}
			}
			fmt.Fprintf(&b, " -d '%s'\n", quote(usage))
		}
		if words := argumentChoices(c); words != "" {
			fmt.Fprintf(&b, "complete -c rpcx %s -f -a '%s'\n", condition, words)
		}
	}
	return b.String()
}
