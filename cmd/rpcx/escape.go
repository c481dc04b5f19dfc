package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
)

// escapeControl returns text with control characters as \u001b, except newlines and tabs.
// Characters that change the direction of text count as control characters, and so do
// bytes that are no UTF-8. JSON stays the same JSON. A terminal obeys some of these, whoever
// has sent them.
func escapeControl(text string) string {
	if strings.IndexFunc(text, isControl) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !isControl(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, "\\u%04x\\u%04x", high, low)
		default:
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}

func isControl(r rune) bool {
	if r == '\n' || r == '\t' {
		return false
	}
	// Cc: C0, DEL and C1. Cf: directions, joiners, tags, soft hyphens. Zl and Zp: lines.
	// A joiner between letters or emoji is harmless, but a reader cannot see it.
	return r == unicode.ReplacementChar || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// escapeFor returns text for a terminal, or unchanged for something else.
func escapeFor(terminal bool, text string) string {
	if terminal {
		return escapeControl(text)
	}
	return text
}

// logWriter writes lines of a log to stderr, without secrets, and escaped for a terminal.
type logWriter struct {
	e *env
	c *connFlags
}

func (w *logWriter) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.e.stderr, escapeFor(w.e.stderrTTY, w.c.redact(string(p)))); err != nil {
		return 0, err
	}
	return len(p), nil
}
