package duration

import (
	"testing"
	"time"
)

type inner struct{ Timeout time.Duration }

type options struct {
	inner
	Wait  time.Duration
	Count int64
	own   time.Duration
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name    string
		options options
		want    string
	}{
		{"zero", options{}, ""},
		{"off", options{Wait: -1}, ""},
		{"a number of seconds without the unit", options{Wait: 30}, "Limits.Wait is 30ns: write 30*time.Second"},
		{"the longest of these", options{Wait: 999}, "Limits.Wait is 999ns: write 999*time.Second"},
		{"a number of milliseconds without the unit", options{Wait: 5000}, "Limits.Wait is 5µs: a duration is at least 1ms, with its unit, such as 30*time.Second"},
		{"just too short", options{Wait: time.Millisecond - 1}, "Limits.Wait is 999.999µs: a duration is at least 1ms, with its unit, such as 30*time.Second"},
		{"the shortest", options{Wait: time.Millisecond}, ""},
		{"a number that is no duration", options{Count: 30}, ""},
		{"a field that is not exported", options{own: 30}, ""},
		{"a field of another struct", options{inner: inner{30}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := Check("Limits", &c.options); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("it is %q, want %q", got, c.want)
			}
		})
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	o := options{Wait: time.Second}
	if n := testing.AllocsPerRun(100, func() { _ = Check("Limits", &o) }); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}
