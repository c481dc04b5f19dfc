//go:build unix

package main

import (
	"math"
	"syscall"
)

// openFilesLimit returns the limit of open files of a process, or 0 if unknown. Go raises
// the limit as far as it may, when the program starts.
func openFilesLimit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(uint64(l.Cur), math.MaxInt32))
}
