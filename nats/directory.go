package natsrpcx

import (
	"strings"
	"sync"
	"time"
)

// maxDirectory is the maximum number of methods in a directory. Further methods are
// answered as if nobody had announced them.
const maxDirectory = 100_000

// directory has the methods that workers have announced. The directory matters only if a
// request met no worker: it tells a method that nobody has from one whose workers are gone.
type directory struct {
	announce time.Duration // time between two announcements of a worker

	mu      sync.Mutex           // guards the fields below
	since   time.Time            // when the directory began to listen
	methods map[string]time.Time // by subject: the time of the last announcement
	sweep   time.Time            // when old methods are removed next
}

func newDirectory(announce time.Duration) *directory {
	now := time.Now()
	return &directory{announce: announce, since: now, sweep: now, methods: make(map[string]time.Time)}
}

// memory is how long a method is known after its announcement.
func (d *directory) memory() time.Duration { return 6 * d.announce }

// note records an announcement: subjects, with line feeds between.
func (d *directory) note(announcement string) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !now.Before(d.sweep) {
		for subject, at := range d.methods {
			if now.Sub(at) > d.memory() {
				delete(d.methods, subject)
			}
		}
		d.sweep = now.Add(d.memory())
	}
	for subject := range strings.SplitSeq(announcement, "\n") {
		if len(subject) == 0 || len(subject) > maxSubject {
			continue
		}
		if _, known := d.methods[subject]; known {
			d.methods[subject] = now
		} else if len(d.methods) < maxDirectory {
			d.methods[strings.Clone(subject)] = now // without the rest of the announcement
		}
	}
}

// mayExist reports whether a worker has announced the method lately, or may have done so
// before the directory has begun to listen.
func (d *directory) mayExist(subject string) bool {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	at, known := d.methods[subject]
	return known && now.Sub(at) <= d.memory() || now.Sub(d.since) < d.announce
}
