//go:build rpcxdebug && (amd64 || arm64)

// Package lockowner checks who holds a lock, in builds with the tag rpcxdebug.
package lockowner

import "sync/atomic"

// Owner is the goroutine that holds a lock.
type Owner struct{ goroutine atomic.Uintptr }

// Set makes the calling goroutine the owner. Callers must hold the lock.
func (o *Owner) Set() { o.goroutine.Store(current()) }

// Clear removes the owner. Callers must hold the lock.
func (o *Owner) Clear() { o.goroutine.Store(0) }

// Check panics if the calling goroutine is not the owner.
func (o *Owner) Check() {
	if o.goroutine.Load() != current() {
		panic("rpcx: the lock is not held by the goroutine that needs it")
	}
}

// current returns the address of the runtime's record of the calling goroutine. Running
// goroutines have different addresses.
func current() uintptr
