//go:build unix

package rpcx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

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
