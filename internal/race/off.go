//go:build !race && !rpcxdebug

// Package race tells tests whether the build has checks that change the memory and time
// of the code.
package race

// Enabled reports whether the build has the race detector or the tag rpcxdebug.
const Enabled = false
