package rpcx_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// updatePages makes TestCookbook write the code of the sources into the page.
var updatePages = flag.Bool("update", false, "write the code of the sources into docs/cookbook.md")

// maxRecipeLines is the number of lines of a block that a reader takes in at once.
const maxRecipeLines = 40

// Each block of code in the cookbook is that of a file which the tests run: of the file as a
// whole, or of the declarations that the comment before the block names. The page lists its
// recipes, and its links lead somewhere.
func TestCookbook(t *testing.T) {
	const page = "docs/cookbook.md"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)

	blocks := regexp.MustCompile("(?ms)^(?:<!-- ([^\n]*) -->\n)?```(\\w*)\n(.*?)^```$")
	updated := blocks.ReplaceAllStringFunc(text, func(block string) string {
		parts := blocks.FindStringSubmatch(block)
		source, language, got := parts[1], parts[2], parts[3]
		if source == "" {
			t.Errorf("no comment names the source of this block:\n%s", got)
			return block
		}
		want := sourceOf(t, strings.Fields(source))
		if lines := strings.Count(want, "\n"); lines > maxRecipeLines {
			t.Errorf("%s has %d lines, over %d (maxRecipeLines)", source, lines, maxRecipeLines)
		}
		if got != want && !*updatePages {
			t.Errorf("the code is not that of %s; to write it into the page: go test -run Cookbook . -update\n%s", source, got)
		}
		return "<!-- " + source + " -->\n```" + language + "\n" + want + "```"
	})
	if *updatePages && updated != text {
		if err := os.WriteFile(page, []byte(updated), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	prose := blocks.ReplaceAllString(text, "")
	for _, heading := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(prose, -1) {
		if link := "](#" + slug(heading[1]) + ")"; !strings.Contains(prose, link) {
			t.Errorf("the index has no link to %q", heading[1])
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(prose, -1) {
		path := page
		if link[1] != "" {
			path = filepath.Join("docs", link[1])
		}
		target, err := os.ReadFile(path)
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			err = nil
		}
		if err != nil {
			t.Errorf("a link leads to no file: %v", err)
		}
		found := link[2] == ""
		for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(target), -1) {
			found = found || slug(heading[1]) == link[2]
		}
		if !found {
			t.Errorf("%s has no heading #%s", path, link[2])
		}
	}
}

// slug returns the fragment of a link to a heading, as GitHub makes it.
func slug(heading string) string {
	kept := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(kept, " ", "-")
}

// sourceOf returns the text of a file, source[0], or of the declarations in it that the
// other fields name: functions, methods as type.method, types. A declaration has its
// comment, except an example or a test, which the page describes.
func sourceOf(t *testing.T, source []string) string {
	t.Helper()
	content, err := os.ReadFile(source[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(source) == 1 {
		return string(content)
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, source[0], content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, decl := range file.Decls {
		name, doc := nameOf(decl)
		begin := decl.Pos()
		if doc != nil && !strings.HasPrefix(name, "Example") && !strings.HasPrefix(name, "Test") {
			begin = doc.Pos()
		}
		texts[name] = string(content[fset.Position(begin).Offset:fset.Position(decl.End()).Offset]) + "\n"
	}
	var parts []string
	for _, name := range source[1:] {
		text, ok := texts[name]
		if !ok {
			t.Errorf("%s declares no %s", source[0], name)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "\n")
}

// nameOf returns the name of a declaration, and its comment. A group of constants has the
// name of its first.
func nameOf(decl ast.Decl) (name string, doc *ast.CommentGroup) {
	switch decl := decl.(type) {
	case *ast.FuncDecl:
		name = decl.Name.Name
		if decl.Recv != nil {
			receiver := decl.Recv.List[0].Type
			if pointer, ok := receiver.(*ast.StarExpr); ok {
				receiver = pointer.X
			}
			name = receiver.(*ast.Ident).Name + "." + name
		}
		return name, decl.Doc
	case *ast.GenDecl:
		switch spec := decl.Specs[0].(type) {
		case *ast.TypeSpec:
			name = spec.Name.Name
		case *ast.ValueSpec:
			name = spec.Names[0].Name
		}
		return name, decl.Doc
	}
	return "", nil
}
