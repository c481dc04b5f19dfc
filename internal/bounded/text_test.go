package bounded

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                         {"", ""},
		"a short text":                    {"a\nb", "a\nb"},
		"as much as there may be":         {x(64), x(64)},
		"one byte more":                   {x(65), x(64) + "... (65 bytes)"},
		"a long text":                     {x(900_000), x(64) + "... (900000 bytes)"},
		"a character across the end":      {x(63) + "é" + x(9), x(63) + "... (74 bytes)"},
		"a long character across the end": {x(61) + "😀" + x(9), x(61) + "... (74 bytes)"},
		"a character that just fits":      {x(60) + "😀" + x(9), x(60) + "😀... (73 bytes)"},
		"no UTF-8":                        {strings.Repeat("\x80", 100), strings.Repeat("\x80", 64) + "... (100 bytes)"},
	} {
		if got := Excerpt(c.text); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if got := Excerpt([]byte(c.text)); got != c.want {
			t.Errorf("%s, as bytes: got %q, want %q", name, got, c.want)
		}
	}
}

func TestText(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"plain":              {`no "x" in C:\dir`, `no "x" in C:\dir`},
		"other scripts":      {"naïve 漢字 😀", "naïve 漢字 😀"},
		"control characters": {"a\nb\x1b[31mc\x00\u0085", `a\nb\x1b[31mc\x00\u0085`},
		"a change of order":  {"a\u202eb", `a\u202eb`},
		"no UTF-8":           {"a\xffb\xe6\xbc", `a\xffb\xe6\xbc`},
		"U+FFFD":             {"a\ufffdb\n", "a\ufffdb\\n"},
		"a long text":        {strings.Repeat("x", 480_000), strings.Repeat("x", 512) + "... (480000 bytes)"},
		"many of them":       {strings.Repeat("\x01", 1000), strings.Repeat(`\x01`, 512) + "... (1000 bytes)"},
	} {
		if got := Text(c.text); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestTextOfWhatIsPlainTakesNoMemory(t *testing.T) {
	text := strings.Repeat("plain ", 80)
	if n := testing.AllocsPerRun(100, func() { Text(text) }); n != 0 {
		t.Errorf("got %v allocations", n)
	}
}

type valuer struct{ error }

func (valuer) LogValue() slog.Value { return slog.StringValue("own") }

func TestError(t *testing.T) {
	if Error(nil) != nil {
		t.Error("nil is an error")
	}
	if got := Error(io.EOF); got != io.EOF {
		t.Errorf("got %v, want the error itself", got)
	}
	long := errors.Join(io.EOF, errors.New(strings.Repeat("x", 1000)))
	got := Error(long)
	if want := `EOF\n` + strings.Repeat("x", 508) + "... (1004 bytes)"; got.Error() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(got, io.EOF) {
		t.Error("the error that is wrapped does not match")
	}
	if own := (valuer{long}); Error(own) != error(own) {
		t.Error("an error that says what is logged of it is replaced")
	}
}
