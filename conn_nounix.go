//go:build !unix

package rpcx

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
)

// standardOutput is for systems without SIGPIPE.
func standardOutput(stdout *os.File) io.WriteCloser { return stdout }

// canTerminate says that there is no signal that asks a program to end.
const canTerminate = false

var terminateSignal os.Signal

// leadProcessGroup reports false, for there are no process groups.
func leadProcessGroup(*exec.Cmd) bool { return false }

func signalProcessGroup(int, os.Signal) error { panic("unreachable") }
func isProcessGroupRunning(int) bool          { panic("unreachable") }

// listenUnix listens on a unix socket, where the system has any.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "unix", path)
}

// socket is for systems whose sockets can be used below package net.
type socket struct{}

func newSocket(any) *socket { return nil }

func (*socket) tryWrite([]byte) int            { panic("unreachable") }
func (*socket) readSome() ([]byte, int, error) { panic("unreachable") }
