package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// newPreciseTimer returns a timer that is late by tens of microseconds. time.Sleep is late
// by up to 1 ms in a process that has nothing else to do, since the runtime then waits in
// whole milliseconds.
func newPreciseTimer() timer {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return plainTimer{}
	}
	return &fileTimer{fd: fd, file: os.NewFile(uintptr(fd), "timerfd")}
}

// fileTimer is a timer of the kernel, for a single goroutine.
type fileTimer struct {
	fd   int
	file *os.File // of fd
	buf  [8]byte
}

func (t *fileTimer) sleep(d time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if unix.TimerfdSettime(t.fd, 0, &spec, nil) != nil {
		time.Sleep(d)
		return
	}
	// In a busy process the runtime looks at its own timers first, and later at files.
	t.file.SetReadDeadline(time.Now().Add(d))
	t.file.Read(t.buf[:])
}

func (t *fileTimer) close() { t.file.Close() }
