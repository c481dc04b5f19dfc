//go:build !race && !rpcxdebug

// Package race says whether a test is built with checks that change how much memory and
// time the code takes.
package race

// Enabled reports whether the build has the race detector or the tag rpcxdebug.
const Enabled = false
