package rpcx_test

import (
	"os"
	"testing"

	"example.com/rpcx/internal/leaktest"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) {
	if name := os.Getenv(programVariable); name != "" {
		programs[name]() // a test of Command has started this
		return
	}
	setResolver()
	os.Exit(leaktest.Run(m))
}

// noLeak fails the test if it leaves a goroutine behind; see [leaktest.Check].
func noLeak(t *testing.T) {
	t.Helper()
	leaktest.Check(t)
}
