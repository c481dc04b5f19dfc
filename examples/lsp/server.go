package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"sync"
	"sync/atomic"
	"unicode/utf16"
	"unicode/utf8"

	"example.com/rpcx"
)

// server is a language server for Go files. It knows the symbols of the texts that its
// client has opened.
type server struct {
	texts    sync.Map    // of strings, by their URIs
	shutDown atomic.Bool // "shutdown" was received
}

// codeNotInitialized is the error code of the Language Server Protocol for requests before
// "initialize".
const codeNotInitialized = -32002

// serve serves the client that has started this program, over standard input and output.
func serve(log *slog.Logger) error {
	var srv server
	s := rpcx.NewSession(rpcx.Stdio(), &rpcx.Options{
		Framer:              rpcx.HeaderFramer{MaxSize: 64 << 20},
		Gate:                rpcx.HandlerFunc(srv.gate),
		Handler:             srv.methods(),
		Order:               rpcx.NotificationsFirst, // requests are about the text that notifications have changed
		Cancellation:        rpcx.LSPCancellation,
		IgnoreUnknownParams: true, // clients send more params than the server reads
		Logger:              log,
	})
	<-s.Done()
	if !srv.shutDown.Load() {
		return fmt.Errorf(`the session has ended without "shutdown": %w`, s.Err())
	}
	return nil
}

// gate handles what comes before "initialize". The session logs the error of a notification,
// and sends no reply.
func (srv *server) gate(_ context.Context, req *rpcx.Request) (any, error) {
	switch req.Method {
	case "initialize":
		if req.IsNotification() {
			return nil, rpcx.InvalidRequest("initialize must be a request")
		}
		req.Session().Admit()
		return object{
			"serverInfo":   object{"name": "lsp"},
			"capabilities": object{"textDocumentSync": object{"openClose": true}, "documentSymbolProvider": true},
		}, nil
	case "exit":
		return nil, rpcx.ReplyAndDisconnect(nil)
	}
	return nil, rpcx.Errorf(codeNotInitialized, "the server is not initialized")
}

// document is the params of the methods about a document.
type document struct {
	TextDocument struct {
		URI  string `json:"uri"`
		Text string `json:"text"`
	} `json:"textDocument"`
}

// methods returns the handler of what comes after "initialize".
func (srv *server) methods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("initialized", rpcx.Func(func() {}))
	router.Handle("textDocument/didOpen", rpcx.Func(func(d document) { srv.texts.Store(d.TextDocument.URI, d.TextDocument.Text) }))
	router.Handle("textDocument/didClose", rpcx.Func(func(d document) { srv.texts.Delete(d.TextDocument.URI) }))
	router.Handle("textDocument/documentSymbol", rpcx.Func(func(d document) ([]symbol, error) {
		text, ok := srv.texts.Load(d.TextDocument.URI)
		if !ok {
			return nil, rpcx.InvalidParams("%s is not open", d.TextDocument.URI)
		}
		return symbolsOf(text.(string)), nil
	}))
	router.Handle("shutdown", rpcx.Func(func() { srv.shutDown.Store(true) }))
	router.Handle("exit", rpcx.Func(func() error { return rpcx.ReplyAndDisconnect(nil) }))
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if srv.shutDown.Load() && req.Method != "exit" {
			return nil, rpcx.InvalidRequest("the server is shut down")
		}
		return router.ServeRPC(ctx, req)
	})
}

// Kinds of symbols in the protocol.
const (
	kindClass    = 5
	kindFunction = 12
	kindVariable = 13
	kindConstant = 14
)

// symbolsOf returns the declarations of a Go file. If the file has errors, the result has
// the declarations that the parser finds.
func symbolsOf(text string) []symbol {
	files := token.NewFileSet()
	file, _ := parser.ParseFile(files, "", text, parser.SkipObjectResolution|parser.AllErrors) // never nil for a string
	columns := utf16Columns(text)
	at := func(pos token.Pos) position {
		p := files.PositionFor(min(pos, file.FileEnd), false)
		return position{p.Line - 1, columns[p.Offset]}
	}
	symbols := []symbol{} // encoded as [], not null
	add := func(kind int, name *ast.Ident, node ast.Node) {
		symbols = append(symbols, symbol{
			Name: name.Name, Kind: kind,
			Range:          span{at(node.Pos()), at(node.End())},
			SelectionRange: span{at(name.Pos()), at(name.End())},
		})
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			add(kindFunction, d.Name, d)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					add(kindClass, spec.Name, spec)
				case *ast.ValueSpec:
					kind := kindVariable
					if d.Tok == token.CONST {
						kind = kindConstant
					}
					for _, name := range spec.Names {
						add(kind, name, spec)
					}
				}
			}
		}
	}
	return symbols
}

// utf16Columns returns the column of each byte of text, and of the end, counted in UTF-16.
func utf16Columns(text string) []int {
	columns, column := make([]int, len(text)+1), 0
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		for range size {
			columns[i] = column
			i++
		}
		column += utf16.RuneLen(r)
		if r == '\n' {
			column = 0
		}
	}
	columns[len(text)] = column
	return columns
}
