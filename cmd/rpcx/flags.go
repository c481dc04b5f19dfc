package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

var errHelp = errors.New("help was asked for")

// flags is the flags of a command. A flag has one or two dashes, and stands before or after
// the arguments. The zero value of a flag is its default, unless the default is said.
type flags struct {
	*flag.FlagSet
	// groups has the names of flags under their titles in the help, in order of declaration.
	groups []flagGroup
	// values has the choices of a flag, for completion: words, or one of completeFiles and
	// completeAddrs.
	values map[string][]string
}

type flagGroup struct {
	title string
	names []string
}

func newFlags() *flags {
	return &flags{FlagSet: flag.NewFlagSet("", flag.ContinueOnError), values: map[string][]string{}}
}

// group begins a group of flags in the help.
func (fs *flags) group(title string) { fs.groups = append(fs.groups, flagGroup{title: title}) }

// declare adds a flag. The help shows name and a word in back quotes in usage, as in
// package flag. choices are the possible values, if these are few.
func (fs *flags) declare(v flag.Value, name, usage string, choices ...string) {
	if len(fs.groups) == 0 {
		fs.group("Flags")
	}
	g := &fs.groups[len(fs.groups)-1]
	g.names = append(g.names, name)
	if len(choices) > 0 {
		fs.values[name] = choices
	}
	fs.Var(v, name, usage)
}

// alias makes short another name of a declared flag.
func (fs *flags) alias(short, name string) {
	f := fs.Lookup(name)
	fs.Var(f.Value, short, aliasPrefix+name)
}

const aliasPrefix = "alias of --"

// String declares a flag with any text.
func (fs *flags) String(p *string, name, usage string) { fs.declare((*textValue)(p), name, usage) }

// Bool declares a flag without a value.
func (fs *flags) Bool(p *bool, name, usage string) { fs.declare((*boolValue)(p), name, usage) }

// Duration declares a flag such as 30s or 2m, whose default is the value of *p.
func (fs *flags) Duration(p *time.Duration, name, usage string) {
	fs.declare((*durationValue)(p), name, usage)
}

// Int declares a flag with a whole number of 0 or more, whose default is the value of *p.
func (fs *flags) Int(p *int, name, usage string) { fs.declare((*intValue)(p), name, usage) }

// Size declares a flag with a number of bytes, such as 500KiB or 64MiB. The default is the
// value of *p.
func (fs *flags) Size(p *int, name, usage string) { fs.declare((*sizeValue)(p), name, usage) }

// Choice declares a flag with one of few words. The default is the value of *p.
func (fs *flags) Choice(p *string, name, usage string, choices ...string) {
	fs.declare(&choiceValue{p, choices}, name, usage, choices...)
}

// List declares a flag that may be repeated.
func (fs *flags) List(p *[]string, name, usage string) { fs.declare((*listValue)(p), name, usage) }

// File declares a flag with the path of a file.
func (fs *flags) File(p *string, name, usage string) {
	fs.declare((*textValue)(p), name, usage, completeFiles)
}

// completeFiles stands for file names among the choices of a flag.
const completeFiles = "\x00files"

// parse sets the flags in args, and returns the other arguments. "--" ends the flags. A
// negative number, and a single dash, are no flags.
func (fs *flags) parse(args []string) (positional []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return append(positional, args...), nil
		case len(arg) < 2 || arg[0] != '-' || arg[1] >= '0' && arg[1] <= '9' || arg[1] == '.':
			positional = append(positional, arg)
			continue
		}
		dashes := arg[:len(arg)-len(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"))]
		name, value, hasValue := strings.Cut(arg[len(dashes):], "=")
		if name == "h" || name == "help" {
			return nil, errHelp
		}
		f := fs.Lookup(name)
		if f == nil {
			question := strings.Replace(didYouMean(name, fs.names()), `"`, `"--`, 1)
			return nil, usagef("unknown flag %s%s%s", dashes, name, question)
		}
		if b, ok := f.Value.(*boolValue); ok && !hasValue {
			*b = true
			continue
		}
		if !hasValue {
			if len(args) == 0 {
				return nil, usagef("flag %s%s needs a value", dashes, name)
			}
			value, args = args[0], args[1:]
		}
		if err := f.Value.Set(value); err != nil {
			return nil, usagef("flag %s%s: %w", dashes, name, err)
		}
	}
	return positional, nil
}

