package main

import "context"

func notifyCommand() *command {
	return &command{
		name:    "notify",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
