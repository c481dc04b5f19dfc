//go:build rpcxdebug && (amd64 || arm64)

package lockowner

import (
	"sync"
	"testing"
)

func TestOnlyTheOwnerPasses(t *testing.T) {
	var m Mutex
	if !panics(m.AssertHeld) {
		t.Error("a goroutine passes though there is no owner")
	}
	m.Lock()
	if panics(m.AssertHeld) {
		t.Error("the owner does not pass")
	}
	var others sync.WaitGroup
	for range 100 {
		others.Go(func() {
			if !panics(m.AssertHeld) {
				t.Error("another goroutine passes")
			}
		})
	}
	others.Wait()
	if panics(m.AssertHeld) {
		t.Error("the owner does not pass any more")
	}
	m.Unlock()
	if !panics(m.AssertHeld) {
		t.Error("a goroutine passes that was the owner")
	}
}

func panics(f func()) (panicked bool) {
	defer func() { panicked = recover() != nil }()
	f()
	return false
}
