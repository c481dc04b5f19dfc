package rpcx_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// eachSource calls visit for each node of the module's own packages, and of those that are
// nested modules, without tests and programs.
func eachSource(t *testing.T, visit func(fset *token.FileSet, n ast.Node)) {
	t.Helper()
	fset, files := token.NewFileSet(), 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{"examples", "tools", "benchmarks", "interop", "testdata", "aiomastest", "interoptest", ".git"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		ast.Inspect(file, func(n ast.Node) bool {
			if n != nil {
				visit(fset, n)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("only %d files were found", files)
	}
}

// units are the keys of numbers in log records: each says what it counts.
var units = []string{
	"bytes", "requests", "calls", "handlers", "handlers before", "members", "notifications", "records left out",
	"sessions", "handshakes", "errors a second", "cost",
}

// A number in the log says what it counts, and a time has its unit.
func TestLogValuesCarryTheirUnits(t *testing.T) {
	found := make(map[string]bool)
	eachSource(t, func(fset *token.FileSet, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return
		}
		if pkg, ok := f.X.(*ast.Ident); !ok || pkg.Name != "slog" {
			return
		}
		at, kind := fset.Position(call.Pos()), f.Sel.Name
		switch kind {
		case "String", "Duration", "Group", "Any", "Int", "Int64", "Uint64", "Float64":
		case "Bool", "Time", "With", "Attrs", "Default":
			t.Errorf("%v: slog.%s is not known to this test", at, kind)
			return
		default:
			return // no attribute
		}
		lit, ok := call.Args[0].(*ast.BasicLit)
		if kind == "Group" || kind == "String" || kind == "Duration" {
			return
		}
		if !ok {
			t.Errorf("%v: the key of slog.%s is no literal", at, kind)
			return
		}
		key, _ := strconv.Unquote(lit.Value)
		found[key] = true
		if kind == "Any" && key == "error" {
			return
		}
		if kind == "Any" || !slices.Contains(units, key) {
			t.Errorf("%v: slog.%s(%q) does not say in which unit", at, kind, key)
		}
	})
	for _, unit := range units {
		if !found[unit] {
			t.Errorf("no number is logged as %q", unit)
		}
	}
}

var (
	// aLimit matches the name of a field that sets a limit.
	aLimit = regexp.MustCompile(`\b(Limits|Server|Acceptor|Config|Dialer|[A-Z][a-z]+Framer|JSONFramer)\.[A-Z]\w+`)
	// namedLimit matches what errors and log records have: "(NewlineFramer.MaxSize)".
	namedLimit = regexp.MustCompile(`\(((?:websocket\.)?\w+\.[A-Z]\w+)(, \w+\.[A-Z]\w+)*\)`)
)

// A text names a field that sets a limit in brackets, and a field of another package with
// that package. (What is a name as a whole is an argument.)
func TestLimitsAreNamedAlike(t *testing.T) {
	found := 0
	eachSource(t, func(fset *token.FileSet, n ast.Node) {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		text, _ := strconv.Unquote(lit.Value)
		at := fset.Position(lit.Pos())
		if !aLimit.MatchString(text) || isFunction(text) {
			return
		}
		found++
		inWebSocket := filepath.Dir(at.Filename) == "websocket"
		if inWebSocket && strings.Contains(strings.ReplaceAll(text, "websocket.Config.", ""), "Config.") {
			t.Errorf("%v: %q does not name the package", at, text)
		}
		rest := namedLimit.ReplaceAllString(text, "")
		rest = strings.TrimPrefix(rest, "websocket.")
		if aLimit.FindString(rest) == rest || !aLimit.MatchString(rest) {
			return
		}
		t.Errorf("%v: %q names a limit in another form", at, text)
	})
	if found < 30 {
		t.Errorf("only %d names were found", found)
	}
}

// isFunction reports whether text names a method: of Server.Serve, say, which panics.
func isFunction(text string) bool {
	return strings.HasPrefix(text, "Server.Serve") || strings.Contains(text, "Server.Wait")
}
