//go:build rpcxdebug && (amd64 || arm64)

package lockowner

import (
	"sync"
	"testing"
)

func TestOnlyTheOwnerPasses(t *testing.T) {
	var o Owner
	if !panics(o.Check) {
		t.Error("a goroutine passes though there is no owner")
	}
	o.Set()
	if panics(o.Check) {
		t.Error("the owner does not pass")
	}
	var others sync.WaitGroup
	for range 100 {
		others.Go(func() {
			if !panics(o.Check) {
				t.Error("another goroutine passes")
			}
		})
	}
	others.Wait()
	if panics(o.Check) {
		t.Error("the owner does not pass any more")
	}
	o.Clear()
	if !panics(o.Check) {
		t.Error("a goroutine passes that was the owner")
	}
}

func panics(f func()) (panicked bool) {
	defer func() { panicked = recover() != nil }()
	f()
	return false
}
