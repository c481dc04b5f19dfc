package main

import "time"

// timer is what the pacer of a load sleeps by.
type timer interface {
	sleep(d time.Duration)
	close()
}

// plainTimer is the timer of package time.
type plainTimer struct{}

func (plainTimer) sleep(d time.Duration) { time.Sleep(d) }
func (plainTimer) close()                {}
