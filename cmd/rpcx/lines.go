package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// messageLine is a line of batch, or a value of --subscribe: METHOD [PARAMS], after an
// exclamation mark a notification.
type messageLine struct {
	number       int // of the line, from 1
	notification bool
	method       string
	params       json.RawMessage // nil for none
}

// parseLine reads a line. The params are JSON, or the arguments of call: quotes and
// backslashes keep spaces, as in a shell.
func parseLine(e *env, line string) (m messageLine, err error) {
	line = strings.TrimSpace(line)
	line, m.notification = strings.CutPrefix(line, "!")
	rest := ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		line, rest = line[:i], strings.TrimSpace(line[i:])
	}
	if m.method = line; m.method == "" {
		return m, errors.New("no method; want METHOD [PARAMS], or !METHOD [PARAMS] for a notification")
	}
	args := []string{rest}
	switch {
	case rest == "":
		return m, nil
	case strings.ContainsRune(`{["`, rune(rest[0])) && json.Valid([]byte(rest)):
	case strings.ContainsRune("{[", rune(rest[0])):
		_, err := checkJSON("params", []byte(rest))
		return m, err
	default:
		if args, err = splitWords(rest); err != nil {
			return m, err
		}
		for _, arg := range args {
			if arg == "-" { // stdin has the lines
				return m, errors.New(`params: write "\"-\"" for a dash; stdin has the lines`)
			}
		}
	}
	m.params, err = parseParams(e, args)
	return m, err
}

// readLines reads the lines of a batch. Blank lines, and lines that begin with #, are
// skipped.
func readLines(e *env, r io.Reader) (lines []messageLine, err error) {
	scanner := bufio.NewScanner(io.LimitReader(r, maxInput))
	scanner.Buffer(nil, maxInput)
	for number := 1; scanner.Scan(); number++ {
		text := strings.TrimSpace(scanner.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		m, err := parseLine(e, text)
		if err != nil {
			return nil, usagef("line %d: %w", number, err)
		}
		m.number = number
		lines = append(lines, m)
	}
	if err := scanner.Err(); err != nil {
		return nil, usagef("read the lines: %w", err)
	}
	if len(lines) == 0 {
		return nil, usagef("no lines; want METHOD [PARAMS] on each line of stdin")
	}
	return lines, nil
}