// names returns the names of all flags, without aliases of one letter.
func (fs *flags) names() (names []string) {
	for _, g := range fs.groups {
		names = append(names, g.names...)
	}
	return names
}

type textValue string

func (v *textValue) String() string     { return string(*v) }
func (v *textValue) Set(s string) error { *v = textValue(s); return nil }

type boolValue bool

func (v *boolValue) String() string   { return fmt.Sprint(bool(*v)) }
func (v *boolValue) IsBoolFlag() bool { return true }
func (v *boolValue) Set(s string) error {
	switch s {
	case "true", "1", "yes":
		*v = true
	case "false", "0", "no":
		*v = false
	default:
		return fmt.Errorf("%q is neither true nor false", s)
	}
	return nil
}

type durationValue time.Duration

func (v *durationValue) String() string { return time.Duration(*v).String() }
func (v *durationValue) Set(s string) error {
	d, err := time.ParseDuration(s)
	if s == "0" {
		d, err = 0, nil
	}
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a time; write 500ms, 30s or 2m", s)
	}
	*v = durationValue(d)
	return nil
}

type intValue int

func (v *intValue) String() string { return fmt.Sprint(int(*v)) }
func (v *intValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a number of 0 or more", s)
	}
	*v = intValue(n)
	return nil
}

type sizeValue int

// sizeUnits are the units of a size, the largest first.
var sizeUnits = []struct {
	name  string
	bytes int
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

func (v *sizeValue) String() string {
	for _, u := range sizeUnits {
		if n := int(*v); n%u.bytes == 0 && n >= u.bytes {
			return fmt.Sprint(n/u.bytes) + u.name
		}
	}
	return "0"
}

func (v *sizeValue) Set(s string) error {
	for _, u := range sizeUnits {
		if digits, ok := strings.CutSuffix(s, u.name); ok {
			n, err := strconv.Atoi(digits)
			if err != nil || n < 0 || n > math.MaxInt/u.bytes {
				break
			}
			*v = sizeValue(n * u.bytes)
			return nil
		}
	}
	return fmt.Errorf("%q is not a size; write 1000000, 500KiB or 64MiB", s)
}

type listValue []string

func (v *listValue) String() string     { return strings.Join(*v, ", ") }
func (v *listValue) Set(s string) error { *v = append(*v, s); return nil }

type choiceValue struct {
	p       *string
	choices []string
}

func (v *choiceValue) String() string {
	if v.p == nil { // package flag asks a zero value
		return ""
	}
	return *v.p
}

func (v *choiceValue) Set(s string) error {
	if !slices.Contains(v.choices, s) {
		return fmt.Errorf("%q is not one of %s", s, strings.Join(v.choices, ", "))
	}
	*v.p = s
	return nil
}

// didYouMean returns a question for the nearest of names, or nothing if all are far away.
func didYouMean(name string, names []string) string {
	best, bestDistance := "", min(4, 1+utf8.RuneCountInString(name)/2)
	for _, n := range names {
		d := editDistance(name, n)
		if strings.HasPrefix(n, name) && len(name) > 1 {
			d = 1
		}
		if d < bestDistance || d == bestDistance && best != "" && cmp.Less(n, best) {
			best, bestDistance = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// editDistance returns the number of letters to insert, delete, replace or swap with their
// neighbours between a and b.
func editDistance(a, b string) int {
	previous, row := []int(nil), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], previous[j-1]+1)
			}
		}
		previous, row = row, next
	}
	return row[len(b)]
}
