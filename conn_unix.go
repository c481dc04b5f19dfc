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
	"sync/atomic"
	"syscall"
	"time"

	"example.com/rpcx/internal/folderlock"
	"example.com/rpcx/internal/sockstate"
)

// standardOutput returns a writer to a duplicate of stdout. If the reader is gone, a write
// to descriptor 1 or 2 makes the Go runtime raise SIGPIPE and end the program. A write to
// any other descriptor returns EPIPE.
func standardOutput(stdout *os.File) io.WriteCloser {
	out := &stdoutWriter{stdout: stdout}
	if out.duplicate, out.duplicateErr = duplicateFile(stdout); out.duplicateErr != nil {
		out.duplicateErr = fmt.Errorf("duplicate standard output: %w", out.duplicateErr)
	}
	return out
}

// stdoutWriter writes to standard output through a duplicate descriptor.
type stdoutWriter struct {
	stdout, duplicate *os.File
	duplicateErr      error // reason for a missing duplicate
}

func (o *stdoutWriter) Write(p []byte) (int, error) {
	if o.duplicateErr != nil {
		return 0, o.duplicateErr
	}
	return o.duplicate.Write(p)
}

// SyscallConn implements [syscall.Conn], so that the session can check whether the reader
// is gone, and whether there is room.
func (o *stdoutWriter) SyscallConn() (syscall.RawConn, error) {
	if o.duplicateErr != nil {
		return nil, o.duplicateErr
	}
	return o.duplicate.SyscallConn()
}

// Close closes both files, since the reader sees the end of the output only then.
func (o *stdoutWriter) Close() error {
	if o.duplicateErr != nil {
		return o.stdout.Close()
	}
	return errors.Join(o.duplicate.Close(), o.stdout.Close())
}

// duplicateFile returns a file with a duplicate of f's descriptor.
func duplicateFile(f *os.File) (*os.File, error) {
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

// duplicateDescriptor returns a duplicate of fd that child processes do not inherit. Its
// number is above 2, even if the program has closed a descriptor from 0 to 2.
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

// leadProcessGroup makes the program lead a process group, unless cmd.SysProcAttr is set.
// It reports whether the program will lead a group.
func leadProcessGroup(cmd *exec.Cmd) bool {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	return cmd.SysProcAttr.Setsid || cmd.SysProcAttr.Setpgid && cmd.SysProcAttr.Pgid == 0
}

// signalProcessGroup sends a signal to each process of a group. If the group is empty, the
// result is nil.
func signalProcessGroup(group int, sig os.Signal) error {
	err := syscall.Kill(-group, sig.(syscall.Signal))
	if err == syscall.ESRCH {
		return nil
	}
	return os.NewSyscallError("kill", err)
}

// isProcessGroupRunning reports whether the group has a running process that this program
// may signal. An ended process stays in the group until its parent has collected the exit
// status. In a container the parent may never do so, so on Linux ended processes are not
// counted.
func isProcessGroupRunning(group int) bool {
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
			return true // not a file of Linux
		}
		if state := fields[0][0]; state != 'Z' && state != 'X' && string(fields[2]) == strconv.Itoa(group) {
			return true
		}
	}
	return false
}

func init() {
	// On Linux, accept(2) also returns network errors of the new connection. The resources
	// missing in ENOMEM and similar errors may become free later.
	temporaryAcceptErrors = append(temporaryAcceptErrors, sockstate.TemporaryAcceptErrors...)
	temporaryAcceptErrors = append(temporaryAcceptErrors,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EPERM, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.ETIMEDOUT,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
	hangUpErrors = append(hangUpErrors, syscall.EPIPE, syscall.ECONNRESET)
	lostListenerErrors = append(lostListenerErrors, syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK)
}

// socket reads and writes a socket of the operating system below package net. It can do two
// things that an io.ReadWriter cannot. A write takes only as many bytes as fit at once, so
// a goroutine with the only message never waits. A read takes a buffer only when there is
// input. Reading and writing each have a single user at a time.
type socket struct {
	raw      syscall.RawConn
	deadline interface{ SetReadDeadline(time.Time) error }

	interrupted atomic.Bool // between interruptRead and allowRead

	output       []byte
	writtenCount int
	writeFn      func(fd uintptr) bool // set by newSocket

	input     []byte
	readCount int
	readErr   error
	readFn    func(fd uintptr) bool // set by newSocket
}

// newSocket returns the socket under conn, or nil if conn is no TCP or unix connection.
func newSocket(conn any) *socket {
	conn = sameBytesConn(conn)
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn: // no wrapping types: TLS must not be bypassed
	default:
		return nil
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw, deadline: conn.(net.Conn)}
	s.writeFn = func(fd uintptr) bool {
		// The writer finds an error later, when writing the remaining bytes.
		if n, err := syscall.Write(int(fd), s.output); err == nil {
			s.writtenCount = n
		}
		return true
	}
	s.readFn = func(fd uintptr) bool {
		s.input = getReadBuffer(readBuffer)
		for {
			s.readCount, s.readErr = syscall.Read(int(fd), s.input)
			switch s.readErr {
			case syscall.EINTR:
				continue
			case syscall.EAGAIN:
				recycleReadBuffer(s.input)
				s.input = nil
				return false // Read calls readFn again when there is input
			}
			return true
		}
	}
	return s
}

