package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"time"
)

// sampling is how often the server samples itself.
const sampling = 200 * time.Millisecond

// sample is what the server was at a time.
type sample struct {
	At         time.Duration  `json:"-"`    // when it came in
	Heap       uint64         `json:"heap"` // bytes of objects, live or not collected yet
	Live       uint64         `json:"live"` // bytes of objects that the last collection has found in use
	RSS        uint64         `json:"rss"`  // bytes that the process has of the machine's memory
	Goroutines int            `json:"goroutines"`
	Sessions   int            `json:"sessions"`
	Ended      map[string]int `json:"ended"` // sessions so far, by reason
}

// measure fills in what the Go runtime and the operating system know.
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
	s.RSS = m[1].Value.Uint64() - m[2].Value.Uint64() // about; Linux knows better
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		var size, resident uint64
		if _, err := fmt.Fscan(bytes.NewReader(text), &size, &resident); err == nil {
			s.RSS = resident * uint64(os.Getpagesize())
		}
	}
}

// highest makes s the highest of s and t, number by number.
func (s *sample) highest(t sample) {
	s.Heap = max(s.Heap, t.Heap)
	s.Live = max(s.Live, t.Live)
	s.RSS = max(s.RSS, t.RSS)
	s.Goroutines = max(s.Goroutines, t.Goroutines)
	s.Sessions = max(s.Sessions, t.Sessions)
}
