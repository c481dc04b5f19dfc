package rpcx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"example.com/rpcx/internal/jsonscan"

	"example.com/rpcx/internal/bounded"
)

// ignoresUnknownParams reports whether Options.IgnoreUnknownParams is set.
func (r *Request) ignoresUnknownParams() bool {
	return r.session != nil && r.session.openParams
}

// decodeMap decodes all named params of req into a map.
func (sig *signature) decodeMap(req *Request) (reflect.Value, error) {
	all := reflect.MakeMap(sig.mapping)
	_, named, err := req.Params.split()
	if err != nil {
		return all, err
	}
	codec := codecOr(req.Params.codec)
	for {
		key, raw, ok := named.next()
		if !ok {
			return all, nil
		}
		name := jsonscan.Unquote(key)
		index := reflect.ValueOf(name).Convert(sig.mapping.Key())
		if all.MapIndex(index).IsValid() {
			return all, InvalidParams(`method "%s" was given parameter "%s" twice`, excerpt(req.Method), excerpt(name))
		}
		v := reflect.New(sig.mapping.Elem())
		err := unmarshalInTurn(codec, raw, v.Interface())
		if err == nil {
			err = checkObject(codec, raw, v.Interface())
		}
		if err != nil {
			return all, InvalidParams(`invalid argument "%s" of method "%s": %s`, excerpt(name), excerpt(req.Method), bounded.Text(err.Error()))
		}
		all.SetMapIndex(index, v.Elem())
	}
}

// explain completes err, with which binding the params of req has failed: the peer is
// told of names that differ in case only, and the log of this side how to allow what is
// refused.
func (sig *signature) explain(req *Request, err error) error {
	e, ok := err.(*Error)
	positional, named, splitErr := req.Params.split()
	if !ok || splitErr != nil || req.Params.Raw != nil {
		return err
	}
	n := 0
	for _, more := positional.next(); more; _, more = positional.next() {
		n++
	}
	lowers := make(map[string]bool) // the names of the parameters in lower case
	longest := 0
	for _, p := range sig.params {
		lower := strings.ToLower(p.name)
		lowers[lower] = true
		longest = max(longest, len(lower))
	}
	given := make(map[string]bool) // of what the peer has named, what differs in case at most
	var unknown []string           // of what else the peer has named, the first few
	some, twice := false, false
	for key, _, more := named.next(); more; key, _, more = named.next() {
		some = true
		if len(key)-2 > jsonscan.MaxEscape*longest {
			continue // cannot be one of them, and may be of any length
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
	case n > 0 && sig.object != nil && sig.method:
		e.Hint = "a struct that is the only parameter of a method takes named params: beside a second one it is positional"
	case n > 0 && (sig.object != nil || sig.mapping != nil):
		e.Hint = `an only parameter without a name takes named params: rpcx.Func(fn, "name") takes it by position`
	case n > len(sig.params) && sig.variadic == nil:
	case some && sig.variadic != nil && len(sig.params) == 0:
		e.Hint = sig.hintPositional()
	case some && !sig.byName && len(sig.params) == 1 && isAnything(sig.params[0].typ):
		e.Hint = "to take all params as they are, write " + handlerFuncLine + " and use req.Bind; " +
			"to take those by name, write a map[string]any as the only parameter"
	case some && !sig.byName:
		e.Hint = "to take params by name, " + sig.naming("give rpcx.Func the names of all parameters")
	case some || sig.object != nil:
		sig.explainNames(e, given, unknown, n)
	case sig.byName && n < sig.required:
		p := sig.params[n].name
		e.Hint = fmt.Sprintf(`to make %q optional, name it %q`, p, p+"?")
	case n < sig.required:
		e.Hint = "to make parameters optional, " + sig.naming(`name them, "a?" for an optional one`) + ", or make the last ones pointers"
	}
	return e
}

// maxUnknownHinted is how many unknown names a hint has.
const maxUnknownHinted = 4

// isAnything reports whether a parameter of type t takes any JSON value as it is.
func isAnything(t reflect.Type) bool {
	return t == reflect.TypeFor[json.RawMessage]() || t.Kind() == reflect.Interface
}

// hintPositional returns the hint about a function whose slice or variadic parameter takes
// all positional arguments, and that was called by name.
func (sig *signature) hintPositional() string {
	const takes = "the function takes positional params only: "
	switch {
	case sig.method:
		return takes + sig.naming("")
	case sig.list:
		return takes + `rpcx.Func(fn, "list") takes the slice as one param instead, {"list": […]} or [[…]]`
	}
	return takes + "a variadic parameter has no name"
}

// naming returns how to name parameters: as text says, unless nothing can.
func (sig *signature) naming(text string) string {
	if sig.method {
		return "let the method take a struct" // Expose has no names
	}
	return text
}

// explainNames completes e, the error for named params, of which n stood before them by
// position. given has those whose names differ from a parameter's in case at most,
// and others the first of those that no parameter has.
func (sig *signature) explainNames(e *Error, given map[string]bool, others []string, n int) {
	unknown := make(map[string]string) // in lower case, as it was given
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
	case missing != "" && sig.object != nil:
		e.Hint = fmt.Sprintf("to make %q optional, add omitempty to the tag of its field, or make that a pointer", missing)
	case missing != "":
		e.Hint = fmt.Sprintf("to make %q optional, name it %q", missing, missing+"?")
	default:
		e.Hint = "to ignore unknown params, set Options.IgnoreUnknownParams"
		if !sig.method {
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
	if sig.object != nil {
		e.Hint = "the tag of a field can set its name: `json:\"name\"`; " + e.Hint
	}
}

// looksLikeObject says what data is that was received without Options.Objects.
const looksLikeObject = "it looks like a service, or an object of Options.Types: set Options.Objects at this side, too"

// errLooksLikeObject is the error of such data that was to be decoded into a struct.
var errLooksLikeObject = errors.New(looksLikeObject)

// checkObject returns an error if data, which c has decoded into v, is an object of a
// session that has Options.Objects, and v the struct that stands for it.
func checkObject(c Codec, data []byte, v any) error {
	if isObjectData(c, data) && !takesObjectData(v) {
		return errLooksLikeObject
	}
	return nil
}

// takesObjectData reports whether v, a pointer, is no struct or one that has a field for
// what objects are sent as.
func takesObjectData(v any) bool {
	t := reflect.TypeOf(v)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !isObject(t) {
		return true
	}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name == typeKey {
			return true
		}
	}
	return false
}

// objectStart is how objects begin in JSON.
var objectStart = []byte(`{"` + typeKey + `":[`)

// isObjectData reports whether data looks like an object where c takes it for none.
func isObjectData(c Codec, data []byte) bool {
	_, objects := c.(*objects)
	return !objects && bytes.HasPrefix(data, objectStart)
}
