package main

import "context"

func benchCommand() *command {
	return &command{
		name:    "bench",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
