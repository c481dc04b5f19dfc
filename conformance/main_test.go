// Package conformance tests sessions through the exported names alone: it plays
// transcripts, joins sessions over framers, connections and protocols of others, and
// ends sessions at any point. Package peers has other people's programs as peers, and
// the module interop other people's packages.
package conformance

import (
	"os"
	"testing"

	"example.com/rpcx/internal/leaktest"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// noLeak fails the test if it leaves a goroutine behind; see [leaktest.Check].
func noLeak(t *testing.T) {
	t.Helper()
	leaktest.Check(t)
}
