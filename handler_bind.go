package rpcx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/jsonscan"
)

// surplus holds the positional arguments after the last parameter.
type surplus struct {
	n int
	elements
}

func (rest *surplus) nextArgument() json.RawMessage {
	raw, _ := rest.elements.nextElement()
	return raw
}

// bindArguments sorts the arguments of req into args, which has an element for each of
// sig.params. The element of an absent optional argument stays nil.
func (sig *signature) bindArguments(req *Request, args []json.RawMessage) (rest surplus, err error) {
	if rest, err = sig.sortArguments(req, args); err != nil {
		err = sig.addBindingHint(req, err)
	}
	return rest, err
}

// sortArguments is bindArguments without the hints in the error.
func (sig *signature) sortArguments(req *Request, args []json.RawMessage) (rest surplus, err error) {
	p := &req.Params
	if p.sharedBytes() >= largeParams {
		takeDecodingSlot()
		defer releaseDecodingSlot()
	}
	if p.Raw != nil {
		if !sig.bytesParam {
			return rest, InvalidParams(`method "%s" does not take a raw payload`, excerpt(req.Method))
		}
		args[0] = p.Raw
		return rest, nil
	}

	var named members
	if rest.elements, named, err = p.splitArguments(); err != nil {
		return rest, err
	}
	n := 0
	for ok := true; n < len(args); n++ {
		if args[n], ok = rest.elements.nextElement(); !ok {
			break
		}
	}
	for more := rest.elements; ; rest.n++ {
		if _, ok := more.nextElement(); !ok {
			break
		}
	}
	n += rest.n

	// Some protocols always send an empty object beside an array. An empty object without
	// an array means that the arguments are named.
	first := named
	_, _, some := first.nextKeyValue()
	byName := some || p.Named != nil && p.Positional == nil
	switch {
	case sig.mapping != nil && n == 0:
		return rest, nil
	case sig.mapping != nil:
		return rest, InvalidParams(`method "%s" cannot be called with positional arguments`, excerpt(req.Method))
	case sig.structType != nil && n > 0:
		return rest, InvalidParams(`method "%s" cannot be called with positional arguments`, excerpt(req.Method))
	case rest.n > 0 && sig.variadic == nil:
		return rest, InvalidParams(`%s passed to method %s taking at most %d`, countArguments(n), excerpt(req.Method), len(args))
	case byName && !sig.paramsNamed:
		return rest, InvalidParams(`method "%s" cannot be called with named arguments`, excerpt(req.Method))
	case byName || sig.structType != nil:
		return rest, sig.sortNamedArguments(req, named, args)
	case n < sig.required:
		return rest, InvalidParams(`%s passed to method "%s" but it requires %d`, countArguments(n), excerpt(req.Method), sig.required)
	}
	return rest, nil
}

// sortNamedArguments sorts the named arguments of req into args, which has the positional
// arguments already.
func (sig *signature) sortNamedArguments(req *Request, named members, args []json.RawMessage) error {
	var unknown, missing []string
	more := 0 // number of unknown arguments over maxUnknown
	expected := 0
	for {
		key, value, ok := named.nextKeyValue()
		if !ok {
			break
		}
		i, name := sig.findParam(key, expected)
		if i >= 0 {
			expected = i + 1
		}
		switch {
		case i < 0 && (sig.unknownIgnored || req.session != nil && req.session.ignoresParam(name)):
		case i < 0 && len(unknown) == maxUnknown:
			more++
		case i < 0:
			unknown = append(unknown, excerpt(name))
		case args[i] != nil:
			return InvalidParams(`method "%s" was given parameter "%s" twice`, excerpt(req.Method), sig.params[i].name)
		default:
			args[i] = value
		}
	}
	for i, p := range sig.params {
		if args[i] == nil && !p.optional {
			missing = append(missing, p.name)
		}
	}
	if missing != nil {
		return InvalidParams(`method "%s" requires %s`, excerpt(req.Method), listParameters(missing, 0))
	}
	if unknown != nil {
		return InvalidParams(`method "%s" does not take %s`, excerpt(req.Method), listParameters(unknown, more))
	}
	return nil
}

// decodeArgument decodes raw, the argument at index i, into v. If raw is nil, v is
// unchanged.
func (sig *signature) decodeArgument(req *Request, i int, raw json.RawMessage, v any) error {
	if req.Params.Raw != nil {
		*v.(*[]byte) = raw
		return nil
	}
	if raw == nil {
		return nil
	}
	err := req.Params.decodeValue(raw, v)
	if err == nil {
		return nil
	}
	text := bounded.Text(err.Error()) // the text of err may repeat the argument
	if i < len(sig.params) && sig.params[i].name != "" {
		return InvalidParams(`invalid argument "%s" of method "%s": %s`, sig.params[i].name, excerpt(req.Method), text)
	}
	return InvalidParams(`invalid argument %d of method "%s": %s`, i+1, excerpt(req.Method), text)
}

