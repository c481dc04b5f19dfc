package main

import "context"

func replCommand() *command {
	return &command{
		name:    "repl",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