// tryWrite returns how many bytes of buf were written, 0 after an error.
func (s *socket) tryWrite(buf []byte) int {
	s.output, s.writtenCount = buf, 0
	_ = s.raw.Write(s.writeFn)
	s.output = nil
	return s.writtenCount
}

// readSome waits for input, and returns a buffer with n bytes of input. Callers must give
// buf back with recycleReadBuffer.
func (s *socket) readSome() (buf []byte, n int, err error) {
	s.readCount, s.readErr = 0, nil
	err = s.raw.Read(s.readFn)
	buf, n = s.input, max(s.readCount, 0)
	s.input = nil
	switch {
	case s.isInterruption(err):
		err = errReadInterrupted
	case err != nil:
	case s.readErr != nil:
		err = os.NewSyscallError("read", s.readErr)
	case n == 0:
		err = io.EOF
	}
	return buf, n, err
}

// interruptRead makes readSome return errReadInterrupted, until allowRead. An error means
// that the socket is closed.
func (s *socket) interruptRead() {
	s.interrupted.Store(true)
	_ = s.deadline.SetReadDeadline(time.Unix(1, 0))
}

// allowRead reverts interruptRead.
func (s *socket) allowRead() {
	s.interrupted.Store(false)
	_ = s.deadline.SetReadDeadline(time.Time{})
}

// isInterruption reports whether err is the error of a read that interruptRead has ended.
// The user may have set a deadline, too.
func (s *socket) isInterruption(err error) bool {
	return s.interrupted.Load() && errors.Is(err, os.ErrDeadlineExceeded)
}

// unixListener is a [net.UnixListener] whose Close removes the socket's file only if the
// file still belongs to the listener.
type unixListener struct {
	*net.UnixListener
	path      string      // absolute, since the program may change its directory
	ownFile   os.FileInfo // file made by Listen
	unlink    bool
	closeOnce sync.Once
}

// SetUnlinkOnClose sets whether Close removes the file; the default is true.
func (l *unixListener) SetUnlinkOnClose(unlink bool) { l.unlink = unlink }

// Close removes the file first, and then stops listening. In the other order, a program
// looking for an abandoned file could replace the file in between.
func (l *unixListener) Close() error {
	l.closeOnce.Do(func() {
		if l.unlink {
			_ = removeOwnSocket(l.path, l.ownFile) // the file was replaced, or cannot be removed
		}
	})
	return l.UnixListener.Close()
}

// maxBindTime is the time allowed between bind, which makes a socket's file, and listen. In
// between, the file looks abandoned.
const maxBindTime = 250 * time.Millisecond

// listenUnix listens on a unix socket, and takes over an abandoned socket file.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	began := time.Now()
	for attempt := 1; ; attempt++ {
		l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
		if err == nil {
			return wrapUnixListener(l.(*net.UnixListener), path), nil
		}
		if path[0] == '@' || !errors.Is(err, syscall.EADDRINUSE) || attempt == 100 {
			return nil, err
		}
		file, fileErr := os.Lstat(path)
		switch {
		case errors.Is(fileErr, fs.ErrNotExist):
			continue // the owner has just removed the file
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
		// On Linux, only a socket without a listener refuses. Elsewhere a socket with a
		// full accept queue refuses too, but hardly for long.
		young := time.Since(file.ModTime()) < maxBindTime || runtime.GOOS != "linux"
		if young && time.Since(began) < maxBindTime {
			select {
			case <-time.After(maxBindTime / 25):
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
			}
		}
		// Without the lock, removeOwnSocket is safe except in a race of three programs.
		unlock := folderlock.Lock(filepath.Dir(path), maxBindTime)
		removeErr := removeOwnSocket(path, file)
		unlock()
		switch {
		case removeErr == nil, errors.Is(removeErr, fs.ErrNotExist), removeErr == errFileReplaced:
		default:
			return nil, fmt.Errorf("%w: nobody listens there, but the file cannot be removed: %w", err, removeErr)
		}
	}
}

// wrapUnixListener returns l with a Close that knows l's file. Package net handles a
// listener without a file.
func wrapUnixListener(l *net.UnixListener, path string) net.Listener {
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
	return &unixListener{UnixListener: l, path: path, ownFile: file, unlink: true}
}

// errFileReplaced is the error of removeOwnSocket for a replaced file.
var errFileReplaced = errors.New("another file has taken its place")

// removeOwnSocket removes the socket at path if own describes the file. No system call does
// both. So removeOwnSocket renames the file, checks again, and puts back a file that has
// replaced the socket. In the meantime, a third program could listen at path, so programs
// that take over a file lock its folder.
func removeOwnSocket(path string, own os.FileInfo) error {
	if file, err := os.Lstat(path); err != nil {
		return err
	} else if !isSameSocket(file, own) {
		return errFileReplaced
	}
	aside := fmt.Sprintf("%s.%016x", path, rand.Uint64())
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if file, err := os.Lstat(aside); err == nil && isSameSocket(file, own) {
		return os.Remove(aside)
	}
	// Unlike a rename, a link does not replace a new file at path.
	err := os.Link(aside, path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		_ = os.Rename(aside, path) // the system has no links of sockets
	} else {
		_ = os.Remove(aside)
	}
	return errFileReplaced
}

// isSameSocket reports whether a and b describe the same file. The number of a removed file
// is reused at once, so the time counts too.
func isSameSocket(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}