func countArguments(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

// maxUnknown is the largest number of unknown arguments in an error.
const maxUnknown = 16

// listParameters returns the sorted names without duplicates, followed by the number of
// further names.
func listParameters(names []string, more int) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = `"` + name + `"`
	}
	slices.Sort(quoted)
	quoted = slices.Compact(quoted)
	what := "parameters "
	if len(quoted) == 1 && more == 0 {
		what = "parameter "
	}
	list := what + strings.Join(quoted, ", ")
	if more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// decodeNamedMap decodes the named params of req into a new map of type sig.mapping.
func (sig *signature) decodeNamedMap(req *Request) (reflect.Value, error) {
	all := reflect.MakeMap(sig.mapping)
	_, named, err := req.Params.splitArguments()
	if err != nil {
		return all, err
	}
	for {
		key, raw, ok := named.nextKeyValue()
		if !ok {
			return all, nil
		}
		name := jsonscan.Unquote(key)
		index := reflect.ValueOf(name).Convert(sig.mapping.Key())
		if all.MapIndex(index).IsValid() {
			return all, InvalidParams(`method "%s" was given parameter "%s" twice`, excerpt(req.Method), excerpt(name))
		}
		v := reflect.New(sig.mapping.Elem())
		if err := req.Params.decodeValue(raw, v.Interface()); err != nil {
			return all, InvalidParams(`invalid argument "%s" of method "%s": %s`, excerpt(name), excerpt(req.Method), bounded.Text(err.Error()))
		}
		all.SetMapIndex(index, v.Elem())
	}
}

// addBindingHint completes err, the error of binding the params of req. If names differ
// from parameters in case only, the message to the peer lists them. The hint tells the log
// of this side how to allow the call.
func (sig *signature) addBindingHint(req *Request, err error) error {
	e, ok := err.(*Error)
	positional, named, splitErr := req.Params.splitArguments()
	if !ok || splitErr != nil || req.Params.Raw != nil {
		return err
	}
	n := 0
	for _, more := positional.nextElement(); more; _, more = positional.nextElement() {
		n++
	}
	lowers := make(map[string]bool) // names of the parameters, in lower case
	longest := 0
	for _, p := range sig.params {
		lower := strings.ToLower(p.name)
		lowers[lower] = true
		longest = max(longest, len(lower))
	}
	given := make(map[string]bool) // names sent by the peer that match a parameter, in any case
	var unknown []string           // names sent by the peer that match no parameter exactly, at most maxUnknownHinted
	some, twice := false, false
	for key, _, more := named.nextKeyValue(); more; key, _, more = named.nextKeyValue() {
		some = true
		if len(key)-2 > jsonscan.MaxEscape*longest {
			continue // too long for a parameter's name, even with escape sequences
		}
		name := string(jsonscan.UnquoteBytes(key))
		i, known := sig.places[name]
		twice = twice || known && (given[name] || i < n)
		if known || lowers[strings.ToLower(name)] {
			given[name] = true
		}
		if !known && len(unknown) < maxUnknownHinted {
			unknown = append(unknown, excerpt(name))
		}
	}
	switch {
	case twice:
	case n > 0 && sig.structType != nil && sig.interfaceMethod:
		e.Hint = "a struct that is the only parameter of a method takes named params: beside a second one it is positional"
	case n > 0 && (sig.structType != nil || sig.mapping != nil):
		e.Hint = `an only parameter without a name takes named params: rpcx.Func(fn, "name") takes it by position`
	case n > len(sig.params) && sig.variadic == nil:
	case some && sig.variadic != nil && len(sig.params) == 0:
		e.Hint = sig.hintPositional()
	case some && !sig.paramsNamed && len(sig.params) == 1 && isAnything(sig.params[0].typ):
		e.Hint = "to take all params as they are, write " + handlerFuncLine + " and use req.Bind; " +
			"to take those by name, write a map[string]any as the only parameter"
	case some && !sig.paramsNamed:
		e.Hint = "to take params by name, " + sig.namingHint("give rpcx.Func the names of all parameters")
	case some || sig.structType != nil:
		sig.addNamesHint(e, given, unknown, n)
	case sig.paramsNamed && n < sig.required:
		p := sig.params[n].name
		e.Hint = fmt.Sprintf(`to make %q optional, name it %q`, p, p+"?")
	case n < sig.required:
		e.Hint = "to make parameters optional, " + sig.namingHint(`name them, "a?" for an optional one`) + ", or make the last ones pointers"
	}
	return e
}

