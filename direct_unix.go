//go:build unix

package rpcx

import (
	"net"
	"syscall"
)

// directWriter writes to a socket as far as that takes bytes at once: it never
// waits. It is what lets a goroutine that has the only message send it itself.
type directWriter struct {
	raw syscall.RawConn
	buf []byte
	n   int
	try func(fd uintptr) bool // made once
}

// newDirectWriter returns nil if conn is no socket of the operating system.
func newDirectWriter(conn any) *directWriter {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn: // not what merely looks like one: TLS must not be bypassed
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	d := &directWriter{raw: raw}
	d.try = func(fd uintptr) bool {
		// An error is left for the writer to find: it writes the rest.
		if n, err := syscall.Write(int(fd), d.buf); err == nil {
			d.n = n
		}
		return true
	}
	return d
}

// write returns how many bytes were written, none if there was an error.
func (d *directWriter) write(buf []byte) int {
	d.buf, d.n = buf, 0
	_ = d.raw.Write(d.try)
	d.buf = nil
	return d.n
}
