//go:build unix

package rpcx_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestErrorsOfTheSystemThatPass(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EPERM, syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ETIMEDOUT,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
	} {
		for name, err := range acceptErrorsOf(errno) {
			t.Run(errno.Error()+", "+name, func(t *testing.T) { serveSurvives(t, err) })
		}
	}
}

func TestErrorsOfTheSystemThatEndServe(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EFAULT} {
		for name, err := range acceptErrorsOf(errno) {
			t.Run(errno.Error()+", "+name, func(t *testing.T) { serveEnds(t, err) })
		}
	}
	t.Run("with one that says that it passes", func(t *testing.T) { serveEnds(t, errors.Join(passing{}, syscall.EBADF)) })
}

// acceptErrorsOf returns the errors that Accept may have for one of the system.
func acceptErrorsOf(errno syscall.Errno) map[string]error {
	op := &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)}
	return map[string]error{
		"of package net": op,
		"wrapped":        fmt.Errorf("listener 1: %w", op),
		"one of several": errors.Join(errors.New("a log entry failed"), op),
		"as it is":       errno,
	}
}
