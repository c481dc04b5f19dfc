//go:build !unix

package main

// openFilesLimit returns 0: there is no such limit, or it is unknown.
func openFilesLimit() int { return 0 }
