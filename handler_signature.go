package rpcx

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"example.com/rpcx/internal/jsonscan"
)

// signature describes the parameters and results of a function. [Func] makes the signature
// once.
type signature struct {
	contextParam, sessionParam bool           // the function begins with a context, a session
	params                     []param        // the parameters for arguments without a variadic parameter, or the fields of structType
	places                     map[string]int // index in params of each name
	required                   int            // least number of positional arguments
	paramsNamed                bool           // the params have names, or there are no params
	unknownIgnored             bool           // unknown named arguments are ignored
	variadic                   reflect.Type   // type of the slice for further positional arguments, or nil
	structType                 reflect.Type   // struct with the params as fields, or nil
	pointerParam               bool           // the function takes a pointer to structType
	mapping                    reflect.Type   // map for all named arguments, or nil
	sliceParam                 bool           // variadic is an ordinary parameter, a slice for all positional arguments
	interfaceMethod            bool           // method of an interface, without names of parameters
	bytesParam                 bool           // the only parameter is a []byte
	resultType                 reflect.Type   // type of the result, or nil
	errorReturned              bool           // the function returns an error
}

// param is a parameter of the function, or a field of structType.
type param struct {
	name     string // "" if the param cannot be given by name
	optional bool
	typ      reflect.Type
	field    []int // index of the field in structType
}

var (
	contextType = reflect.TypeFor[context.Context]()
	sessionType = reflect.TypeFor[*Session]()
	requestType = reflect.TypeFor[*Request]()
	paramsType  = reflect.TypeFor[Params]()
	handlerType = reflect.TypeFor[Handler]()
	errorType   = reflect.TypeFor[error]()
)

// newSignature returns the signature of a function of type t, which may be a method of an
// interface. An error describes the mistake in the function or in names.
func newSignature(t reflect.Type, names []string, method bool) (*signature, error) {
	switch {
	case t != nil && t.Implements(handlerType):
		return nil, errors.New("it is a Handler already: pass it to Router.Handle or Options.Handler as it is")
	case t != nil && t.Kind() != reflect.Func && t.NumMethod() > 0:
		return nil, errors.New("not a function: write rpcx.Expose[I](v) for the methods of an interface I")
	case t == nil || t.Kind() != reflect.Func:
		return nil, errors.New("not a function")
	}
	sig := &signature{interfaceMethod: method}
	if err := sig.setResults(t); err != nil {
		return nil, err
	}
	in := slices.Collect(t.Ins())
	if len(in) > 0 && in[0] == contextType {
		sig.contextParam, in = true, in[1:]
	}
	if len(in) > 0 && in[0] == sessionType {
		sig.sessionParam, in = true, in[1:]
	}
	for i, t := range in {
		switch {
		case t == contextType || t == sessionType:
			return nil, fmt.Errorf("%v has to come first", t)
		case t == requestType || t == requestType.Elem():
			return nil, errors.New("a function that takes a *Request is a HandlerFunc: write " + handlerFuncLine +
				", or use rpcx.RequestFromContext(ctx)")
		case t == paramsType || t == reflect.PointerTo(paramsType):
			return nil, errors.New("a function that takes Params is a HandlerFunc: write " + handlerFuncLine +
				", which has req.Params and req.Bind")
		case len(names) == 0 && isForeignRequest(t):
			return nil, fmt.Errorf("parameter %d: %v looks like another library's request: write %s", i+1, t, handlerFuncLine)
		case t == sessionType.Elem():
			return nil, errors.New("a Session must not be copied: write *rpcx.Session")
		case !decodable(t):
			return nil, fmt.Errorf("parameter %d: %v cannot be decoded", i+1, t)
		}
	}
	if len(names) == 0 && !sig.contextParam && !sig.sessionParam && !t.IsVariadic() && sig.errorReturned && sig.resultType == nil &&
		len(in) == 2 && in[1].Kind() == reflect.Pointer {
		return nil, fmt.Errorf("it looks like a method for net/rpc, but a second parameter is not where the reply goes: "+
			"write func(ctx context.Context, args %v) (%v, error); if both are parameters, begin with a context.Context", in[0], in[1].Elem())
	}
	if t.IsVariadic() {
		sig.variadic, in = in[len(in)-1], in[:len(in)-1]
	}
	if i := slices.Index(names, "..."); i >= 0 {
		if i != len(names)-1 {
			return nil, misplacedMore(i)
		}
		sig.unknownIgnored, names = true, names[:i]
	}
	if len(in) == 1 && len(names) == 0 && sig.variadic == nil {
		done, err := sig.setWhole(in[0])
		if done || err != nil {
			return sig, err
		}
		if sig.sliceParam {
			in = nil
		}
	}
	sig.bytesParam = len(in) == 1 && sig.variadic == nil && in[0] == reflect.TypeFor[[]byte]()
	return sig, sig.setParams(in, names)
}

// handlerFuncLine is the code of a function that takes an undecoded request, for error
// texts.
const handlerFuncLine = "rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) { … })"

