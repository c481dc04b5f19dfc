package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"time"
)

// sampling is the interval of the server's samples.
const sampling = 200 * time.Millisecond

// sample is a measurement of the server.
type sample struct {
	At         time.Duration  `json:"-"`    // arrival at the parent
	Heap       uint64         `json:"heap"` // bytes of objects, live or not collected yet
	Live       uint64         `json:"live"` // bytes of live objects at the last collection
	RSS        uint64         `json:"rss"`  // resident memory of the process, in bytes
	Goroutines int            `json:"goroutines"`
	Sessions   int            `json:"sessions"`
	Ended      map[string]int `json:"ended"` // ended sessions so far, by reason
}

// measure fills in the values from the Go runtime and the operating system.
func (s *sample) measure() {
	m := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(m)
	s.Heap = m[0].Value.Uint64()
	s.Live = m[3].Value.Uint64()
	s.Goroutines = runtime.NumGoroutine()
	s.RSS = m[1].Value.Uint64() - m[2].Value.Uint64() // approximate; Linux has the exact value
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident uint64
		if _, err := fmt.Fscan(bytes.NewReader(text), &size, &resident); err == nil {
			s.RSS = resident * uint64(os.Getpagesize())
		}
	}
}

// highest sets each field of s to the higher value of s and t.
func (s *sample) highest(t sample) {
	s.Heap = max(s.Heap, t.Heap)
	s.Live = max(s.Live, t.Live)
	s.RSS = max(s.RSS, t.RSS)
	s.Goroutines = max(s.Goroutines, t.Goroutines)
	s.Sessions = max(s.Sessions, t.Sessions)
}
