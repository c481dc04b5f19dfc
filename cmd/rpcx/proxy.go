package main

import "context"

func proxyCommand() *command {
	return &command{
		name:    "proxy",
		usage:   "",
		summary: "Not built yet",
		setup: func(fs *flags) action {
			return func(context.Context, *env, []string) error { return usagef("not built yet") }
		},
	}
}
