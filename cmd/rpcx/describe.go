package main

import "context"

func describeCommand() *command {
	return &command{
		name:    "describe",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
