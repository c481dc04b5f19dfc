//go:build !linux

package main

func newPreciseTimer() timer { return plainTimer{} }
