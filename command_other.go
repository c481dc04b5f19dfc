//go:build !unix

package rpcx

import (
	"os"
	"os/exec"
)

// canTerminate says that there is no signal that asks a program to end.
const canTerminate = false

var terminateSignal os.Signal

// leadGroup reports false, for there are no process groups.
func leadGroup(*exec.Cmd) bool { return false }

func signalGroup(int, os.Signal) error { panic("unreachable") }
func groupRuns(int) bool               { panic("unreachable") }
