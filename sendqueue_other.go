//go:build !linux

package rpcx

import "syscall"

// canSeeUnsent says that unsentBytes works.
const canSeeUnsent = false

func unsentBytes(syscall.RawConn) (int, bool) { return 0, false }
