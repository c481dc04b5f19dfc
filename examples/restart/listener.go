//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"example.com/rpcx"
)

// Variables of the environment. The first two are systemd's. The third takes the place of
// the second, since a process does not know the number of its successor beforehand.
const (
	listenFDs       = "LISTEN_FDS"
	listenPID       = "LISTEN_PID"
	listenParentPID = "LISTEN_PARENT_PID"
)

// startTimeout bounds the time until a successor serves.
const startTimeout = 10 * time.Second

// Descriptors 0 to 2 are the standard ones; those that are handed over follow.
const (
	listenerFD = 3
	readyFD    = 4 // closed by a successor that serves; only from a predecessor
)

// listen returns the listener that systemd or a predecessor has handed over, or a new one.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	ours := os.Getenv(listenPID) == strconv.Itoa(os.Getpid()) || hasPredecessor()
	switch n := os.Getenv(listenFDs); {
	case n == "" || !ours: // the variables may be those of a parent
		return rpcx.Listen(ctx, addr, nil)
	case n != "1":
		return nil, fmt.Errorf("%s listeners were handed over: give the socket unit one ListenStream", n)
	}
	file := os.NewFile(listenerFD, "listener")
	defer file.Close() // FileListener makes a duplicate
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("take the listener over: %w", err)
	}
	return l, nil
}

// hasPredecessor reports whether this process was started by startSuccessor.
func hasPredecessor() bool {
	return os.Getenv(listenParentPID) == strconv.Itoa(os.Getppid())
}

// reportReady tells the predecessor, if there is one, that this process serves.
func reportReady() error {
	if !hasPredecessor() {
		return nil
	}
	ready := os.NewFile(readyFD, "ready")
	_, err := ready.Write([]byte{1})
	return errors.Join(err, ready.Close())
}

// startSuccessor starts the program anew with the listener l, and waits until it serves.
func startSuccessor(l net.Listener) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	listener, err := duplicate(l)
	if err != nil {
		return err
	}
	defer listener.Close()
	ready, started, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), listenFDs+"=1", listenPID+"=", listenParentPID+"="+strconv.Itoa(os.Getpid()))
	cmd.ExtraFiles = []*os.File{listener, started} // descriptors 3 and 4
	err = cmd.Start()
	started.Close()
	if err != nil {
		return fmt.Errorf("start the successor: %w", err)
	}
	_ = ready.SetReadDeadline(time.Now().Add(startTimeout))
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("the successor does not serve (%w): %w", err, cmd.Wait())
	}
	if unix, ok := l.(interface{ SetUnlinkOnClose(bool) }); ok {
		unix.SetUnlinkOnClose(false) // the successor needs the file of the socket
	}
	return cmd.Process.Release()
}

// duplicate returns a file for a child process. The method File of a listener would do, if
// a child did not make its result, and so l itself, blocking: then nothing ends an Accept.
func duplicate(l net.Listener) (file *os.File, err error) {
	conn, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	failed := conn.Control(func(fd uintptr) {
		syscall.ForkLock.RLock() // until the duplicate has its flag
		defer syscall.ForkLock.RUnlock()
		var copied int
		if copied, err = syscall.Dup(int(fd)); err == nil {
			syscall.CloseOnExec(copied)
			file = os.NewFile(uintptr(copied), "listener")
		}
	})
	return file, errors.Join(failed, err)
}
