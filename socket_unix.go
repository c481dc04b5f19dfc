//go:build unix

package rpcx

import (
	"io"
	"net"
	"os"
	"syscall"
)

func init() {
	// Linux has accept(2) return network errors of the new connection, too. What
	// ENOMEM and the like lack may be there again later.
	acceptErrors = append(acceptErrors,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EPERM, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.ETIMEDOUT,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
	hangUps = append(hangUps, syscall.EPIPE, syscall.ECONNRESET)
	listenerErrors = append(listenerErrors, syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK)
}

// socket reads and writes a socket of the operating system below package net,
// for two things that an io.ReadWriter cannot do: to write only as much as goes
// at once, so that a goroutine that has the only message can send it itself
// and never waits, and to have a buffer to read into only when there is something
// to read. Reading and writing each have one user at a time.
type socket struct {
	raw syscall.RawConn

	out     []byte
	written int
	write1  func(fd uintptr) bool // made once

	in      []byte
	read    int
	readErr error
	read1   func(fd uintptr) bool // made once
}

// newSocket returns nil if conn is no such socket.
func newSocket(conn any) *socket {
	for tunnel, ok := conn.(*SOCKSConn); ok; tunnel, ok = conn.(*SOCKSConn) {
		conn = tunnel.Conn // which carries the same bytes
	}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn: // not what has one inside: TLS must not be bypassed
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.write1 = func(fd uintptr) bool {
		// An error is left to be found by the writer, who writes the rest.
		if n, err := syscall.Write(int(fd), s.out); err == nil {
			s.written = n
		}
		return true
	}
	s.read1 = func(fd uintptr) bool {
		s.in = takeBuffer(readBuffer)
		for {
			s.read, s.readErr = syscall.Read(int(fd), s.in)
			switch s.readErr {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				giveBuffer(s.in)
				s.in = nil
				return false // to be called again when there is something to read
			}
			return true
		}
	}
	return s
}

// tryWrite returns how many bytes of buf were written, none if there was an error.
func (s *socket) tryWrite(buf []byte) int {
	s.out, s.written = buf, 0
	_ = s.raw.Write(s.write1)
	s.out = nil
	return s.written
}

// readSome waits until there is something to read, and returns it in a buffer
// that is to be given back with giveBuffer.
func (s *socket) readSome() (buf []byte, n int, err error) {
	s.read, s.readErr = 0, nil
	err = s.raw.Read(s.read1)
	buf, n = s.in, max(s.read, 0)
	s.in = nil
	switch {
	case err != nil:
	case s.readErr != nil:
		err = os.NewSyscallError("read", s.readErr)
	case n == 0:
		err = io.EOF
	}
	return buf, n, err
}
