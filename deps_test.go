package rpcx_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The package depends on the standard library, the internal packages of this module and
// errgroup, which carries the goroutines of task groups. Users get no other dependency.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"golang.org/x/sync/errgroup", "example.com/rpcx"}
	var got []string
	for path := range strings.FieldsSeq(string(out)) {
		if !strings.HasPrefix(path, "example.com/rpcx/internal/") {
			got = append(got, path)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the package depends on\n%s, want\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

// The module requires the modules that the package, websocket and the tests need, and no
// module that only a nested module needs.
func TestModuleDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	want := []string{"example.com/rpcx", "github.com/coder/websocket", "github.com/google/go-cmp", "golang.org/x/sync"}
	if !slices.Equal(got, want) {
		t.Errorf("the module graph has\n%s, want\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}
