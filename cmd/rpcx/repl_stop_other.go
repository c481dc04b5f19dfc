//go:build !unix

package main

// continueSoon does nothing: the editor stops no process here.
func continueSoon() {}

func whenContinued(func()) (ignore func()) { return func() {} }
