//go:build rpcxdebug

package rpcx

import (
	"bytes"
	"runtime"
	"strconv"
	"sync/atomic"
)

// lockOwner is the goroutine that holds s.mu, 0 if none does.
type lockOwner struct{ goroutine atomic.Uint64 }

func (o *lockOwner) set()   { o.goroutine.Store(goroutineID()) }
func (o *lockOwner) clear() { o.goroutine.Store(0) }

// check panics if the calling goroutine does not hold the lock.
func (o *lockOwner) check() {
	if owner := o.goroutine.Load(); owner != goroutineID() {
		panic("rpcx: s.mu is not held by the goroutine that needs it")
	}
}

// goroutineID returns the number of the calling goroutine, which only its stack tells.
func goroutineID() uint64 {
	var buf [64]byte
	stack := buf[:runtime.Stack(buf[:], false)]
	number, _, _ := bytes.Cut(bytes.TrimPrefix(stack, []byte("goroutine ")), []byte(" "))
	id, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		panic(err)
	}
	return id
}
