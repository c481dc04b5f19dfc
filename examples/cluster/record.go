package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
)

// fileRecord is a recorder for a process of its own. Each line is written at once, so that
// it is there if the process is killed.
type fileRecord struct{ file *os.File }

// createRecord returns a record in a new file.
func createRecord(path string) (*fileRecord, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &fileRecord{file}, nil
}

// Started implements recorder. A line that cannot be written is missed by the account.
func (r *fileRecord) Started(n int) { fmt.Fprintf(r.file, "started %d\n", n) }

// Finished implements recorder.
func (r *fileRecord) Finished(n int) { fmt.Fprintf(r.file, "finished %d\n", n) }

func (r *fileRecord) close() { r.file.Close() }

// readRecords gives the oracle the records of the workers in folder.
func (l *load) readRecords(folder string) error {
	paths, err := filepath.Glob(filepath.Join(folder, "worker-*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := l.readRecord(path); err != nil {
			return err
		}
	}
	return nil
}

// readRecord gives the oracle the record of a worker.
func (l *load) readRecord(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		var what string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &what, &n); err != nil {
			return fmt.Errorf("%s: line %q: %w", path, lines.Text(), err)
		}
		switch what {
		case "started":
			l.log.Started(n)
		case "finished":
			l.log.Finished(n)
		}
	}
}
