package rpcx_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The package depends on the standard library alone, so that whoever uses it takes
// nothing else along.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for path := range strings.FieldsSeq(string(out)) {
		if path == "example.com/rpcx" {
			found = true
		} else {
			t.Errorf("the package depends on %s", path)
		}
	}
	if !found {
		t.Errorf("the list is without the package itself:\n%s", out)
	}
}
