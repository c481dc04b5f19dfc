//go:build !unix

package rpcx

// socket is for systems whose sockets can be used below package net.
type socket struct{}

func newSocket(any) *socket { return nil }

func (*socket) tryWrite([]byte) int            { panic("unreachable") }
func (*socket) readSome() ([]byte, int, error) { panic("unreachable") }
