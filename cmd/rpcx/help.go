package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

const mainHelp = `rpcx calls JSON-RPC servers: over TCP, TLS, unix sockets, WebSockets, HTTP, or the
stdin and stdout of a program.

Usage:
  rpcx COMMAND ADDR [ARGUMENTS] [FLAGS]

Commands:
%s
Run "rpcx COMMAND --help" for a command's arguments, flags and examples.

ADDR is one of
  host:port, tcp://host:port      TCP
  tls://host:port                 TLS; or host:port with --tls
  unix:///path, /path             a unix socket
  ws://host/path, wss://…         a WebSocket
  http://host/path, https://…     HTTP
  'stdio:COMMAND ARGS'            a program; or --stdio 'COMMAND ARGS' in place of ADDR

Params are values by position (1 text '[2]'), name=value, JSON ('{"a": 1}'), @FILE, or -
for stdin. Flags stand before or after the arguments.

"rpcx --version" prints the version.

Exit codes:
  0    success
  1    the peer answered with an error, which is printed on stderr as JSON
  2    the command line is wrong
  3    the connection failed, or the peer does not speak JSON-RPC
  4    no reply in time (--timeout)
  130  Ctrl-C ended the command early

Examples:
  rpcx call localhost:8888 sum 1 2
  rpcx call https://rpc.example/ user.find name=A --auth @token --jq '.[].mail'
  rpcx listen wss://eth.example/ --subscribe eth_subscribe newHeads --output compact
  rpcx describe localhost:8888
  rpcx call 'stdio:gopls' initialize processId=null capabilities={} --framing lsp
`

// printHelp prints the help of rpcx, or of the command that args name.
func printHelp(e *env, args []string) error {
	if len(args) > 0 {
		c := findCommand(args[0])
		if c == nil {
			return usagef("unknown command %q%s", args[0], didYouMean(args[0], commandNameList()))
		}
		return printCommandHelp(e, c)
	}
	var list strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&list, "  %-12s%s\n", c.name, c.summary)
	}
	return printText(e, fmt.Sprintf(mainHelp, list.String()))
}

// printCommandHelp prints the help of a command.
func printCommandHelp(e *env, c *command) error {
	fs := newFlags()
	c.setup(fs)
	var b strings.Builder
	fmt.Fprintf(&b, "%s.\n\nUsage:\n  %s\n", c.summary, strings.TrimSpace("rpcx "+c.name+" "+c.usage+flagsUsage(fs)))
	if c.help != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(c.help))
	}
	if c.examples != "" {
		b.WriteString("\nExamples:\n")
		for line := range strings.Lines(strings.TrimSpace(c.examples) + "\n") {
			b.WriteString("  " + line)
		}
	}
	for _, g := range fs.groups {
		fmt.Fprintf(&b, "\n%s:\n", g.title)
		for _, name := range g.names {
			writeFlagHelp(&b, fs, name)
		}
	}
	return printText(e, b.String())
}

func flagsUsage(fs *flags) string {
	if len(fs.groups) == 0 {
		return ""
	}
	return " [FLAGS]"
}

// writeFlagHelp writes the lines of a flag, with a margin of 26 columns.
func writeFlagHelp(b *strings.Builder, fs *flags, name string) {
	const margin, width = 26, 88
	f := fs.Lookup(name)
	value, usage := unquoteUsage(fs, name)
	head := "  --" + name
	if short := fs.aliasOf(name); short != "" {
		head = "  -" + short + ", --" + name
	}
	if value != "" {
		head += " " + value
	}
	if choices := fs.values[name]; len(choices) > 0 && choices[0] != completeFiles {
		usage += " (" + strings.Join(choices, ", ") + ")"
	}
	if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "0s" {
		usage += "; default " + d
	}
	line := head
	if displayWidth(line) > margin-2 {
		b.WriteString(line + "\n")
		line = ""
	}
	line += strings.Repeat(" ", margin-displayWidth(line))
	for word := range strings.FieldsSeq(usage) {
		if displayWidth(line)+displayWidth(word) > width {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = strings.Repeat(" ", margin)
		}
		line += word + " "
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}

// unquoteUsage returns the word for the value of a flag, and the text about the flag. A
// text that begins with the word and a colon has neither. The value of a bool is "".
func unquoteUsage(fs *flags, name string) (value, usage string) {
	value, usage = flag.UnquoteUsage(fs.Lookup(name))
	usage = strings.TrimPrefix(usage, value+": ")
	if !fs.takesValue(name) {
		value = ""
	}
	return value, usage
}

// aliasOf returns the name of one letter that a flag has, or "".
func (fs *flags) aliasOf(name string) (short string) {
	fs.VisitAll(func(f *flag.Flag) {
		if f.Usage == aliasPrefix+name {
			short = f.Name
		}
	})
	return short
}

// printText prints text on stdout.
func printText(e *env, text string) error {
	if _, err := io.WriteString(e.stdout, text); err != nil {
		return &outputError{err}
	}
	return nil
}
