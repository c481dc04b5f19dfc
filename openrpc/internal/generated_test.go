// Package internal_test keeps the generated packages equal to what the documents make. The
// tests of the packages are beside the generator, which needs no package to generate one.
package internal_test

import (
	"os"
	"testing"

	"example.com/rpcx/openrpc"
)

// The generated packages are what Go makes of the documents in testdata. RPCX_UPDATE=1
// writes them anew.
func TestGeneratedPackages(t *testing.T) {
	for _, name := range []string{"shop", "minecraft", "odd"} {
		data, err := os.ReadFile("../testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		d, err := openrpc.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		code, err := d.Go(name)
		if err != nil {
			t.Fatal(err)
		}
		file := name + "/" + name + ".go"
		if os.Getenv("RPCX_UPDATE") != "" {
			if err := os.WriteFile(file, code, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		kept, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(kept) != string(code) {
			t.Errorf("%s is not what the document makes: run RPCX_UPDATE=1 go test ./internal in the module openrpc", file)
		}
	}
}
