package openrpc_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
)

// A document is enough for types of TypeScript: a client over the types passes the strict
// compiler, and its calls in node have the results that the types say.
func TestInteropTypeScript(t *testing.T) {
	const install = "cd openrpc/testdata/interop && npm ci"
	interoptest.Need(t, install, "node", "node_modules/typescript/bin/tsc", "--version")
	folder := t.TempDir()
	doc := filepath.Join(folder, "document.json")
	for name, data := range map[string][]byte{doc: checkDocument(t, describe(t, shopRouter(), nil)), filepath.Join(folder, "package.json"): []byte(`{"type":"module"}`)} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	types, err := interoptest.Command(t, "node", "types.mjs", doc).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "types.ts"), types, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"client.ts", "use.ts"} {
		data, err := os.ReadFile("testdata/interop/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	compiler := interoptest.Command(t, "node", "node_modules/typescript/bin/tsc", "--strict", "--target", "es2022", "--module", "es2022",
		"--moduleResolution", "bundler", "--lib", "es2022,dom", "--outDir", folder, filepath.Join(folder, "use.ts"))
	if out, err := compiler.Output(); err != nil {
		t.Fatalf("the compiler: %v\n%s\n%s", err, out, types)
	}
	server := httptest.NewServer(&rpchttp.Handler{Server: &rpcx.Server{Options: rpcx.Options{Handler: shopRouter()}}})
	defer server.Close()
	interoptest.Checks(t, "node", filepath.Join(folder, "use.js"), server.URL)
}