// isForeignRequest reports whether t looks like the request of another JSON-RPC library.
// The type is named Request, has a Method, and cannot take params as its fields.
func isForeignRequest(t reflect.Type) bool {
	elem := t
	if t.Kind() == reflect.Pointer {
		elem = t.Elem()
	}
	if elem.Name() != "Request" {
		return false
	}
	_, method := t.MethodByName("Method")
	if elem.Kind() != reflect.Struct {
		return method && elem.Kind() == reflect.Interface
	}
	if _, field := elem.FieldByName("Method"); field && decodesItself(elem) {
		return true
	}
	return method && !hasExportedField(elem)
}

// hasExportedField reports whether the struct type t has an exported field.
func hasExportedField(t reflect.Type) bool {
	for f := range t.Fields() {
		if f.IsExported() {
			return true
		}
	}
	return false
}

// setWhole makes a single parameter of type t without a name take all params, if t is a
// struct, a map or a slice. done reports whether the signature is complete. For a slice,
// done is false. Similar types are refused: pointers to maps and slices, maps without
// strings as keys, and arrays.
func (sig *signature) setWhole(t reflect.Type) (done bool, err error) {
	elem, pointer := t, t.Kind() == reflect.Pointer
	if pointer {
		elem = t.Elem()
	}
	switch {
	case isPlainStruct(elem):
		sig.structType, sig.pointerParam, sig.paramsNamed = elem, pointer, true
		if err := sig.addFields(elem, nil); err != nil {
			return true, err
		}
		if len(sig.params) == 0 && elem.NumField() > 0 {
			return true, fmt.Errorf("%v has no fields that can be params: export them, or give the parameter a name; "+
				"if it is another library's request, write %s", elem, handlerFuncLine)
		}
		return true, nil
	case sig.interfaceMethod: // methods take positional arguments
	case isPlainMap(elem) && pointer, isPlainSlice(elem) && pointer:
		return true, fmt.Errorf("a pointer to all params: write %v, or give the parameter a name", elem)
	case isPlainMap(t):
		sig.mapping, sig.paramsNamed = t, true
		return true, nil
	case isPlainSlice(t):
		sig.variadic, sig.sliceParam = t, true
	case elem.Kind() == reflect.Map && !decodesItself(elem):
		return true, fmt.Errorf("a map of all params has their names as keys: write map[string]%v, or give the parameter a name", elem.Elem())
	case elem.Kind() == reflect.Array && !decodesItself(elem):
		return true, fmt.Errorf("an array of all params: write []%v for any number of them, a parameter for each, or give the parameter a name", elem.Elem())
	}
	return false, nil
}

// isPlainMap reports whether t is a map into which encoding/json decodes any object.
func isPlainMap(t reflect.Type) bool {
	return t.Kind() == reflect.Map && t.Key().Kind() == reflect.String && !decodesItself(t) && !decodesItself(t.Key())
}

// isPlainSlice reports whether t is a slice into which encoding/json decodes an array.
func isPlainSlice(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 && !decodesItself(t)
}

func (sig *signature) setResults(t reflect.Type) error {
	out := slices.Collect(t.Outs())
	if n := len(out); n > 0 && out[n-1] == errorType {
		sig.errorReturned, out = true, out[:n-1]
	}
	for _, t := range out {
		if isError(t) && t != reflect.TypeFor[*Disconnect]() {
			return fmt.Errorf("result %v is an error: write error, as the last result, and return nil where there is none", t)
		}
	}
	if len(out) > 1 {
		return errors.New("the results have to be (T, error), T, error or none: write a struct or a slice for several")
	}
	if len(out) == 1 {
		sig.resultType = out[0]
		if !hasJSON(out[0]) || isLive(out[0]) {
			return fmt.Errorf("result %v cannot be encoded", out[0])
		}
	}
	return nil
}

// isError reports whether t or *t implements error.
func isError(t reflect.Type) bool {
	return t.Implements(errorType) || reflect.PointerTo(t).Implements(errorType)
}

// liveTypes lists the types of this package that do not hold data.
var liveTypes = []reflect.Type{
	sessionType.Elem(), requestType.Elem(), routerType.Elem(),
	reflect.TypeFor[Future](), reflect.TypeFor[Batch](), reflect.TypeFor[Server](),
}

// isLive reports whether t is in liveTypes, or a pointer to a type in liveTypes. A *Router
// is not live, but a service.
func isLive(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer && t != routerType {
		t = t.Elem()
	}
	return slices.Contains(liveTypes, t)
}

