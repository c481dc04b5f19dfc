package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
)

// documentFlags is the flags of commands that need an OpenRPC document.
type documentFlags struct {
	conn   *connFlags
	method string
}

func declareDocumentFlags(fs *flags) *documentFlags {
	d := &documentFlags{method: "rpc.discover"}
	fs.String(&d.method, "discover", "`METHOD`: the method that returns the document")
	return d
}

// read reads the document at the first of args, a file or an address, and returns the
// other arguments. text is the document as it was read.
func (d *documentFlags) read(ctx context.Context, e *env, args []string) (doc *openrpc.Document, text json.RawMessage, rest []string, err error) {
	fromFile := d.conn.stdio == "" && len(args) > 0 && isDocumentFile(args[0])
	if fromFile {
		text, err = readDocumentFile(e, args[0])
		rest = args[1:]
	} else {
		text, rest, err = d.fetch(ctx, e, args)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	doc, err = openrpc.Parse(text)
	if err != nil && fromFile {
		return nil, nil, nil, usagef("%s is not an OpenRPC document: %w", documentName(args[0]), err)
	}
	if err != nil {
		return nil, nil, nil, connectionError(fmt.Errorf("not an OpenRPC document: %w", err))
	}
	return doc, text, rest, nil
}

// isDocumentFile reports whether an argument is a file, not an address. A file named like
// an address is written as ./name.
func isDocumentFile(arg string) bool {
	switch {
	case arg == "-", strings.HasSuffix(arg, ".json") && !strings.Contains(arg, "://"):
		return true
	case strings.HasPrefix(arg, "stdio:"), strings.Contains(arg, "://"):
		return false
	}
	info, err := os.Stat(arg)
	return err == nil && info.Mode().IsRegular()
}

// documentName returns the name of a file for error texts.
func documentName(path string) string {
	if path == "-" {
		return "stdin"
	}
	return path
}

func readDocumentFile(e *env, path string) (json.RawMessage, error) {
	if path == "-" {
		return readJSON(e.stdinReader(), documentName(path))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%w", err)
	}
	defer f.Close()
	return readJSON(f, path)
}

// fetch asks a peer for its document.
func (d *documentFlags) fetch(ctx context.Context, e *env, args []string) (text json.RawMessage, rest []string, err error) {
	t, rest, err := d.conn.targetOf(args)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := d.conn.withTimeout(ctx)
	defer cancel()
	c, err := d.conn.dial(ctx, e, t, nil)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	text, err = c.call(ctx, d.method, nil)
	if peer, ok := err.(*rpcx.Error); ok && peer.Code == rpcx.CodeMethodNotFound {
		notice(e, "the peer does not describe itself: it has no method %s (--discover names another)", d.method)
	}
	return text, rest, err
}

func describeCommand() *command {
	return &command{
		name:    "describe",
		usage:   "ADDR|FILE [METHOD…]",
		summary: "Show the methods of a peer, or of an OpenRPC document",
		help: `
The peer is asked for its document by rpc.discover. Without METHOD, each method is a line;
with METHOD, everything about the method is shown. * stands for any text, as in 'user.*'.
With --output json or compact, the document itself is printed, and --jq filters it.`,
		examples: `
rpcx describe localhost:8888
rpcx describe openrpc.json 'user.*'
rpcx describe http://localhost:8080/rpc --jq '.methods[].name' --output raw`,
		setup: func(fs *flags) action {
			d := declareDocumentFlags(fs)
			out := declareOutputFlags(fs, "text")
			d.conn = declareConnFlags(fs)
			return func(ctx context.Context, e *env, args []string) error {
				p, err := out.printer(e)
				if err != nil {
					return err
				}
				doc, text, names, err := d.read(ctx, e, args)
				switch {
				case err != nil:
					return err
				case p.form != "text" || p.filter != nil:
					return p.print(ctx, text)
				}
				described, err := describeText(doc, names)
				if err != nil {
					return err
				}
				return p.write(escapeFor(e.stdoutTTY, described))
			}
		},
	}
}

func genCommand() *command {
	return &command{
		name:    "gen",
		usage:   "ADDR|FILE",
		summary: "Generate Go code from an OpenRPC document",
		help: `
The code has types, an interface for a server, and a client. See the package
example.com/rpcx/openrpc.`,
		examples: `
rpcx gen openrpc.json --package shop --out shop/rpc.go
rpcx gen localhost:8888 --package shop`,
		setup: func(fs *flags) action {
			d := declareDocumentFlags(fs)
			pkg, out := "rpc", ""
			fs.String(&pkg, "package", "`NAME`: the name of the Go package")
			fs.File(&out, "out", "`FILE`: write to this file. Default: stdout")
			d.conn = declareConnFlags(fs)
			return func(ctx context.Context, e *env, args []string) error {
				doc, _, rest, err := d.read(ctx, e, args)
				if err != nil {
					return err
				}
				if len(rest) > 0 {
					return usagef("%q is too much: want ADDR or FILE", clip(rest[0]))
				}
				code, err := doc.Go(pkg)
				if err != nil {
					return usagef("generate code: %w", err)
				}
				if out != "" {
					if err := os.WriteFile(out, code, 0o644); err != nil {
						return usagef("%w", err)
					}
					return nil
				}
				if _, err := io.WriteString(e.stdout, escapeFor(e.stdoutTTY, string(code))); err != nil {
					return &outputError{err}
				}
				return nil
			}
		},
	}
}
