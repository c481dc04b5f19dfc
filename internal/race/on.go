//go:build race || rpcxdebug

package race

// Enabled reports whether the build has the race detector or the tag rpcxdebug.
const Enabled = true
