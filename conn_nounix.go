//go:build !unix

package rpcx

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
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

// socket is never made, because sockets cannot be used below package net here.
type socket struct{}

func newSocket(any) *socket { return nil }

func (*socket) tryWrite([]byte) int            { panic("unreachable") }
func (*socket) readSome() ([]byte, int, error) { panic("unreachable") }
func (*socket) interruptRead()                 { panic("unreachable") }
func (*socket) allowRead()                     { panic("unreachable") }
func (*socket) isInterruption(error) bool      { panic("unreachable") }

// Errors of AcceptEx on Windows, and of setting up accepted connections. (No call returns the
// constants with Unix names, such as syscall.ENOBUFS.)
const (
	errNotEnoughMemory = syscall.Errno(8)
	wsaEBADF           = syscall.Errno(10009)
	wsaEINVAL          = syscall.Errno(10022)
	wsaEMFILE          = syscall.Errno(10024)
	wsaENOTSOCK        = syscall.Errno(10038)
	wsaENETDOWN        = syscall.Errno(10050)
	wsaENETUNREACH     = syscall.Errno(10051)
	wsaECONNABORTED    = syscall.Errno(10053)
	wsaECONNRESET      = syscall.Errno(10054)
	wsaENOBUFS         = syscall.Errno(10055)
	wsaEHOSTDOWN       = syscall.Errno(10064)
	wsaEHOSTUNREACH    = syscall.Errno(10065)
)

func init() {
	if runtime.GOOS != "windows" {
		return
	}
	temporaryAcceptErrors = append(temporaryAcceptErrors,
		wsaECONNABORTED, wsaECONNRESET, wsaENETDOWN, wsaENETUNREACH, wsaEHOSTDOWN, wsaEHOSTUNREACH,
		wsaEMFILE, wsaENOBUFS, errNotEnoughMemory)
	hangUpErrors = append(hangUpErrors, wsaECONNABORTED, wsaECONNRESET)
	lostListenerErrors = append(lostListenerErrors, wsaEBADF, wsaEINVAL, wsaENOTSOCK)
}
