package main

import "context"

func mockCommand() *command {
	return &command{
		name:    "serve-mock",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
