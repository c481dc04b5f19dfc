package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"slices"
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

// blanks are the characters between words. A line of --subscribe may hold a newline.
const blanks = " \t\n"

// parseLine reads a line. The params are JSON, or the arguments of call, with quotes as in
// a shell. Within an argument, JSON needs no more quotes: a={"b": "c d"}.
func parseLine(e *env, line string) (m messageLine, err error) {
	line = strings.TrimSpace(line)
	line, m.notification = strings.CutPrefix(line, "!")
	rest := ""
	if i := strings.IndexAny(line, blanks); i >= 0 {
		line, rest = line[:i], strings.TrimSpace(line[i:])
	}
	if m.method = line; m.method == "" {
		return m, errors.New("no method; want METHOD [PARAMS], or !METHOD [PARAMS] for a notification")
	}
	if err := checkMethod(m.method); err != nil {
		return m, err
	}
	args, err := lineArguments(rest)
	if err != nil {
		return m, err
	}
	if slices.Contains(args, "-") {
		return m, errors.New(`params: write "\"-\"" for a dash; stdin has the lines`)
	}
	m.params, err = parseParams(e, args)
	return m, err
}

// lineArguments splits the arguments of a line. An argument, or its value after NAME=, may
// be JSON with spaces and quotes.
func lineArguments(rest string) (args []string, err error) {
	for rest != "" {
		name := ""
		if n := nameOf(rest); n != "" {
			name = n + "="
		}
		arg, after, ok := cutJSON(rest[len(name):])
		if !ok {
			arg, after, err = cutWord(rest[len(name):])
		}
		if err != nil {
			return nil, err
		}
		args = append(args, name+arg)
		rest = strings.TrimLeft(after, blanks)
	}
	return args, nil
}

// cutJSON takes an object, array or string of JSON from the beginning of text. If text
// begins with an object or array that is no JSON, all of text is taken, for the error.
func cutJSON(text string) (value, after string, ok bool) {
	if text == "" || !strings.ContainsRune(`{["`, rune(text[0])) {
		return "", text, false
	}
	dec := json.NewDecoder(strings.NewReader(text))
	var raw json.RawMessage
	if dec.Decode(&raw) != nil {
		return text, "", text[0] != '"'
	}
	after = text[dec.InputOffset():]
	if after != "" && !strings.ContainsRune(blanks, rune(after[0])) {
		return text, "", text[0] != '"'
	}
	return string(raw), after, true
}

// cutWord takes a word from the beginning of text, as a shell would.
func cutWord(text string) (word, after string, err error) {
	var b strings.Builder
	quote, escaped := rune(0), false
	for i, r := range text {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' {
				b.WriteByte('\\')
			}
			b.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			b.WriteRune(r)
		case r == '\'' || r == '"':
			quote = r
		case strings.ContainsRune(blanks, r):
			return b.String(), text[i:], nil
		default:
			b.WriteRune(r)
		}
	}
	if quote != 0 || escaped {
		return "", "", errors.New("the text ends within quotes")
	}
	return b.String(), "", nil
}

// splitWords splits a command line into words as a shell does: quotes and backslashes keep
// spaces. Nothing else is special.
func splitWords(line string) (words []string, err error) {
	for line = strings.TrimLeft(line, blanks); line != ""; line = strings.TrimLeft(line, blanks) {
		var word string
		if word, line, err = cutWord(line); err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}

// readLines reads the lines of a batch. Blank lines, and lines that begin with #, are
// skipped.
func readLines(e *env, r io.Reader) (lines []messageLine, err error) {
	limited := &io.LimitedReader{R: r, N: maxInput + 1}
	scanner := bufio.NewScanner(limited)
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
	if limited.N == 0 {
		return nil, usagef("the lines have more than %d MiB; nothing was sent", maxInput>>20)
	}
	if len(lines) == 0 {
		return nil, usagef("no lines; want METHOD [PARAMS] on each line of stdin")
	}
	return lines, nil
}
