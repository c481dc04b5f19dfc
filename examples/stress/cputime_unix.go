//go:build unix

package main

import (
	"syscall"
	"time"
)

// processTime returns how much time of the processors the process has had, as user and
// in the system.
func processTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
