package migrating

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the programs into docs/migrating.md")

const document = "../../../docs/migrating.md"

// program of the document: its file, the fence with the language, the text.
var documentedProgram = regexp.MustCompile("(?s)<code>([^<]*)</code></summary>\n\n(```\\w+\n)(.*?)```\n")

// TestDocumentHasPrograms compares the programs in the document with the files, which the
// other tests run.
func TestDocumentHasPrograms(t *testing.T) {
	text := readDocument(t)
	var documented []string
	current := documentedProgram.ReplaceAllStringFunc(text, func(block string) string {
		m := documentedProgram.FindStringSubmatch(block)
		documented = append(documented, m[1])
		source, err := os.ReadFile(m[1])
		if err != nil {
			t.Error(err)
			return block
		}
		if string(source) != m[3] && !*update {
			t.Errorf("the text of %s is not that of the file; with -update it will be", m[1])
		}
		return strings.Replace(block, m[2]+m[3], m[2]+string(source), 1)
	})
	if *update {
		if err := os.WriteFile(document, []byte(current), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("[ab]*/*/main.*")
	if err != nil {
		t.Fatal(err)
	}
	for i, file := range files {
		files[i] = filepath.ToSlash(file)
	}
	slices.Sort(documented)
	slices.Sort(files)
	if len(files) != 2*len(libraries) || !slices.Equal(documented, files) {
		t.Errorf("the document has %q, the folders %q", documented, files)
	}
}

// TestDocumentHasFacts checks that each row about messages and handlers in the tables of a
// library is a fact, and each fact a row. (The rows about aiomas are recorded in
// testdata/vectors.)
func TestDocumentHasFacts(t *testing.T) {
	text := readDocument(t)
	for _, lib := range libraries {
		_, section, ok := strings.Cut(text, "\n## "+lib.title+"\n")
		if !ok {
			t.Errorf("there is no section %q", lib.title)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		var rows, want []string
		inTable := false
		for line := range strings.Lines(section) {
			first, ok := firstCell(line)
			switch {
			case !ok:
				inTable = false
			case slices.Contains([]string{"what arrives", "a handler", "a method"}, first):
				inTable = true
			case inTable && first != "---":
				rows = append(rows, first)
			}
		}
		for _, f := range facts {
			if f.library == lib.name {
				want = append(want, f.row)
			}
		}
		slices.Sort(rows)
		slices.Sort(want)
		if !slices.Equal(rows, want) {
			t.Errorf("%s: the document has the rows\n%q, the tests\n%q", lib.title, rows, want)
		}
	}
}

// firstCell returns the first cell of a table's row.
func firstCell(line string) (cell string, ok bool) {
	rest, ok := strings.CutPrefix(line, "|")
	if !ok {
		return "", false
	}
	cell, _, ok = strings.Cut(rest, "|")
	return strings.TrimSpace(cell), ok
}

func readDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
