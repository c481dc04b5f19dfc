package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"example.com/rpcx/internal/jsonscan"
)

// parseParams reads the params of a call from arguments:
//
//	'{"a": 1}' or '[1, 2]'   the params, if this is the only argument
//	a=1 b=text               named params: each value is JSON, or else a string
//	1 text '[2]'             positional params: each value is JSON, or else a string
//	@file or -               JSON from a file or stdin, in place of an argument
//
// A value that begins with {, [ or " must be JSON. Without arguments, the params are nil.
func parseParams(e *env, args []string) (json.RawMessage, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if named := nameOf(args[0]) != ""; named {
		return namedParams(args)
	}
	values := make([]json.RawMessage, len(args))
	for i, arg := range args {
		if nameOf(arg) != "" {
			return nil, usagef("params: %q has a name, and %q has none; give all a name, or none", clip(arg), clip(args[0]))
		}
		value, err := parseValue(e, arg)
		if err != nil {
			return nil, err
		}
		values[i] = value
	}
	if len(values) == 1 && (values[0][0] == '{' || values[0][0] == '[') {
		return values[0], nil
	}
	return marshal(values)
}

var namePattern = regexp.MustCompile(`^([\pL_$][\pL\pN_.$/-]*)=`)

// nameOf returns the name of a param k=v, or "".
func nameOf(arg string) string {
	if m := namePattern.FindStringSubmatch(arg); m != nil {
		return m[1]
	}
	return ""
}

func namedParams(args []string) (json.RawMessage, error) {
	var b bytes.Buffer
	seen := map[string]bool{}
	for _, arg := range args {
		name := nameOf(arg)
		if name == "" {
			return nil, usagef("params: %q has no name, and %q has one; give all a name, or none", clip(arg), clip(args[0]))
		}
		if seen[name] {
			return nil, usagef("params: %s is given twice", name)
		}
		seen[name] = true
		value, err := jsonOrString("param "+name, arg[len(name)+1:])
		if err != nil {
			return nil, err
		}
		key, err := marshal(name)
		if err != nil {
			return nil, err
		}
		b.WriteByte(',')
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	text := b.Bytes()
	text[0] = '{'
	return text, nil
}

// parseValue reads one argument without a name.
func parseValue(e *env, arg string) (json.RawMessage, error) {
	if arg == "-" {
		return paramsFrom(e.stdinReader(), "stdin")
	}
	if path, ok := strings.CutPrefix(arg, "@"); ok {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("params: %w", err)
		}
		defer f.Close()
		return paramsFrom(f, path)
	}
	return jsonOrString("params", arg)
}

// paramsFrom reads params from a file or stdin.
func paramsFrom(r io.Reader, name string) (json.RawMessage, error) {
	value, err := readJSON(r, name)
	if err != nil {
		return nil, usagef("params: %w", err)
	}
	return value, nil
}

// parseCall reads a call from arguments: METHOD [PARAMS…].
func parseCall(e *env, args []string) (method string, params json.RawMessage, err error) {
	if len(args) == 0 {
		return "", nil, usagef("no method: write one after ADDR, or after --stdio 'COMMAND ARGS'")
	}
	if err := checkMethod(args[0]); err != nil {
		return "", nil, err
	}
	params, err = parseParams(e, args[1:])
	return args[0], params, err
}

// checkMethod refuses names that JSON cannot hold.
func checkMethod(method string) error {
	if !utf8.ValidString(method) {
		return usagef("the method has a byte that is not UTF-8\n%s", markPlace(method, invalidUTF8([]byte(method))))
	}
	return nil
}

// readJSON reads a JSON value to the end of r.
func readJSON(r io.Reader, name string) (json.RawMessage, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, usagef("read %s: %w", name, err)
	}
	if len(text) > maxInput {
		return nil, usagef("%s has more than %d MiB", name, maxInput>>20)
	}
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return nil, usagef("%s is empty", name)
	}
	return checkJSON(name, text)
}

// maxInput bounds what is read from a file or stdin as one value.
const maxInput = 256 << 20

// jsonOrString returns text as JSON. A text that is no JSON becomes a string, unless it
// begins as an object, array or string of JSON does.
func jsonOrString(what, text string) (json.RawMessage, error) {
	trimmed := strings.TrimSpace(text)
	valid := utf8.ValidString(text)
	if ok, _ := jsonscan.Valid([]byte(trimmed)); ok && valid {
		return json.RawMessage(trimmed), nil
	}
	if trimmed != "" && strings.ContainsRune(`{["`, rune(trimmed[0])) {
		return checkJSON(what, []byte(trimmed))
	}
	if !valid { // with a replacement for the byte, the peer would get another string
		return nil, usagef("%s: a byte that is not UTF-8\n%s", what, markPlace(text, invalidUTF8([]byte(text))))
	}
	return marshal(text)
}

// checkJSON returns text if text is a JSON value. Otherwise the error shows the place.
func checkJSON(what string, text []byte) (json.RawMessage, error) {
	scan := jsonscan.Scanner{Data: text}
	if scan.ScanValue() && scan.AtEnd() && scan.IsUTF8() {
		return text, nil
	}
	why, place := "", scan.Pos
	switch {
	case !utf8.Valid(text):
		why, place = "a byte that is not UTF-8", invalidUTF8(text)
	case place >= len(text):
		why = "the end is missing"
	default:
		r, _ := utf8.DecodeRune(text[place:])
		why = fmt.Sprintf("%q is not expected here", r)
	}
	return nil, usagef("%s: not JSON: %s\n%s", what, why, markPlace(string(text), place))
}

// invalidUTF8 returns the place of the first byte that is not UTF-8.
func invalidUTF8(text []byte) (place int) {
	for place < len(text) {
		r, size := utf8.DecodeRune(text[place:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		place += size
	}
	return place
}

// markPlace returns the line around the byte at offset, and a caret below the byte.
func markPlace(text string, offset int) string {
	const before, after = 50, 20
	offset = max(0, min(offset, len(text)))
	start := strings.LastIndexByte(text[:offset], '\n') + 1
	end := len(text)
	if i := strings.IndexByte(text[offset:], '\n'); i >= 0 {
		end = offset + i
	}
	left, right := []rune(text[start:offset]), []rune(text[offset:end])
	prefix := "  "
	if line := strings.Count(text[:start], "\n"); strings.Contains(text, "\n") {
		prefix = fmt.Sprintf("  %d: ", line+1)
	}
	if len(left) > before {
		left = append([]rune("…"), left[len(left)-before:]...)
	}
	if len(right) > after {
		right = append(right[:after:after], '…')
	}
	shown := escapeControl(strings.ReplaceAll(string(left), "\t", " "))
	line := prefix + shown + escapeControl(strings.ReplaceAll(string(right), "\t", " "))
	return line + "\n" + strings.Repeat(" ", displayWidth(prefix+shown)) + "^"
}

// clip returns a text that fits into an error.
func clip(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
