package main

import "context"

func notifyCommand() *command {
	return &command{
		name:    "notify",
		usage:   "ADDR METHOD [PARAMS… | NAME=VALUE… | @FILE | -]",
		summary: "Send a notification, which has no reply",
		help: `
The arguments are those of call. rpcx ends when the notification has been sent. Over HTTP,
the server has answered then; otherwise nothing tells whether the peer knows the method.`,
		examples: `
rpcx notify localhost:8888 log level=info text='it rains'`,
		setup: func(fs *flags) action {
			conn := declareConnFlags(fs)
			return func(ctx context.Context, e *env, args []string) error {
				t, args, err := conn.targetOf(args)
				if err != nil {
					return err
				}
				method, params, err := parseCall(e, args)
				if err != nil {
					return err
				}
				ctx, cancel := conn.withTimeout(ctx)
				defer cancel()
				c, err := conn.dial(ctx, e, t, nil)
				if err != nil {
					return err
				}
				err = c.explain(c.Notify(ctx, method, paramsOrNil(params)))
				if closed := c.Close(); err == nil {
					err = c.explain(closed) // Close has waited for the write
				}
				return err
			}
		},
	}
}
