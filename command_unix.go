//go:build unix

package rpcx

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

const canTerminate = true

// terminateSignal asks a program to end.
const terminateSignal = syscall.SIGTERM

// leadGroup has the program lead a process group, unless cmd.SysProcAttr is set. It
// reports whether the program is to lead one.
func leadGroup(cmd *exec.Cmd) bool {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	return cmd.SysProcAttr.Setsid || cmd.SysProcAttr.Setpgid && cmd.SysProcAttr.Pgid == 0
}

// signalGroup sends a signal to all processes of a group. That there are none is no
// error.
func signalGroup(group int, sig os.Signal) error {
	err := syscall.Kill(-group, sig.(syscall.Signal))
	if err == syscall.ESRCH {
		return nil
	}
	return os.NewSyscallError("kill", err)
}

// groupRuns reports whether a process of the group runs that this program may send
// signals. A process that has ended stays in the group until its parent has noticed. In
// a container that may be never, so on Linux such processes are told apart.
func groupRuns(group int) bool {
	if syscall.Kill(-group, 0) != nil {
		return false
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	if len(stats) == 0 {
		return true
	}
	for _, stat := range stats {
		data, err := os.ReadFile(stat) // pid (name) state parent group …
		if err != nil {
			continue
		}
		fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		if len(fields) < 3 {
			return true // another system's file
		}
		if state := fields[0][0]; state != 'Z' && state != 'X' && string(fields[2]) == strconv.Itoa(group) {
			return true
		}
	}
	return false
}
