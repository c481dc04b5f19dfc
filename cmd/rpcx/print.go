package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/itchyny/gojq"
)

// printer prints values in the form of --output. It is not for several goroutines at once.
type printer struct {
	w        io.Writer
	form     string
	colours  bool
	terminal bool // control characters are escaped
	filter   *gojq.Code
}

// printer returns the printer for stdout. A bad filter is a usage error.
func (o *outputFlags) printer(e *env) (*printer, error) {
	p := &printer{w: e.stdout, form: o.form, terminal: e.stdoutTTY, colours: o.coloured(e, e.stdoutTTY)}
	if o.jq == "" {
		return p, nil
	}
	query, err := gojq.Parse(o.jq)
	if err != nil {
		if bad, ok := err.(*gojq.ParseError); ok {
			return nil, usagef("--jq: %w\n%s", err, markPlace(o.jq, bad.Offset-1))
		}
		return nil, usagef("--jq: %w", err)
	}
	if p.filter, err = gojq.Compile(query); err != nil {
		return nil, usagef("--jq: %w", err)
	}
	return p, nil
}

// coloured reports whether output to a file is coloured.
func (o *outputFlags) coloured(e *env, terminal bool) bool {
	switch o.color {
	case "always":
		return true
	case "never":
		return false
	}
	return terminal && e.getenv("NO_COLOR") == "" && e.getenv("TERM") != "dumb"
}

// print prints a value of the peer, or what --jq makes of the value.
func (p *printer) print(ctx context.Context, value json.RawMessage) error {
	if len(value) == 0 {
		value = json.RawMessage("null")
	}
	if p.filter == nil {
		return p.write(p.format(value))
	}
	var input any
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.UseNumber()
	if err := dec.Decode(&input); err != nil {
		return err
	}
	for iter := p.filter.RunWithContext(ctx, input); ; {
		out, ok := iter.Next()
		if !ok {
			return nil
		}
		if err, ok := out.(error); ok {
			if halt, ok := err.(*gojq.HaltError); ok && halt.Value() == nil {
				return nil
			}
			return usagef("--jq: %w", err)
		}
		text, err := gojq.Marshal(out)
		if err != nil {
			return usagef("--jq: %w", err)
		}
		if err := p.write(p.format(text)); err != nil {
			return err
		}
	}
}

// write writes text and a newline. A table without rows is nothing.
func (p *printer) write(text string) error {
	if text == "" && p.form == "table" {
		return nil
	}
	if _, err := io.WriteString(p.w, text+"\n"); err != nil {
		return &outputError{err}
	}
	return nil
}

// format returns a value in the form of --output, without a final newline.
func (p *printer) format(value json.RawMessage) string {
	value = bytes.TrimSpace(value)
	switch p.form {
	case "compact":
		return p.colour(escapeFor(p.terminal, compact(value)))
	case "raw":
		var text string
		if value[0] == '"' && json.Unmarshal(value, &text) == nil {
			return escapeFor(p.terminal, text)
		}
		return escapeFor(p.terminal, compact(value))
	case "table":
		return formatTable(value, p.terminal)
	}
	if indentedSize(value) > max(maxIndentation*len(value), 1<<20) {
		return p.colour(escapeFor(p.terminal, compact(value)))
	}
	var b bytes.Buffer
	if json.Indent(&b, value, "", "  ") != nil {
		return escapeFor(p.terminal, string(value))
	}
	return p.colour(escapeFor(p.terminal, b.String()))
}

// maxIndentation bounds the memory for indented JSON, as a multiple of the value's size.
// Deep values would take far more: 10,000 open brackets become 200 MB. Such a value is
// printed on one line.
const maxIndentation = 8

// indentedSize returns the size of valid JSON with indentation, or a little more.
func indentedSize(value json.RawMessage) (size int) {
	text := string(value)
	depth := 0
	for i := 0; i < len(text); {
		n := 1
		switch text[i] {
		case '"':
			n = stringLen(text[i:])
		case '{', '[':
			depth++
			size += 1 + 2*depth
		case '}', ']':
			depth--
			size += 1 + 2*depth
		case ',':
			size += 1 + 2*depth
		}
		size += n
		i += n
	}
	return size
}

func compact(value json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, value) != nil {
		return string(value)
	}
	return b.String()
}

// The colours of JSON.
const (
	colourKey    = "\x1b[34;1m"
	colourString = "\x1b[32m"
	colourNumber = "\x1b[36m"
	colourWord   = "\x1b[33m" // true, false, null
	colourEnd    = "\x1b[0m"
)

// colour returns JSON with colours, if these are wanted.
func (p *printer) colour(text string) string {
	if !p.colours {
		return text
	}
	return colourJSON(text)
}

// colourJSON returns valid JSON with colours. Nothing else is changed.
func colourJSON(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		end, colour := i+1, ""
		switch c := text[i]; {
		case c == '"':
			end = i + stringLen(text[i:])
			colour = colourString
			if strings.HasPrefix(strings.TrimLeft(text[end:], " "), ":") {
				colour = colourKey
			}
		case c == '-' || c >= '0' && c <= '9':
			end = i + wordLen(text[i:])
			colour = colourNumber
		case c >= 'a' && c <= 'z':
			end = i + wordLen(text[i:])
			colour = colourWord
		}
		if colour == "" {
			b.WriteString(text[i:end])
		} else {
			b.WriteString(colour + text[i:end] + colourEnd)
		}
		i = end
	}
	return b.String()
}

// stringLen returns the length of the JSON string at the beginning of text.
func stringLen(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

func wordLen(text string) int {
	if i := strings.IndexAny(text, ",]} \n"); i >= 0 {
		return i
	}
	return len(text)
}

// notice prints a line for people on stderr: a warning, or what happens.
func notice(e *env, format string, args ...any) {
	fmt.Fprintln(e.stderr, escapeFor(e.stderrTTY, fmt.Sprintf(format, args...)))
}
