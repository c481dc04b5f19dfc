package natsrpcx

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func TestDelaysOfClocksThatDiffer(t *testing.T) {
	for _, offset := range []time.Duration{0, time.Hour, -time.Hour, 24 * 365 * time.Hour} {
		for _, drift := range []float64{0, 1e-4, -1e-4} { // a bad quartz clock
			t.Run(fmt.Sprint(offset, drift), func(t *testing.T) {
				var d delays
				rng := rand.New(rand.NewPCG(1, 2))
				var now time.Duration
				estimate := func(delay time.Duration) time.Duration {
					sent := time.Duration(float64(now)*(1+drift)) + offset
					return d.estimate("inbox.", now+delay, sent)
				}
				for range 10_000 { // two days
					now += time.Duration(rng.Int64N(int64(35 * time.Second)))
					delay := time.Duration(rng.Int64N(int64(time.Millisecond)))
					if got := estimate(delay); got < 0 || got > 20*time.Millisecond {
						t.Fatalf("after %v, a message with the delay %v seems to have %v", now, delay, got)
					}
				}
				const late = 7 * time.Second
				for range 5 { // after a pause, several messages are late
					if got := estimate(late); got < late-20*time.Millisecond || got > late+20*time.Millisecond {
						t.Errorf("a message with the delay %v seems to have %v", late, got)
					}
				}
				now += late
				if got := estimate(0); got < 0 || got > 20*time.Millisecond {
					t.Errorf("a message without delay seems to have %v", got)
				}
			})
		}
	}
}

// After a weekend of silence at 50 ppm, every message seemed to be 10.8 s late for a minute.
func TestDelaysAfterALongSilence(t *testing.T) {
	const silence = 60 * time.Hour
	var d delays
	d.estimate("inbox", 0, 0)
	sent := silence - silence/20_000
	for _, later := range []time.Duration{0, 50 * time.Second, 100 * time.Second} {
		if got := d.estimate("inbox", silence+later, sent+later); got != 0 {
			t.Errorf("%v after the silence, a message without delay seems to have %v", later, got)
		}
	}
	const late = time.Minute
	if got := d.estimate("inbox", silence+2*late+late, sent+2*late); got < late/2 {
		t.Errorf("a message with the delay %v seems to have %v", late, got)
	}
}

func TestDelaysAreBounded(t *testing.T) {
	var d delays
	for i := range maxSenders + 100 {
		d.estimate(fmt.Sprint(i), 0, 0)
	}
	if n := len(d.senders); n != maxSenders {
		t.Errorf("%d senders, want %d", n, maxSenders)
	}
}
