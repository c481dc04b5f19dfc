//go:build !unix

package rpcx

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
)

// standardOutput returns stdout itself on systems without SIGPIPE.
func standardOutput(stdout *os.File) io.WriteCloser { return stdout }

// canTerminate is false: no signal asks a program to end.
const canTerminate = false

var terminateSignal os.Signal

// leadProcessGroup returns false, since process groups do not exist.
func leadProcessGroup(*exec.Cmd) bool { return false }

func signalProcessGroup(int, os.Signal) error { panic("unreachable") }
func isProcessGroupRunning(int) bool          { panic("unreachable") }

// listenUnix listens on a unix socket, if the system supports them.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "unix", path)
}

// socket is a placeholder: sockets cannot be used below package net here.
type socket struct{}

func newSocket(any) *socket { return nil }

func (*socket) tryWrite([]byte) int            { panic("unreachable") }
func (*socket) readSome() ([]byte, int, error) { panic("unreachable") }
