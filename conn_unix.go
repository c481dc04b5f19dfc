//go:build unix

package rpcx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// standardOutput returns a writer to a duplicate of stdout. If the reader of stdout
// is gone, a write to descriptor 1 or 2 has the Go runtime raise SIGPIPE, which ends
// the program; a write to any other descriptor returns EPIPE.
func standardOutput(stdout *os.File) io.WriteCloser {
	out := &output{stdout: stdout}
	if out.duplicate, out.err = duplicate(stdout); out.err != nil {
		out.err = fmt.Errorf("duplicate standard output: %w", out.err)
	}
	return out
}

// output is standard output, written through a duplicate.
type output struct {
	stdout, duplicate *os.File
	err               error // why there is no duplicate
}

func (o *output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	return o.duplicate.Write(p)
}

// SyscallConn implements [syscall.Conn], so that the session can ask whether the reader
// is gone, and whether there is room.
func (o *output) SyscallConn() (syscall.RawConn, error) {
	if o.err != nil {
		return nil, o.err
	}
	return o.duplicate.SyscallConn()
}

// Close closes both files, since the reader sees no end of the output before.
func (o *output) Close() error {
	if o.err != nil {
		return o.stdout.Close()
	}
	return errors.Join(o.duplicate.Close(), o.stdout.Close())
}

// duplicate returns a file with a duplicate of f's descriptor.
func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	err = conn.Control(func(original uintptr) { fd, dupErr = duplicateDescriptor(int(original)) })
	if err = errors.Join(err, dupErr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// duplicateDescriptor returns a duplicate of fd that programs started by this one do
// not inherit. Its number is above 2, even if the program has closed one of the
// descriptors up to that.
func duplicateDescriptor(fd int) (int, error) {
	// No program may be started between Dup and CloseOnExec.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var low []int
	defer func() {
		for _, fd := range low {
			_ = syscall.Close(fd)
		}
	}()
	for {
		dup, err := syscall.Dup(fd)
		if err != nil {
			return 0, os.NewSyscallError("dup", err)
		}
		if dup > syscall.Stderr {
			syscall.CloseOnExec(dup)
			return dup, nil
		}
		low = append(low, dup)
	}
}

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

// unixListener is a [net.UnixListener] whose Close removes the socket's file only if
// the file is still the listener's own.
type unixListener struct {
	*net.UnixListener
	path   string      // absolute: the program may change its directory
	file   os.FileInfo // as Listen made it
	unlink bool
	once   sync.Once
}

// SetUnlinkOnClose sets whether Close removes the file, as it does by default.
func (l *unixListener) SetUnlinkOnClose(unlink bool) { l.unlink = unlink }

// Close removes the file before it stops listening. After that, whoever looks for a
// file to take over could find and replace this one.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if l.unlink {
			_ = removeSocket(l.path, l.file) // not own any more, or not to be removed
		}
	})
	return l.UnixListener.Close()
}

// bindTime is how long a program may take from the bind that makes a socket's file to
// the listen. Until then, the file looks like one that nobody listens on.
const bindTime = 250 * time.Millisecond

// listenUnix listens on a unix socket, and takes over the file of one on which nobody
// listens any more.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	began := time.Now()
	for attempt := 1; ; attempt++ {
		l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
		if err == nil {
			return ownSocket(l.(*net.UnixListener), path), nil
		}
		if path[0] == '@' || !errors.Is(err, syscall.EADDRINUSE) || attempt == 100 {
			return nil, err
		}
		file, fileErr := os.Lstat(path)
		switch {
		case errors.Is(fileErr, fs.ErrNotExist):
			continue // its owner has just removed it
		case fileErr != nil:
			return nil, err
		case file.Mode().Type() != fs.ModeSocket:
			return nil, fmt.Errorf("%w: %s is no socket", err, path)
		}
		conn, dialErr := new(net.Dialer).DialContext(ctx, "unix", path)
		switch {
		case dialErr == nil:
			conn.Close()
			return nil, fmt.Errorf("%w: somebody listens there", err)
		case errors.Is(dialErr, fs.ErrNotExist):
			continue
		case !errors.Is(dialErr, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("%w: whether somebody listens there is not known: %w", err, dialErr)
		}
		// On Linux, only a socket on which nobody listens refuses. Elsewhere one with
		// very many who wait to be accepted does, too, but hardly for long.
		young := time.Since(file.ModTime()) < bindTime || runtime.GOOS != "linux"
		if young && time.Since(began) < bindTime {
			select {
			case <-time.After(bindTime / 25):
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
			}
		}
		unlock := lockFolder(filepath.Dir(path))
		removeErr := removeSocket(path, file)
		unlock()
		switch {
		case removeErr == nil, errors.Is(removeErr, fs.ErrNotExist), removeErr == errNotOwn:
		default:
			return nil, fmt.Errorf("%w: nobody listens there, but the file cannot be removed: %w", err, removeErr)
		}
	}
}

// ownSocket returns l with a Close that knows l's file. What has no file is left to
// package net.
func ownSocket(l *net.UnixListener, path string) net.Listener {
	if path[0] == '@' {
		return l
	}
	file, err := os.Lstat(path)
	if err != nil {
		return l
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	l.SetUnlinkOnClose(false)
	return &unixListener{UnixListener: l, path: path, file: file, unlink: true}
}

// errNotOwn is removeSocket's for a file that somebody has replaced.
var errNotOwn = errors.New("another file has taken its place")

// removeSocket removes the socket at path if it is the one that own describes. There
// is no system call for both: the file is renamed, looked at again, and, if somebody
// has replaced it in between, put back. While it is away, a third program could
// listen there: so those who take a file over lock its folder.
func removeSocket(path string, own os.FileInfo) error {
	if file, err := os.Lstat(path); err != nil {
		return err
	} else if !isSameSocket(file, own) {
		return errNotOwn
	}
	aside := fmt.Sprintf("%s.%016x", path, rand.Uint64())
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if file, err := os.Lstat(aside); err == nil && isSameSocket(file, own) {
		return os.Remove(aside)
	}
	// A link, unlike a new name, replaces nothing that has come to path meanwhile.
	err := os.Link(aside, path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		_ = os.Rename(aside, path) // where there are no links of sockets
	} else {
		_ = os.Remove(aside)
	}
	return errNotOwn
}

// isSameSocket reports whether two descriptions are of one file. The number of a file
// that was removed is given to the next one at once, so the time counts, too.
func isSameSocket(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}
