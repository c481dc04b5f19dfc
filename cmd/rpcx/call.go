package main

import (
	"context"
	"encoding/json"
)

func callCommand() *command {
	return &command{
		name:    "call",
		usage:   "ADDR METHOD [PARAMS… | NAME=VALUE… | @FILE | -]",
		summary: "Call a method and print the result",
		help: `
The params are one of
  '{"a": 1}' or '[1, 2]'   JSON
  a=1 b=text               by name; a value is JSON, or else a string
  1 text '[2]'             by position; the same
  @FILE or -               JSON in a file, or on stdin, as the only argument

A value that begins with {, [ or " must be JSON. Write '"a=b"' for a string that looks like
a name, and '[[1]]' for one argument that is an array. A negative number is not
a flag, and neither is anything after --.`,
		examples: `
rpcx call localhost:8888 sum 1 2
rpcx call ws://localhost:8080/ws echo message='two words' --output raw
rpcx call https://localhost:8443/rpc user.find '{"name": "A"}' --auth @token --output table
rpcx call /var/run/openvswitch/db.sock list_dbs '[]' --framing json --protocol 1
rpcx call tls://electrum.example:50002 server.version rpcx 1.4 --proxy socks5://localhost:9050
rpcx call 'stdio:gopls' initialize processId=null rootUri=null capabilities={} --framing lsp`,
		setup: func(fs *flags) action {
			out, conn := declareOutputFlags(fs), declareConnFlags(fs)
			return func(ctx context.Context, e *env, args []string) error {
				p, err := out.printer(e)
				if err != nil {
					return err
				}
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
				defer c.Close()
				result, err := c.call(ctx, method, params)
				if err != nil {
					return err
				}
				return p.print(ctx, result)
			}
		},
	}
}

// paramsOrNil returns params as the params of a Caller: nil for none.
func paramsOrNil(params json.RawMessage) any {
	if params == nil {
		return nil
	}
	return params
}
