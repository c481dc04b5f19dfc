//go:build !rpcxdebug

package rpcx

// lockOwner knows the goroutine that holds s.mu in builds with the tag rpcxdebug, which
// panic where a function is called without the lock. In others it is nothing.
type lockOwner struct{}

func (lockOwner) set()   {}
func (lockOwner) clear() {}
func (lockOwner) check() {}
