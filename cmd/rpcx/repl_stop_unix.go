//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// continueSoon continues this process. After Ctrl-Z, the editor stops the process, and waits
// until somebody continues it. A process without a shell that controls jobs is not stopped,
// and would wait for ever. A stopped process has no timers until it is continued.
func continueSoon() {
	time.AfterFunc(100*time.Millisecond, func() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGCONT) })
}

// whenContinued calls f each time that this process goes on after a stop, until ignore is
// called.
func whenContinued(f func()) (ignore func()) {
	continued := make(chan os.Signal, 1)
	ended := make(chan struct{})
	signal.Notify(continued, syscall.SIGCONT)
	// Owner: the caller. End: ignore.
	go func() {
		for {
			select {
			case <-continued:
				f()
			case <-ended:
				return
			}
		}
	}()
	return func() { signal.Stop(continued); close(ended) }
}
