package main

import (
	"context"
	"runtime/debug"
	"strings"
)

// command is an entry of the table of commands.
type command struct {
	name    string
	usage   string // the arguments, as in "ADDR METHOD [PARAMS…]"
	summary string // one line, for the list of commands
	help    string // paragraphs for the command's own help
	// examples are lines of a shell. A line that begins with # explains the next line.
	examples string
	// setup declares the flags, and returns what runs the command after the flags have been
	// read.
	setup func(fs *flags) action
}

// action runs a command. args are the arguments that are no flags. Errors are printed by
// the caller.
type action func(ctx context.Context, e *env, args []string) error

// commands is the table of commands, in the order of the help.
func commands() []*command {
	return []*command{
		callCommand(),
		notifyCommand(),
		batchCommand(),
		listenCommand(),
		benchCommand(),
		describeCommand(),
		genCommand(),
		replCommand(),
		mockCommand(),
		proxyCommand(),
		completionCommand(),
	}
}

func findCommand(name string) *command {
	for _, c := range commands() {
		if c.name == name {
			return c
		}
	}
	return nil
}

func commandNameList() (names []string) {
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return names
}

func commandNames() string { return strings.Join(commandNameList(), ", ") }

// versionText returns the version of the module, and of Go.
func versionText() string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version + " (" + info.GoVersion + ")"
	}
	return "rpcx " + version
}
