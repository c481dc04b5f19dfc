//go:build unix && !solaris && !aix

package rpcx

import (
	"os"
	"syscall"
	"time"
)

// lockFolder locks a folder against other callers of lockFolder, in any program. The system
// releases the lock when the program ends. If the folder is unreadable, or cannot be locked
// within maxBindTime, lockFolder continues without a lock. removeOwnSocket is then safe
// except in a race of three programs.
func lockFolder(path string) (unlock func()) {
	dir, err := os.Open(path)
	if err != nil {
		return func() {}
	}
	for range 25 {
		if err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
			break
		}
		time.Sleep(maxBindTime / 25)
	}
	return func() { dir.Close() } // releases the lock
}
