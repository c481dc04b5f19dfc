// Package bounded keeps within bounds what peers put into texts and logs.
package bounded

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxExcerpt is how many bytes of a peer's text an excerpt has at most.
const MaxExcerpt = 64

// MaxText is how many bytes of an error's text are shown at most.
const MaxText = 512

// Excerpt returns a text of a peer as errors and logs repeat it: the whole of a short
// text, the beginning of a long one and its length.
func Excerpt[T ~string | ~[]byte](text T) string { return Cut(text, MaxExcerpt) }

// Text returns the text of an error that may have a peer's text in it: the whole of a
// short text, the beginning of a long one and its length. Characters that cannot be
// printed are written as in a Go string.
func Text(text string) string { return makePrintable(Cut(text, MaxText)) }

// Error returns an error for logs and for other errors to wrap: err itself, or if its
// text is not what [Text] shows, an error that wraps err and has that text. An error
// that is a [slog.LogValuer] stays itself.
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

// textError is an error with another text.
type textError struct {
	text string
	err  error
}

func (e *textError) Error() string { return e.text }
func (e *textError) Unwrap() error { return e.err }

// Cut returns at most limit bytes of text, whole characters, and the length of the
// text if that is longer.
func Cut[T ~string | ~[]byte](text T, limit int) string {
	if len(text) <= limit {
		return string(text)
	}
	n := limit
	for n > limit-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	if !utf8.RuneStart(text[n]) {
		n = limit // the text is no UTF-8
	}
	return fmt.Sprintf("%s... (%d bytes)", string(text[:n]), len(text))
}

// makePrintable returns text with the characters that cannot be printed as escape sequences.
func makePrintable(text string) string {
	for i, r := range text {
		if !isPrintable(r, text[i:]) {
			return escapeFrom(text, i)
		}
	}
	return text
}

// escapeFrom returns text with escape sequences, of which there are none before start.
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

// isPrintable reports whether r, with which text begins, is printed as it is.
func isPrintable(r rune, text string) bool {
	if r == utf8.RuneError {
		return strings.HasPrefix(text, string(utf8.RuneError)) // and no invalid byte
	}
	return strconv.IsPrint(r)
}
