package natsrpcx

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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

func TestDelaysAreBounded(t *testing.T) {
	var d delays
	for i := range maxSenders + 100 {
		d.estimate(fmt.Sprint(i), 0, 0)
	}
	if n := len(d.senders); n != maxSenders {
		t.Errorf("%d senders, want %d", n, maxSenders)
	}
}

func TestSenderOf(t *testing.T) {
	for reply, want := range map[string]string{"": "", "x": "", "_INBOX.a.1": "_INBOX.a.", ".": "."} {
		if got := senderOf(reply); got != want {
			t.Errorf("%q: %q, want %q", reply, got, want)
		}
	}
}

func FuzzTimeHeader(f *testing.F) {
	for _, value := range []string{"", "1", "1 2", "-1", "1 -1", "99999999999999999999", "1  2", "1 2 3", "+1", "0x1"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		sent, left, limited, known := timeOf(nats.Header{timeHeader: {value}})
		if !known {
			return
		}
		const longest = maxLeft * time.Millisecond
		if sent < 0 || sent > longest || left < 0 || left > longest || !limited && left != 0 {
			t.Errorf("%q: %v, %v, %t", value, sent, left, limited)
		}
		h := make(nats.Header)
		setTime(h, sent, left, limited)
		if s, l, lim, known := timeOf(h); s != sent || l != left || lim != limited || !known {
			t.Errorf("%q: %v, %v, %t and then %v, %v, %t", value, sent, left, limited, s, l, lim)
		}
	})
}
