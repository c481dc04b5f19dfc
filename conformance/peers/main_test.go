// Package peers tests sessions with other people's programs as peers. Where a peer is
// not installed its tests, which are named TestInterop…, are skipped.
// RPCX_INTEROP=require makes them fail then, and RPCX_INTEROP=skip skips them in any
// case. (Other Go libraries are the peers in the module interop.)
package peers

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
