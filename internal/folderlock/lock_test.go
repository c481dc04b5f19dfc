//go:build unix && !solaris && !aix

package folderlock

import (
	"testing"
	"time"
)

// TestLock checks that a second lock of a folder waits for the first, and gives up after
// the timeout.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	unlock := Lock(dir, time.Second)
	const timeout = 50 * time.Millisecond
	began := time.Now()
	Lock(dir, timeout)()
	if waited := time.Since(began); waited < timeout {
		t.Errorf("a locked folder was waited for only %v", waited)
	}
	unlock()
	began = time.Now()
	Lock(dir, time.Minute)()
	if waited := time.Since(began); waited > 10*time.Second {
		t.Errorf("a free folder was waited for %v", waited)
	}
	Lock("/no/such/folder", time.Minute)()
}
