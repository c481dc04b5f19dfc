//go:build !linux

package sockstate

import (
	"syscall"
	"time"
)

// TemporaryAcceptErrors holds errors of accept(2) that only Linux has.
var TemporaryAcceptErrors []error

// CanSeeRepeats reports whether IsRepeating works on this system.
const CanSeeRepeats = false

// CanSeeUnsent reports whether UnsentBytes works on this system.
const CanSeeUnsent = false

// HasPeerGone returns false: unknown.
func HasPeerGone(syscall.RawConn) bool { return false }

// HasRoom returns true: unknown.
func HasRoom(syscall.RawConn) bool { return true }

// SetUserTimeout does nothing.
func SetUserTimeout(syscall.RawConn, time.Duration) {}

// IsRepeating returns false: unknown.
func IsRepeating(syscall.RawConn) bool { return false }

// HasSentNothing returns false: unknown.
func HasSentNothing(syscall.RawConn) bool { return false }

// UnsentBytes returns no number.
func UnsentBytes(syscall.RawConn) (int, bool) { return 0, false }
