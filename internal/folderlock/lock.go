//go:build unix && !solaris && !aix

package folderlock

import (
	"os"
	"syscall"
	"time"
)

// attempts is the number of attempts within the time given to Lock.
const attempts = 25

// Lock locks a folder against other callers of Lock, in any program. The system releases
// the lock when the program ends. If the folder is unreadable, or cannot be locked within
// timeout, Lock returns without a lock.
func Lock(path string, timeout time.Duration) (unlock func()) {
	dir, err := os.Open(path)
	if err != nil {
		return func() {}
	}
	for range attempts {
		if err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
			break
		}
		time.Sleep(timeout / attempts)
	}
	return func() { dir.Close() } // releases the lock
}
