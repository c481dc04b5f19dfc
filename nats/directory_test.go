package natsrpcx

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory(5 * time.Second)
		expect := func(subject string, want bool) {
			t.Helper()
			if got := d.mayExist(subject); got != want {
				t.Errorf("%s: %t, want %t", subject, got, want)
			}
		}
		expect("a", true) // nothing is known yet
		time.Sleep(5*time.Second - time.Nanosecond)
		expect("a", true)
		time.Sleep(time.Nanosecond)
		expect("a", false)
		d.note("a\nb.c\n\n" + strings.Repeat("x", maxSubject+1))
		expect("a", true)
		expect("b.c", true)
		expect("", false)
		expect(strings.Repeat("x", maxSubject+1), false)
		time.Sleep(20 * time.Second)
		d.note("a\n")
		time.Sleep(10 * time.Second)
		expect("a", true)
		expect("b.c", true)
		time.Sleep(time.Nanosecond)
		expect("b.c", false)
		d.note("d")
		if n := len(d.methods); n != 2 {
			t.Errorf("%d methods, want a and d", n)
		}
	})
}

func TestADirectoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory(5 * time.Second)
		var text strings.Builder
		for i := range maxDirectory + 10 {
			fmt.Fprintf(&text, "m%d\n", i)
		}
		d.note(text.String())
		if n := len(d.methods); n != maxDirectory {
			t.Errorf("%d methods, want %d", n, maxDirectory)
		}
		time.Sleep(31 * time.Second)
		d.note("new")
		if n := len(d.methods); n != 1 || !d.mayExist("new") {
			t.Errorf("%d methods, want 1", n)
		}
	})
}
