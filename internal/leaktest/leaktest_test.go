package leaktest

import "testing"

func TestLeakedGoroutinesAreFound(t *testing.T) {
	before := moduleGoroutines()
	end := make(chan struct{})
	started := make(chan struct{})
	go func() {
		close(started)
		<-end
	}()
	<-started
	found := moduleGoroutines()
	close(end)
	for id := range before {
		delete(found, id)
	}
	if len(found) != 1 {
		t.Errorf("%d goroutines found, want the one", len(found))
	}
	if left := leftBehind(before); len(left) != 0 {
		t.Errorf("it has ended, but was found: %s", left)
	}
}