func (sig *signature) setParams(in []reflect.Type, names []string) error {
	sig.paramsNamed = len(names) == len(in)
	if !sig.paramsNamed && (len(names) > 0 || sig.unknownIgnored) {
		return sig.wrongNames(in, len(names))
	}
	fixed := len(in) // number of parameters before the optional pointers at the end
	for len(names) == 0 && fixed > 0 && in[fixed-1].Kind() == reflect.Pointer {
		fixed--
	}
	for i, t := range in {
		p := param{typ: t, optional: i >= fixed}
		if sig.paramsNamed {
			p.name, p.optional = strings.CutSuffix(names[i], "?")
			switch p.name {
			case "":
				return fmt.Errorf("the name of parameter %d is empty", i+1)
			case "...":
				return misplacedMore(i)
			}
		}
		if !p.optional {
			if sig.required < i {
				return fmt.Errorf("parameter %q follows an optional one, but is not optional", p.name)
			}
			sig.required++
		}
		if !sig.addParam(p) {
			return fmt.Errorf("two parameters are named %q", p.name)
		}
	}
	return nil
}

// misplacedMore returns the error for the name "..." at index i.
func misplacedMore(i int) error {
	return fmt.Errorf("the name of parameter %d is \"...\", which may only be the last name", i+1)
}

// wrongNames returns the error for a wrong number of names, with the most likely reason.
// in has the types of the parameters that need names.
func (sig *signature) wrongNames(in []reflect.Type, names int) error {
	var why string
	switch {
	case len(in) == 1 && names > 1 && (isPlainStruct(in[0]) || in[0].Kind() == reflect.Pointer && isPlainStruct(in[0].Elem())):
		why = "the fields of a struct have names already, by their tags: leave the names out"
	case names == 0:
		why = `"..." comes after the names of all parameters`
	case sig.variadic != nil && names == len(in)+1:
		why = "a variadic parameter has none"
	default:
		why = "a context.Context, a *rpcx.Session and a variadic parameter have none"
	}
	return fmt.Errorf("wrong number of names: %d, want %d (%s)", names, len(in), why)
}

// addFields adds a param for each field of the struct t. index is the path to t in
// sig.structType. The selected fields are the fields that encoding/json decodes. Embedded
// pointers and the option string are refused, because the behaviour of encoding/json is
// hard to match there, or easy to get wrong.
func (sig *signature) addFields(t reflect.Type, index []int) error {
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		option := strings.Split(options, ",")
		f.Index = append(slices.Clone(index), f.Index...)
		switch {
		case tag == "-":
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			if err := sig.addFields(f.Type, f.Index); err != nil {
				return err
			}
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct:
			return fmt.Errorf("field %s is an embedded pointer: embed the struct itself, or give the field a name by its tag", f.Name)
		case !f.IsExported():
			continue
		case slices.Contains(option, "string"):
			return fmt.Errorf("field %s has the option string", f.Name)
		case !decodable(f.Type):
			return fmt.Errorf("field %s: %v cannot be decoded", f.Name, f.Type)
		}
		if name == "" {
			name = f.Name
		}
		optional := f.Type.Kind() == reflect.Pointer ||
			slices.Contains(option, "omitempty") || slices.Contains(option, "omitzero")
		if !sig.addParam(param{name, optional, f.Type, f.Index}) {
			return fmt.Errorf("two fields are named %q", name)
		}
	}
	return nil
}

// addParam adds a param, and reports whether its name was free.
func (sig *signature) addParam(p param) bool {
	if sig.paramsNamed {
		if _, taken := sig.places[p.name]; taken {
			return false
		}
		if sig.places == nil {
			sig.places = make(map[string]int)
		}
		sig.places[p.name] = len(sig.params)
	}
	sig.params = append(sig.params, p)
	return true
}

// findParam returns the index in params of the name in key, a JSON string, and the
// unquoted name. If there is no such param, the index is -1. findParam tries the index
// expected first, because most peers send members in the order of the parameters.
func (sig *signature) findParam(key []byte, expected int) (i int, name []byte) {
	name = jsonscan.UnquoteBytes(key)
	if expected < len(sig.params) && string(name) == sig.params[expected].name {
		return expected, name
	}
	if i, ok := sig.places[string(name)]; ok {
		return i, name
	}
	return -1, name
}

// isPlainStruct reports whether t is a struct into which encoding/json decodes an object.
func isPlainStruct(t reflect.Type) bool { return t.Kind() == reflect.Struct && !decodesItself(t) }

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// decodable reports whether values of type t can be decoded. Fields of structs are not
// checked, because a field matters only to a peer that names it.
func decodable(t reflect.Type) bool {
	for range 100 { // for recursive types such as T in type T []T
		if decodesItself(t) {
			return true
		}
		if t == routerType || isLive(t) {
			return false // services arrive as a *Proxy
		}
		switch t.Kind() {
		case reflect.Map:
			key := t.Key()
			isInt := key.Kind() >= reflect.Int && key.Kind() <= reflect.Uintptr
			if !isInt && key.Kind() != reflect.String && !decodesItself(key) {
				return false
			}
			t = t.Elem()
		case reflect.Pointer, reflect.Slice, reflect.Array:
			t = t.Elem()
		case reflect.Interface:
			return t.NumMethod() == 0
		default:
			return hasJSON(t)
		}
	}
	return true
}

// hasJSON reports whether a kind of JSON value corresponds to the kind of t.
func hasJSON(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return false
	}
	return true
}
