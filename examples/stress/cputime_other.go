//go:build !unix

package main

import (
	"runtime/metrics"
	"time"
)

// processTime returns about how much time of the processors the process has had: the Go
// runtime counts it, at each garbage collection.
func processTime() time.Duration {
	m := []metrics.Sample{
		{Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/cpu/classes/idle:cpu-seconds"},
	}
	metrics.Read(m)
	return time.Duration((m[0].Value.Float64() - m[1].Value.Float64()) * float64(time.Second))
}
