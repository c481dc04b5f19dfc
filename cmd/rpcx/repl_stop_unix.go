//go:build unix

package main

import (
	"syscall"
	"time"
)

// continueSoon continues this process. After Ctrl-Z, the editor stops the process, and waits
// until somebody continues it. A process without a shell that controls jobs is not stopped,
// and would wait for ever. A stopped process has no timers until it is continued.
func continueSoon() {
	time.AfterFunc(100*time.Millisecond, func() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGCONT) })
}
