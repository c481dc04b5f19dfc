// Lsp asks a language server, gopls, for the symbols of a Go file: it starts the
// server, speaks to it over its standard input and output with the headers of the
// Language Server Protocol, answers what it asks, and ends it in order.
//
//	go -C tools/gopls install tool
//	go run ./examples/lsp -server gopls examples/lsp/main.go
//
// With -serve, the program is a small language server itself:
//
//	go build -o bin/lsp ./examples/lsp
//	bin/lsp -server 'bin/lsp -serve' examples/lsp/main.go
//
// The file main.go has the client, and server.go the server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"example.com/rpcx"
)

func main() {
	server := flag.String("server", "gopls", "the language server: a program and its arguments, separated by spaces (no quotes)")
	serves := flag.Bool("serve", false, "be a language server on standard input and output")
	verbose := flag.Bool("v", false, "log more")
	flag.Parse()
	command := strings.Fields(*server)
	if *serves != (flag.NArg() == 0) || flag.NArg() > 1 || len(command) == 0 {
		fmt.Fprintln(os.Stderr, "usage: lsp [-server program] [-v] file.go\n       lsp -serve [-v]")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	var err error
	if *serves {
		err = serve(log)
	} else {
		err = run(ctx, log, exec.Command(command[0], command[1:]...), flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lsp:", err)
		os.Exit(1)
	}
}

// object is a JSON object.
type object = map[string]any

// symbol is what the server says of a declaration.
type symbol struct {
	Name           string   `json:"name"`
	Detail         string   `json:"detail,omitempty"`
	Kind           int      `json:"kind"`
	Range          span     `json:"range"`
	SelectionRange span     `json:"selectionRange"` // of the name
	Children       []symbol `json:"children,omitempty"`
}

// span is a part of a text.
type span struct {
	Start position `json:"start"`
	End   position `json:"end"`
}

// position is a place in a text. Both numbers begin with 0.
type position struct {
	Line      int `json:"line"`
	Character int `json:"character"` // counted in UTF-16
}

// run prints the symbols of a file.
func run(ctx context.Context, log *slog.Logger, server *exec.Cmd, file string) error {
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s, err := rpcx.Command(ctx, server, &rpcx.Options{
		Framer:       rpcx.HeaderFramer{MaxSize: 64 << 20},
		Handler:      client(log),
		Cancellation: rpcx.LSPCancellation, // the session reports the end of ctx to the server
		Logger:       log,
	})
	if err != nil {
		return err
	}
	defer s.Close()

	var initialized struct {
		ServerInfo struct{ Name string }
	}
	err = s.Call(ctx, "initialize", object{
		"processId":    os.Getpid(),
		"rootUri":      uri(filepath.Dir(file)),
		"capabilities": object{"textDocument": object{"documentSymbol": object{"hierarchicalDocumentSymbolSupport": true}}},
	}, &initialized)
	if err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	// What is sent one after the other arrives in that order.
	if err := s.Notify(ctx, "initialized", object{}); err != nil {
		return err
	}
	err = s.Notify(ctx, "textDocument/didOpen", object{
		"textDocument": object{"uri": uri(file), "languageId": "go", "version": 1, "text": string(text)},
	})
	if err != nil {
		return err
	}
	symbols, err := rpcx.Call[[]symbol](ctx, s, "textDocument/documentSymbol", object{"textDocument": object{"uri": uri(file)}})
	if err != nil {
		return fmt.Errorf("documentSymbol: %w", err)
	}
	fmt.Printf("%s says of %s:\n", initialized.ServerInfo.Name, filepath.Base(file))
	show(symbols, "  ")

	if err := s.Call(ctx, "shutdown", nil, nil); err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	if err := s.Notify(ctx, "exit", nil); err != nil {
		return err
	}
	<-s.Done()
	if exit, ok := errors.AsType[*exec.ExitError](s.Err()); ok {
		return fmt.Errorf("the server has ended: %w", exit)
	}
	return nil
}

// client answers what the server asks: it has no settings, and agrees with
// everything. What the server tells is logged.
func client(log *slog.Logger) rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("workspace/configuration", rpcx.Func(func(p struct {
		Items []any `json:"items"`
	}) []any {
		return make([]any, len(p.Items)) // null for each
	}))
	agree := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })
	router.Handle("client/registerCapability", agree)
	router.Handle("window/workDoneProgress/create", agree)
	tell := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		log.Info(req.Method, "params", string(req.Params.Named))
		return nil, nil
	})
	for _, method := range []string{"window/logMessage", "window/showMessage", "$/progress", "textDocument/publishDiagnostics"} {
		router.Handle(method, tell)
	}
	return router
}

func uri(path string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
}

func show(symbols []symbol, indent string) {
	for _, s := range symbols {
		fmt.Println(strings.TrimRight(fmt.Sprintf("%s%d: %s %s", indent, s.Range.Start.Line+1, s.Name, s.Detail), " "))
		show(s.Children, indent+"  ")
	}
}
