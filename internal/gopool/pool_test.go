package gopool

import (
	"testing"
	"testing/synctest"
)

// TestPool checks that an idle goroutine runs the next task, and ends with the last user. A
// goroutine that is left would make the bubble fail.
func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		run := func(want int) {
			t.Helper()
			ran := false
			p.RunTask(func() { ran = true })
			synctest.Wait()
			if idle := len(p.idle); !ran || idle != want {
				t.Errorf("after a task (ran: %v) the pool has %d idle goroutines, want %d", ran, idle, want)
			}
		}
		run(0) // no users
		p.AddUser()
		p.AddUser()
		run(1)
		run(1)
		p.RemoveUser()
		run(1)
		p.RemoveUser()
		run(0)
	})
}

// TestIdleGoroutinesAreBounded checks that at most maxIdle goroutines stay idle.
func TestIdleGoroutinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pool
		p.AddUser()
		defer p.RemoveUser()
		begin := make(chan struct{})
		for range 2 * maxIdle {
			p.RunTask(func() { <-begin })
		}
		close(begin)
		synctest.Wait()
		if idle := len(p.idle); idle != maxIdle {
			t.Errorf("the pool has %d idle goroutines, want %d", idle, maxIdle)
		}
	})
}
