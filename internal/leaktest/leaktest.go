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

// Run runs m, a *testing.M or a program, and returns the exit code. If a goroutine of this
// module is left behind, the code is not 0.
func Run(m interface{ Run() int }) int {
	before := moduleGoroutines()
	code := m.Run()
	if leaked := leftBehind(before); code == 0 && len(leaked) > 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines were left behind:\n\n%s\n", len(leaked), strings.Join(leaked, "\n\n"))
		code = 1
	}
	return code
}

// Check fails the test if the test leaves a goroutine of this module behind. Check is for
// tests outside a synctest bubble that do not run in parallel. A bubble finds leaks
// itself.
func Check(t *testing.T) {
	t.Helper()
	before := moduleGoroutines()
	t.Cleanup(func() {
		for _, stack := range leftBehind(before) {
			t.Errorf("a goroutine was left behind:\n%s", stack)
		}
	})
}

// leftBehind waits up to 5 s for the goroutines outside before to end, and returns the
// stacks of the remaining goroutines.
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

// moduleGoroutines returns stacks by their goroutine ("goroutine N"). The stacks contain
// code of this module or of the WebSocket library. The caller and the goroutines of the
// tests themselves are left out.
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
