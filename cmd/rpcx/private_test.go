//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A FIFO without a reader holds up nobody. A link is followed, and its target is private.
func TestPrivateFilesOfOtherKinds(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openPrivate(fifo); err == nil || !strings.Contains(err.Error(), fifo+" is a FIFO") {
		t.Error(err)
	}
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	f, err := openPrivate(link)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	checkPrivate(t, target, 0o600)
}
