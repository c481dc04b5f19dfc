//go:build !linux

package rpcx

import (
	"syscall"
	"time"
)

// On Linux alone, the session asks the operating system about a connection.

const canSeeRepeats = false

func hasPeerGone(syscall.RawConn) bool              { return false }
func systemHasRoom(syscall.RawConn) bool            { return true } // maxFlushWait bounds the attempt
func setUserTimeout(syscall.RawConn, time.Duration) {}
func isRepeating(syscall.RawConn) bool              { return false }
func hasSentNothing(syscall.RawConn) bool           { return false }

// canSeeUnsent reports whether unsentBytes works on this system.
const canSeeUnsent = false

func unsentBytes(syscall.RawConn) (int, bool) { return 0, false }
