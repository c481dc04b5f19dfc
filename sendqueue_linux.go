package rpcx

import (
	"syscall"
	"unsafe"
)

// canSeeUnsent says that unsentBytes works.
const canSeeUnsent = true

// unsentBytes returns how many bytes of a socket's the peer's system has not
// acknowledged (TCP), or the peer has not read (unix sockets, with what the system
// needs for them), and reports whether the system has told.
func unsentBytes(raw syscall.RawConn) (n int, ok bool) {
	var unsent int32
	err := raw.Control(func(fd uintptr) {
		// SIOCOUTQ has the number of TIOCOUTQ.
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&unsent)))
		ok = errno == 0
	})
	return int(unsent), ok && err == nil
}
