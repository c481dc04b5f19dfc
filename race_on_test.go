//go:build race

package rpcx_test

const raceEnabled = true
