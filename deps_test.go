package rpcx_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The package depends on the standard library and on what this module has inside, so
// that whoever uses it takes nothing else along.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for path := range strings.FieldsSeq(string(out)) {
		if path == "example.com/rpcx" {
			found = true
		} else if !strings.HasPrefix(path, "example.com/rpcx/internal/") {
			t.Errorf("the package depends on %s", path)
		}
	}
	if !found {
		t.Errorf("the list is without the package itself:\n%s", out)
	}
}

// The module requires what the packages websocket and the tests need, and nothing
// that only a nested module needs.
func TestModuleDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	want := []string{"example.com/rpcx", "github.com/coder/websocket", "github.com/google/go-cmp"}
	if !slices.Equal(got, want) {
		t.Errorf("the module graph has\n%s, want\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}
