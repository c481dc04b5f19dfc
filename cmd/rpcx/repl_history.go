package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// The bounds of the history file. Longer lines are not kept.
const (
	maxHistoryLines = 1000
	maxHistoryLine  = 4096
	maxHistoryFile  = maxHistoryLines * maxHistoryLine
)

// history is the file of the lines that were typed, the latest last. A nil history keeps
// nothing.
type history struct {
	path string
	past []string // as it was at the start
}

// openHistory reads the history file. A file that cannot be used is no failure of the repl.
func (r *repl) openHistory(e *env) {
	path := historyPath(e)
	if r.noHistory || path == "" {
		return
	}
	h, err := readHistory(path)
	if err != nil {
		notice(e, "no history: %s", err)
		return
	}
	r.history = h
}

// historyPath returns the path of the history file, or "" if there is no home directory.
func historyPath(e *env) string {
	state := e.getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // the specification says so
		home := e.getenv("HOME")
		if home == "" {
			return ""
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "rpcx", "history")
}

// readHistory reads the file, and shortens a file with too many lines.
func readHistory(path string) (*history, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := openPrivate(path)
	if err != nil {
		return nil, err
	}
	f.Close()
	h := &history{path: path}
	if f, err = os.Open(path); err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(max(0, size-maxHistoryFile), io.SeekStart)
	}
	if err != nil {
		return nil, err
	}
	scanner := bufio.NewScanner(io.LimitReader(f, maxHistoryFile))
	scanner.Buffer(nil, maxHistoryFile)
	for n := 0; scanner.Scan(); n++ {
		if line := scanner.Text(); fitsHistory(line) && (n > 0 || size <= maxHistoryFile) {
			h.past = append(h.past, line)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	if len(h.past) <= maxHistoryLines {
		return h, nil
	}
	h.past = h.past[len(h.past)-maxHistoryLines:]
	return h, h.replace()
}

// replace writes the lines into a new file, and puts it in place of the old one.
func (h *history) replace() error {
	f, err := os.CreateTemp(filepath.Dir(h.path), "history-*") // its mode is 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(h.past, "\n") + "\n")
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), h.path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// lines returns the lines that were in the file at the start.
func (h *history) lines() []string {
	if h == nil {
		return nil
	}
	return h.past
}

// add appends a line to the file. The file is opened each time: another rpcx may have
// replaced it.
func (h *history) add(line string) error {
	f, err := openPrivate(h.path)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// fitsHistory reports whether a line may be in the history. Control characters would act on
// the terminal when the line is brought back.
func fitsHistory(line string) bool {
	return line != "" && len(line) <= maxHistoryLine && utf8.ValidString(line) && !strings.ContainsFunc(line, isControlOrTab)
}

func isControlOrTab(r rune) bool { return r == '\t' || isControl(r) && r != '\u200d' }

// remember keeps a line for Up, and in the history file unless it has a secret.
func (r *repl) remember(line string) {
	line = strings.TrimRight(strings.NewReplacer("\n", " ", "\t", " ").Replace(line), " ")
	if strings.HasPrefix(line, " ") || r.conn.redact(line) != line || !fitsHistory(line) {
		r.input.remember("")
		return
	}
	r.input.remember(line)
	if r.history == nil {
		return
	}
	if err := r.history.add(line); err != nil {
		notice(r.e, "the history is not kept: %s", err)
		r.history = nil
	}
}
