// Package sockstate asks the operating system about sockets and pipes. On systems other
// than Linux, the answers say that nothing is known.
package sockstate

import (
	"encoding/binary"
	"syscall"
	"time"
	"unsafe"
)

// TemporaryAcceptErrors holds errors of accept(2) that only Linux has, and that concern
// a single connection.
var TemporaryAcceptErrors = []error{syscall.ENONET, syscall.ENOSR, syscall.ESOCKTNOSUPPORT, syscall.EPROTONOSUPPORT}

// HasPeerGone reports whether the peer has closed both halves of the connection, or has
// reset it, according to the socket or pipe. A read cannot tell, since closing a single
// half also ends the input.
func HasPeerGone(raw syscall.RawConn) bool {
	const pollErr, pollHup = 0x8, 0x10 // always requested
	return pollEvents(raw, 0)&(pollErr|pollHup) != 0
}

// HasRoom reports whether the socket or pipe accepts some KiB without waiting.
func HasRoom(raw syscall.RawConn) bool {
	const pollOut = 0x4
	return pollEvents(raw, pollOut)&pollOut != 0
}

// pollEvents polls for events, and returns the events found.
func pollEvents(raw syscall.RawConn, events int16) (found int16) {
	_ = raw.Control(func(fd uintptr) {
		poll := struct {
			fd              int32
			events, revents int16
		}{fd: int32(fd), events: events}
		var now syscall.Timespec
		n, _, _ := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		if n == 1 {
			found = poll.revents
		}
	})
	return found
}

// SetUserTimeout makes the operating system abandon a connection whose peer neither
// acknowledges nor reads data for d.
func SetUserTimeout(raw syscall.RawConn, d time.Duration) {
	const tcpUserTimeout = 18
	_ = raw.Control(func(fd uintptr) {
		// If the call fails, TCP's own timeout applies.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(min(d.Milliseconds(), 1<<31-1)))
	})
}

// CanSeeRepeats reports whether IsRepeating works on this system.
const CanSeeRepeats = true

// IsRepeating reports whether the operating system is resending unacknowledged data. It is
// false for a peer that does not read, because the peer's system still acknowledges.
func IsRepeating(raw syscall.RawConn) bool {
	info, ok := tcpInfo(raw)
	// The struct begins with bytes; the third is tcpi_retransmits, the fourth tcpi_probes.
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], info[0])
	return ok && (b[2] > 0 || b[3] > 1)
}

// HasSentNothing reports whether the peer of a TCP connection has sent no data.
func HasSentNothing(raw syscall.RawConn) bool {
	info, ok := tcpInfo(raw)
	// The fourth word is tcpi_ato, the delay for acknowledgements: 0 until the first data
	// arrives.
	return ok && info[3] == 0
}

// tcpInfo returns the first words of TCP_INFO, and reports whether raw is a TCP connection.
func tcpInfo(raw syscall.RawConn) (words [8]uint32, ok bool) {
	_ = raw.Control(func(fd uintptr) {
		// The type belongs to another option of 32 bytes.
		if info, err := syscall.GetsockoptICMPv6Filter(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO); err == nil {
			words, ok = info.Data, true
		}
	})
	return words, ok
}

// CanSeeUnsent reports whether UnsentBytes works on this system.
const CanSeeUnsent = true

// UnsentBytes returns how many bytes are unacknowledged (TCP) or unread (unix sockets,
// including the system's overhead). It reports whether the system returned a number.
func UnsentBytes(raw syscall.RawConn) (n int, ok bool) {
	var unsent int32
	err := raw.Control(func(fd uintptr) {
		// SIOCOUTQ has the number of TIOCOUTQ.
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&unsent)))
		ok = errno == 0
	})
	return int(unsent), ok && err == nil
}
