package main

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"sync"
	"sync/atomic"
	"unicode/utf16"

	"example.com/rpcx"
)

// server is a language server for Go files. It knows the symbols of the texts that its
// client has opened.
type server struct {
	texts sync.Map // of strings, by their URIs
	down  atomic.Bool
}

// codeNotInitialized is the code by which the Language Server Protocol has requests before
// "initialize" refused.
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
		IgnoreUnknownParams: true, // clients say more than this server asks
		Logger:              log,
	})
	<-s.Done()
	if !srv.down.Load() {
		return errors.New(`the client has not sent "shutdown"`)
	}
	return nil
}

// gate handles what comes before "initialize". A notification has no answer: the session
// drops it.
func (srv *server) gate(_ context.Context, req *rpcx.Request) (any, error) {
	switch req.Method {
	case "initialize":
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
	router.Handle("shutdown", rpcx.Func(func() { srv.down.Store(true) }))
	router.Handle("exit", rpcx.Func(func() error { return rpcx.ReplyAndDisconnect(nil) }))
	return router
}

// Kinds of symbols in the protocol.
const (
	kindClass    = 5
	kindFunction = 12
	kindVariable = 13
	kindConstant = 14
)

// symbolsOf returns the declarations of a Go file, of a wrong one as many as can be found.
func symbolsOf(text string) []symbol {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", text, parser.SkipObjectResolution)
	if file == nil || err != nil && len(file.Decls) == 0 {
		return []symbol{}
	}
	at := func(pos token.Pos) position {
		p := files.PositionFor(min(pos, file.FileEnd), false)
		before := text[p.Offset-p.Column+1 : p.Offset] // in the line
		return position{p.Line - 1, len(utf16.Encode([]rune(before)))}
	}
	symbols := []symbol{} // an empty list is no null
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
