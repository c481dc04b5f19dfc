//go:build !linux

package rpcx

import (
	"syscall"
	"time"
)

// Only on Linux is the operating system asked about a connection.

const canSeeRepeats = false

func hasPeerGone(syscall.RawConn) bool              { return false }
func systemHasRoom(syscall.RawConn) bool            { return true } // maxFlushWait bounds the attempt
func setUserTimeout(syscall.RawConn, time.Duration) {}
func isRepeating(syscall.RawConn) bool              { return false }
func hasSentNothing(syscall.RawConn) bool           { return false }

// canSeeUnsent says that unsentBytes works.
const canSeeUnsent = false

func unsentBytes(syscall.RawConn) (int, bool) { return 0, false }
