// Package gopool reuses goroutines.
package gopool

import "sync"

// maxIdle is the maximum of idle goroutines in a Pool.
const maxIdle = 64

// Pool reuses goroutines. A goroutine whose stack has grown for a task is several times
// faster than a new goroutine. A Pool limits nothing. The idle goroutines end with the last
// user. The zero value is ready for use.
type Pool struct {
	mu    sync.Mutex
	idle  []chan func()
	users int
}

// AddUser counts a user of the pool. Without users, no goroutine stays idle.
func (p *Pool) AddUser() {
	p.mu.Lock()
	p.users++
	p.mu.Unlock()
}

// RemoveUser reverts AddUser. After the last user, the idle goroutines end.
func (p *Pool) RemoveUser() {
	p.mu.Lock()
	p.users--
	var idle []chan func()
	if p.users == 0 {
		idle, p.idle = p.idle, nil
	}
	p.mu.Unlock()
	for _, tasks := range idle {
		close(tasks)
	}
}

// RunTask runs task on another goroutine.
func (p *Pool) RunTask(task func()) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		// The latest idle goroutine: the stack is still in the cache.
		tasks := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		tasks <- task // has room: the channel of an idle goroutine is empty
		return
	}
	p.mu.Unlock()
	// Owner: the pool. End: the pool has enough idle goroutines, or no users.
	go p.runTasks(task)
}

func (p *Pool) runTasks(task func()) {
	var tasks chan func()
	for ok := true; ok; task, ok = <-tasks {
		task()
		p.mu.Lock()
		if p.users == 0 || len(p.idle) == maxIdle {
			p.mu.Unlock()
			return
		}
		if tasks == nil {
			tasks = make(chan func(), 1)
		}
		p.idle = append(p.idle, tasks)
		p.mu.Unlock()
	}
}
