//go:build !unix

package rpcx

import (
	"context"
	"net"
)

// listenUnix listens on a unix socket, where the system has any.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "unix", path)
}

// socket is for systems whose sockets can be used below package net.
type socket struct{}

func newSocket(any) *socket { return nil }

func (*socket) tryWrite([]byte) int            { panic("unreachable") }
func (*socket) readSome() ([]byte, int, error) { panic("unreachable") }
