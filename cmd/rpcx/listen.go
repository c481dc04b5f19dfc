package main

import "context"

func listenCommand() *command {
	return &command{
		name:    "listen",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
