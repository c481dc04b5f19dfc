//go:build linux && !race && (amd64 || arm64)

package msgpack_test

import (
	"syscall"
	"testing"
)

// limitMemory has the test's process fail when it asks for more than 4 GiB of memory:
// what asks for more at once would take the machine's before it can be measured.
func limitMemory(t testing.TB) {
	t.Helper()
	const limit = 4 << 30
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &now); err != nil {
		t.Fatal(err)
	}
	now.Cur = min(now.Cur, limit)
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &now); err != nil {
		t.Fatal(err)
	}
}
