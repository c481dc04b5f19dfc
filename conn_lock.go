//go:build unix && !solaris && !aix

package rpcx

import (
	"os"
	"syscall"
	"time"
)

// lockFolder locks a folder against others who call lockFolder, in this program or in
// another. The system ends the lock with the program. Where there is no lock (the
// folder may not be read, or another kind of program holds one), lockFolder goes on
// without: removeOwnSocket can be trusted with anything but a race of three.
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
	return func() { dir.Close() } // which unlocks
}
