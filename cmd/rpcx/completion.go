package main

import "context"

func completionCommand() *command {
	return &command{
		name:    "completion",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
