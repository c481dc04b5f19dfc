//go:build !linux || race || !(amd64 || arm64)

package msgpack_test

import "testing"

// limitMemory does nothing: the race detector needs all of the address space.
func limitMemory(testing.TB) {}
