//go:build !(rpcxdebug && (amd64 || arm64))

// Package lockowner has a mutex that checks its owner, in builds with the tag rpcxdebug.
package lockowner

import "sync"

// Mutex is a sync.Mutex. In builds with the tag rpcxdebug, a Mutex also knows the
// goroutine that holds the lock.
type Mutex struct{ sync.Mutex }

// AssertHeld panics if the calling goroutine does not hold the lock. Without the tag
// rpcxdebug AssertHeld does nothing.
func (*Mutex) AssertHeld() {}
