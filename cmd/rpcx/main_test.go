package main

import (
	"os"
	"testing"

	"example.com/rpcx/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
