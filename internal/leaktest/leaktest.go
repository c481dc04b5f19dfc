// Package leaktest finds goroutines that tests leave behind.
package leaktest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Run runs the tests and returns the code to exit with: not 0 if they leave a
// goroutine behind that has this module's code on its stack.
func Run(m *testing.M) int {
	before := moduleGoroutines()
	code := m.Run()
	if leaked := leftBehind(before); code == 0 && len(leaked) > 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines were left behind:\n\n%s\n", len(leaked), strings.Join(leaked, "\n\n"))
		code = 1
	}
	return code
}

// Check fails the test if, at its end, a goroutine is left that it has started
// by way of this module's code. It is for tests outside of a synctest bubble,
// which finds leaks by itself, and that do not run in parallel to others.
func Check(t *testing.T) {
	t.Helper()
	before := moduleGoroutines()
	t.Cleanup(func() {
		for _, stack := range leftBehind(before) {
			t.Errorf("a goroutine was left behind:\n%s", stack)
		}
	})
}

// leftBehind returns the stacks of the goroutines that are not among before,
// after it has waited up to 5 s for them to end.
func leftBehind(before map[string]string) []string {
	deadline := time.Now().Add(5 * time.Second)
	for pause := time.Millisecond; ; pause *= 2 {
		var left []string
		for id, stack := range moduleGoroutines() {
			if _, old := before[id]; !old {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(pause)
	}
}

// moduleGoroutines returns the stacks of all goroutines but the caller's and the
// tests' own that have this module's code on them, or that of the WebSocket library,
// by "goroutine N".
func moduleGoroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for n := runtime.Stack(buf, true); ; n = runtime.Stack(buf, true) {
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	found := make(map[string]string)
	for i, stack := range strings.Split(string(buf), "\n\n") {
		ours := strings.Contains(stack, "example.com/rpcx") || strings.Contains(stack, "coder/websocket")
		if i == 0 || !ours || strings.Contains(stack, "testing.tRunner") {
			continue
		}
		id, _, _ := strings.Cut(stack, " [")
		found[id] = stack
	}
	return found
}
