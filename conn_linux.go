package rpcx

import (
	"encoding/binary"
	"syscall"
	"time"
	"unsafe"
)

func init() {
	temporaryAcceptErrors = append(temporaryAcceptErrors,
		syscall.ENONET, syscall.ENOSR, syscall.ESOCKTNOSUPPORT, syscall.EPROTONOSUPPORT)
}

// hasPeerGone reports whether the socket or pipe says that the peer has closed both
// halves of the connection, or has reset it. Reading does not tell: it says that the
// input has ended, as it does when only one half is closed.
func hasPeerGone(raw syscall.RawConn) bool {
	const pollErr, pollHup = 0x8, 0x10 // which are always asked for
	return pollEvents(raw, 0)&(pollErr|pollHup) != 0
}

// systemHasRoom reports whether the socket or pipe takes some KiB without waiting.
func systemHasRoom(raw syscall.RawConn) bool {
	const pollOut = 0x4
	return pollEvents(raw, pollOut)&pollOut != 0
}

// pollEvents asks for events, and returns those that there are.
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

// setUserTimeout has the operating system give a connection up whose peer does not
// acknowledge what was sent, or does not read, for d.
func setUserTimeout(raw syscall.RawConn, d time.Duration) {
	const tcpUserTimeout = 18
	_ = raw.Control(func(fd uintptr) {
		// If it fails, TCP's own patience counts.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(min(d.Milliseconds(), 1<<31-1)))
	})
}

// canSeeRepeats says that repeats works.
const canSeeRepeats = true

// isRepeating reports whether the operating system sends again what the peer has not
// acknowledged. A peer that does not read acknowledges: then it reports false.
func isRepeating(raw syscall.RawConn) bool {
	info, ok := tcpInfo(raw)
	// It begins with bytes, of which the third is tcpi_retransmits and the fourth
	// tcpi_probes.
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], info[0])
	return ok && (b[2] > 0 || b[3] > 1)
}

// hasSentNothing reports whether nothing has come from the peer of a TCP connection.
func hasSentNothing(raw syscall.RawConn) bool {
	info, ok := tcpInfo(raw)
	// The fourth word is tcpi_ato, how long an acknowledgement may be put off: 0 until
	// the first data comes.
	return ok && info[3] == 0
}

// tcpInfo returns the first words of TCP_INFO; false if raw is no TCP connection.
func tcpInfo(raw syscall.RawConn) (words [8]uint32, ok bool) {
	_ = raw.Control(func(fd uintptr) {
		// The type is that of another option of 32 bytes.
		if info, err := syscall.GetsockoptICMPv6Filter(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO); err == nil {
			words, ok = info.Data, true
		}
	})
	return words, ok
}

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
