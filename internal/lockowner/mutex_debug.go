//go:build rpcxdebug && (amd64 || arm64)

// Package lockowner has a mutex that checks its owner, in builds with the tag rpcxdebug.
package lockowner

import (
	"sync"
	"sync/atomic"
)

// Mutex is a mutex that knows the goroutine that holds the lock.
type Mutex struct {
	mu    sync.Mutex
	owner atomic.Uintptr // 0 if no goroutine holds the lock
}

// Lock takes the lock.
func (m *Mutex) Lock() {
	m.mu.Lock()
	m.owner.Store(current())
}

// Unlock panics if the calling goroutine does not hold the lock.
func (m *Mutex) Unlock() {
	m.AssertHeld()
	m.owner.Store(0)
	m.mu.Unlock()
}

// AssertHeld panics if the calling goroutine does not hold the lock.
func (m *Mutex) AssertHeld() {
	if m.owner.Load() != current() {
		panic("rpcx: the lock is not held by the goroutine that needs it")
	}
}

// current returns the address of the runtime's record of the calling goroutine. Two
// goroutines that run have different ones.
func current() uintptr
