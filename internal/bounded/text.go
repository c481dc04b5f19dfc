// Package bounded bounds the size and rate of peers' contributions to texts and logs.
package bounded

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxExcerpt is the maximum size of an excerpt of a peer's text, in bytes.
const MaxExcerpt = 64

// MaxText is the maximum size of the visible part of an error's text, in bytes.
const MaxText = 512

// Excerpt returns a peer's text for use in errors and logs. A text of up to MaxExcerpt
// bytes stays whole; a longer text becomes its beginning and its length.
func Excerpt[T ~string | ~[]byte](text T) string { return Cut(text, MaxExcerpt) }

// Text returns the text of an error that may contain a peer's text. A text of up to
// MaxText bytes stays whole; a longer text becomes its beginning and its length.
// Unprintable characters become escape sequences as in a Go string.
func Text(text string) string { return makePrintable(Cut(text, MaxText)) }

// Error returns err for use in logs or for wrapping. If [Text] changes the text of err,
// the result wraps err and has the changed text. A [slog.LogValuer] is returned
// unchanged.
func Error(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(slog.LogValuer); ok {
		return err
	}
	text := err.Error()
	shown := Text(text)
	if shown == text {
		return err
	}
	return &textError{shown, err}
}

// textError is an error with a replaced text.
type textError struct {
	text string
	err  error
}

func (e *textError) Error() string { return e.text }
func (e *textError) Unwrap() error { return e.err }

// Cut returns at most limit bytes of text, in whole characters. If text is longer, the
// result also contains the length of text.
func Cut[T ~string | ~[]byte](text T, limit int) string {
	if len(text) <= limit {
		return string(text)
	}
	n := limit
	for n > limit-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	if !utf8.RuneStart(text[n]) {
		n = limit // the text is not UTF-8
	}
	return fmt.Sprintf("%s... (%d bytes)", string(text[:n]), len(text))
}

// makePrintable returns text with escape sequences for unprintable characters.
func makePrintable(text string) string {
	for i, r := range text {
		if !isPrintable(r, text[i:]) {
			return escapeFrom(text, i)
		}
	}
	return text
}

// escapeFrom returns text with escape sequences for unprintable characters. Every
// character before start must be printable.
func escapeFrom(text string, start int) string {
	var b strings.Builder
	b.WriteString(text[:start])
	for rest := text[start:]; rest != ""; {
		r, n := utf8.DecodeRuneInString(rest)
		if isPrintable(r, rest) {
			b.WriteString(rest[:n])
		} else {
			quoted := strconv.Quote(rest[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		rest = rest[n:]
	}
	return b.String()
}

// isPrintable reports whether r, the first character of text, is printed unchanged.
func isPrintable(r rune, text string) bool {
	if r == utf8.RuneError {
		return strings.HasPrefix(text, string(utf8.RuneError)) // no invalid byte
	}
	return strconv.IsPrint(r)
}
