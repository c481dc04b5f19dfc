//go:build !(rpcxdebug && (amd64 || arm64))

// Package lockowner checks who holds a lock, in builds with the tag rpcxdebug.
package lockowner

// Owner is empty in builds without the tag rpcxdebug. With the tag, an Owner is the
// goroutine that holds a lock, and Check panics in every different goroutine.
type Owner struct{}

// Set makes the calling goroutine the owner. Callers must hold the lock.
func (Owner) Set() {}

// Clear removes the owner. Callers must hold the lock.
func (Owner) Clear() {}

// Check panics if the calling goroutine is not the owner.
func (Owner) Check() {}
