package rpcx

import "sync"

// maxIdle is how many goroutines a pool keeps for reuse.
const maxIdle = 64

// pool reuses goroutines: one whose stack has grown to what a handler needs is
// several times faster than a new one. It limits nothing. It belongs to one
// Server, one dialled session or one Pipe, and its goroutines end with the last
// session that uses it.
type pool struct {
	mu    sync.Mutex
	idle  []chan func()
	users int
	calls sync.Pool // Futures for Session.Call
}

// call returns a Future for Session.Call. Nobody else sees it, so one value sent
// says that it is done, and then it can be used again: with this pool only, for
// a channel must not leave the bubble of testing/synctest that it was made in.
func (p *pool) call(s *Session, method string) *Future {
	f, ok := p.calls.Get().(*Future)
	if !ok {
		f = &Future{done: make(chan struct{}, 1)}
	}
	f.session, f.method = s, method
	return f
}

// putCall takes a Future back whose value was received, or that was never sent.
func (p *pool) putCall(f *Future) {
	*f = Future{done: f.done}
	p.calls.Put(f)
}

// join adds a session to the pool's users.
func (p *pool) join() {
	p.mu.Lock()
	p.users++
	p.mu.Unlock()
}

// leave takes a session off. The last one ends the goroutines.
func (p *pool) leave() {
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

// run runs task on a goroutine of its own.
func (p *pool) run(task func()) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		// The last one in: its stack is in the cache still.
		tasks := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		tasks <- task // has room: an idle worker's channel is empty
		return
	}
	p.mu.Unlock()
	// Owner: the pool. End: when the pool has enough idle ones, or no users.
	go p.work(task)
}

func (p *pool) work(task func()) {
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
