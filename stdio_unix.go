//go:build unix

package rpcx

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
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
