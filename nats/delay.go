package natsrpcx

import (
	"strings"
	"sync"
	"time"
)

// maxSenders is the maximum number of senders that delays knows.
const maxSenders = 10_000

// delayWindow is the time after which a new smallest difference begins to count.
const delayWindow = time.Minute

// maxDrift is the time in which a clock gains at most one second on another, in seconds.
const maxDrift = 10_000

// delays estimates how long messages were on their way, without a common clock: for each
// sender, the smallest difference between the time of arrival and the time of sending
// belongs to the messages without delay. Any other message has the delay by which its
// difference is larger. Each clock may begin anywhere. Since one clock may be a little
// faster, only the differences of the last two windows count. After a silence of days, the
// clock may have gained seconds, so an old difference grows by maxDrift.
type delays struct {
	mu      sync.Mutex // guards senders
	senders map[string]*senderClock
}

// senderClock has the smallest differences of a sender.
type senderClock struct {
	current, previous time.Duration
	began             time.Duration // of the current window, on the receiver's clock
}

// estimate returns the delay of a message. inbox identifies the sender. now and sent are
// the times of arrival and of sending, each on a monotonic clock of its own.
func (d *delays) estimate(inbox string, now, sent time.Duration) time.Duration {
	difference := now - sent
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.senders[inbox]
	switch {
	case s == nil:
		d.addLocked(inbox, &senderClock{current: difference, previous: difference, began: now})
		return 0
	case now-s.began >= delayWindow: // one window at a time, also after a long silence
		s.previous, s.current, s.began = s.current+(now-s.began)/maxDrift, difference, now
	case difference < s.current:
		s.current = difference
	}
	return difference - min(s.current, s.previous)
}

// addLocked adds a sender, in place of another sender if there are too many. Callers must
// hold d.mu.
func (d *delays) addLocked(inbox string, s *senderClock) {
	if d.senders == nil {
		d.senders = make(map[string]*senderClock)
	}
	if len(d.senders) >= maxSenders {
		for oldest := range d.senders { // any
			delete(d.senders, oldest)
			break
		}
	}
	d.senders[strings.Clone(inbox)] = s
}
