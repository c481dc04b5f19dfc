package main

import "context"

func genCommand() *command {
	return &command{
		name:    "gen",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
