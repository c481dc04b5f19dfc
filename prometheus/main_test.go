package promrpcx_test

import (
	"os"
	"testing"

	"example.com/rpcx/internal/leaktest"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
