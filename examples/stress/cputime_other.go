//go:build !unix

package main

import (
	"runtime/metrics"
	"time"
)

// processTime returns about the CPU time of the process: the Go runtime updates the count
// at each garbage collection.
func processTime() time.Duration {
	m := []metrics.Sample{
		{Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/cpu/classes/idle:cpu-seconds"},
	}
	metrics.Read(m)
	return time.Duration((m[0].Value.Float64() - m[1].Value.Float64()) * float64(time.Second))
}
