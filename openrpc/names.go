package openrpc

import (
	"fmt"
	"go/token"
	"go/types"
	"strconv"
	"strings"
	"unicode"
)

// goName makes an exported Go identifier of any text. Letters and digits stay, and what
// follows another character begins with a capital. A letter outside of ASCII becomes its
// code. goName returns an exported identifier of ASCII characters without "_" unchanged.
func goName(text string) string {
	var b strings.Builder
	for _, word := range strings.FieldsFunc(text, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) }) {
		if upper := strings.ToUpper(word); initialisms[upper] && (word == strings.ToLower(word)) {
			word = upper
		}
		for i, c := range word {
			switch {
			case c >= 0x80:
				fmt.Fprintf(&b, "U%04X", c)
			case b.Len() == 0 && c >= '0' && c <= '9':
				b.WriteString("N" + string(c))
			case i == 0:
				b.WriteRune(unicode.ToUpper(c))
			default:
				b.WriteRune(c)
			}
			if b.Len() > maxNameLength {
				return b.String()[:maxNameLength]
			}
		}
	}
	if b.Len() == 0 {
		return "X"
	}
	return b.String()
}

const maxNameLength = 100

// initialisms lists words that Go programmers write in capitals.
var initialisms = map[string]bool{
	"API": true, "DNS": true, "HTML": true, "HTTP": true, "HTTPS": true, "ID": true, "IP": true, "JSON": true, "RPC": true,
	"SQL": true, "TCP": true, "TLS": true, "TTL": true, "UDP": true, "UI": true, "URI": true, "URL": true, "UUID": true, "XML": true,
}

// goNames hands out identifiers, each once. A value is the number to try next.
type goNames map[string]int

// take returns want, with a number behind it if want is taken.
func (taken goNames) take(want string) string {
	name := want
	for taken[name] > 0 {
		taken[want]++
		name = want + strconv.Itoa(taken[want])
	}
	taken[name] = 1
	return name
}

// paramNames returns a set for the parameters of a generated function, without the names
// that the function uses.
func paramNames() goNames {
	taken := make(goNames)
	for _, name := range []string{"ctx", "service", "client", "req", "err", "args", "context", "json", "time", "big", "rpcx"} {
		taken[name] = 1
	}
	return taken
}

// takeParam returns a free unexported identifier for text.
func (taken goNames) takeParam(text string) string {
	name := goName(text)
	lower := strings.ToLower(name)
	end := 1 // of the first word
	for end < len(name) && unicode.IsUpper(rune(name[end])) && (end+1 == len(name) || !unicode.IsLower(rune(name[end+1]))) {
		end++
	}
	name = lower[:end] + name[end:]
	if token.IsKeyword(name) || types.Universe.Lookup(name) != nil {
		name += "Value"
	}
	return taken.take(name)
}

// comment returns text as lines of a Go comment, each with a prefix before "//". Control
// characters, and characters that change the direction of text, become spaces. A line that
// begins with "+build" is quoted. Otherwise go/format would move the line above the package
// clause, where the line keeps the file out of a build.
func comment(prefix, text string) string {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.Map(func(c rune) rune {
		if c == '\n' || unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, text)
	var b strings.Builder
	for line := range strings.SplitSeq(strings.Trim(text, "\n "), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "+build") {
			line = strconv.Quote(line)
		}
		b.WriteString(strings.TrimRight(prefix+"// "+line, " ") + "\n")
	}
	return b.String()
}

// literal returns text as a Go string literal in ASCII.
func literal(text string) string { return strconv.QuoteToASCII(text) }

// structTag returns a literal for a struct tag with one key.
func structTag(key, value string) string {
	tag := key + ":" + strconv.Quote(value)
	if strconv.CanBackquote(tag) && tag == strings.Map(asciiOnly, tag) {
		return "`" + tag + "`"
	}
	return strconv.QuoteToASCII(tag)
}

func asciiOnly(c rune) rune {
	if c > unicode.MaxASCII {
		return -1
	}
	return c
}

// tagName reports whether encoding/json accepts name as the name in a struct tag.
func tagName(name string) bool {
	if name == "" || name == "-" {
		return false
	}
	for _, c := range name {
		if !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", c) && !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return false
		}
	}
	return true
}