// maxUnknownHinted is the largest number of unknown names in a hint.
const maxUnknownHinted = 4

// isAnything reports whether a parameter of type t takes any JSON value.
func isAnything(t reflect.Type) bool {
	return t == reflect.TypeFor[json.RawMessage]() || t.Kind() == reflect.Interface
}

// hintPositional returns the hint for a call by name if a slice or variadic parameter
// takes all positional arguments.
func (sig *signature) hintPositional() string {
	const takes = "the function takes positional params only: "
	switch {
	case sig.interfaceMethod:
		return takes + sig.namingHint("")
	case sig.sliceParam:
		return takes + `rpcx.Func(fn, "list") takes the slice as one param instead, {"list": […]} or [[…]]`
	}
	return takes + "a variadic parameter has no name"
}

// namingHint returns advice on naming parameters: text, or the advice for a method of an
// interface.
func (sig *signature) namingHint(text string) string {
	if sig.interfaceMethod {
		return "let the method take a struct" // Expose takes no names of parameters
	}
	return text
}

// addNamesHint completes e, the error for a request with named params after n positional
// arguments. given has the names that match a parameter in any case. others has the first
// names that match no parameter exactly.
func (sig *signature) addNamesHint(e *Error, given map[string]bool, others []string, n int) {
	unknown := make(map[string]string) // from the name in lower case to the name as given
	for name := range given {
		_, known := sig.places[name]
		lower := strings.ToLower(name)
		if other, taken := unknown[lower]; !known && (!taken || name < other) {
			unknown[lower] = name
		}
	}
	var missing string
	var cases []string
	for i, p := range sig.params {
		if given[p.name] || i < n {
			continue
		}
		if !p.optional && missing == "" {
			missing = p.name
		}
		if other, ok := unknown[strings.ToLower(p.name)]; ok {
			cases = append(cases, fmt.Sprintf("%q (not %q)", p.name, other))
		}
	}
	switch {
	case missing != "" && sig.structType != nil:
		e.Hint = fmt.Sprintf("to make %q optional, add omitempty to the tag of its field, or make that a pointer", missing)
	case missing != "":
		e.Hint = fmt.Sprintf("to make %q optional, name it %q", missing, missing+"?")
	default:
		e.Hint = "to ignore unknown params, set Options.IgnoreUnknownParams"
		if !sig.interfaceMethod {
			e.Hint += `, or give rpcx.Func "..." as its last name`
		}
	}
	if missing != "" && len(others) > 0 {
		e.Hint = "the peer has sent " + listParameters(others, 0) + ", which the method does not have; " + e.Hint
	}
	if len(cases) == 0 {
		return
	}
	e.Message += "; names are case-sensitive: " + strings.Join(cases, ", ")
	if sig.structType != nil {
		e.Hint = "the tag of a field can set its name: `json:\"name\"`; " + e.Hint
	}
}

// looksLikeObject is the hint for an object that was received without Options.Objects.
const looksLikeObject = "it looks like a service, or an object of Options.Types: set Options.Objects at this side, too"

// errLooksLikeObject is the error for an object decoded into a struct without
// Options.Objects.
var errLooksLikeObject = errors.New(looksLikeObject)

// decodeValue decodes raw, one of the arguments, into v. If raw looks like an object of
// Options.Objects, decodeValue fails unless the codec supports objects or v has a place for
// the object.
func (p *Params) decodeValue(raw json.RawMessage, v any) error {
	err := unmarshalInTurn(p.codec, raw, v)
	if err == nil && isObjectData(p.codec, raw) && !takesObjectData(v) {
		err = errLooksLikeObject
	}
	return err
}

// takesObjectData reports whether v can hold an encoded object. v is a pointer. A struct
// can hold an object if it has a field for typeKey.
func takesObjectData(v any) bool {
	t := reflect.TypeOf(v)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !isPlainStruct(t) {
		return true
	}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == typeKey {
			return true
		}
	}
	return false
}

// objectStart is the beginning of an object in JSON.
var objectStart = []byte(`{"` + typeKey + `":[`)

// isObjectData reports whether data looks like an object, and c does not support objects.
func isObjectData(c Codec, data []byte) bool {
	_, objects := c.(*objectCodec)
	return !objects && bytes.HasPrefix(data, objectStart)
}
