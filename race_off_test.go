//go:build !race && !rpcxdebug

package rpcx_test

const raceEnabled = false
