package main

import "context"

func batchCommand() *command {
	return &command{
		name:    "batch",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
