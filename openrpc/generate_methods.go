package openrpc

import (
	"fmt"
	"slices"
	"strings"
)

// style says how generated functions take the params of a method.
type style int

const (
	positional style = iota // a parameter for each param
	inStruct                // a struct with a field for each param
	inMap                   // a map with the params of any name
	anyParams               // any params: an undecoded request
)

// goMethod is a method in generated code.
type goMethod struct {
	method     *Method
	goName     string
	style      style
	args       []goArg // without the variadic param
	variadic   *goArg
	values     goType // of the map
	paramsType string // name of the struct, or ""
	result     goType // expr is "" without a result
}

// goArg is a param in generated code.
type goArg struct {
	param *Content
	local string // name of the parameter
	field string // name of the field
	typ   goType // a type with nil if the param is optional
}

// readMethod finds the names and types of a method.
func (g *generator) readMethod(m *Method, taken goNames) (*goMethod, error) {
	method := &goMethod{method: m, goName: taken.take(goName(m.Name))}
	var err error
	if m.Result != nil {
		n, err := parseNode(m.Result.Schema)
		if err != nil {
			return nil, fmt.Errorf("result: %w", err)
		}
		if !isNull(n) {
			if method.result, err = g.typeOf(n, nil); err != nil {
				return nil, fmt.Errorf("result: %w", err)
			}
		}
	}
	switch {
	case m.ParamsKind == "any":
		method.style = anyParams
		return method, nil
	case m.Values != nil:
		method.style = inMap
		n, err := parseNode(m.Values)
		if err == nil {
			method.values, err = g.typeOf(n, nil)
		}
		return method, err
	}
	if err = g.readParams(method); err != nil {
		return nil, err
	}
	if method.needsStruct() {
		method.style = inStruct
		for _, a := range method.args {
			if !tagName(a.param.Name) {
				return nil, fmt.Errorf("param %.100q: encoding/json takes no such name in a struct: rename the param", a.param.Name)
			}
		}
		method.paramsType = g.names.take(method.goName + "Params")
	}
	return method, method.checkNames()
}

// readParams sets the args and the variadic of a method.
func (g *generator) readParams(method *goMethod) error {
	m := method.method
	locals, fields := paramNames(), make(goNames)
	fixed, variadic := m.variadic()
	for _, p := range m.Params {
		n, err := parseNode(p.Schema)
		if err != nil {
			return fmt.Errorf("param %.100q: %w", p.Name, err)
		}
		t, err := g.typeOf(n, nil)
		if err != nil {
			return fmt.Errorf("param %.100q: %w", p.Name, err)
		}
		if !p.Required && p != variadic {
			t = t.optional()
			if m.structure() == ByPosition && !strings.HasPrefix(t.expr, "*") {
				t.expr = "*" + t.expr // rpcx.Func takes a pointer as optional
			}
		}
		arg := goArg{p, locals.takeParam(p.Name), fields.take(goName(p.Name)), t}
		if p == variadic {
			method.variadic = &arg
		} else {
			method.args = append(method.args, arg)
		}
	}
	if len(method.args) != len(fixed) {
		return fmt.Errorf("the params are in disorder")
	}
	return nil
}

// needsStruct reports whether the params are in a struct, because a client passes them by
// name. If some can be absent, a client passes them by name where the document says that
// both forms are taken. If the document says nothing, its server may take no names.
func (m *goMethod) needsStruct() bool {
	switch m.method.ParamStructure {
	case ByName:
		return true
	case Either:
		return m.variadic == nil && slices.ContainsFunc(m.args, goArg.optional)
	}
	return false
}

func (a goArg) optional() bool { return !a.param.Required }

// paramsStruct returns the struct type for the params.
func (m *goMethod) paramsStruct() string {
	if len(m.args) == 0 {
		return "struct{}"
	}
	var b strings.Builder
	b.WriteString("struct {\n")
	for _, a := range m.args {
		writeField(&b, a.field, a.param.Name, a.typ, a.param.Required, a.param.Description)
	}
	b.WriteString("}")
	return b.String()
}

// docComment returns the comment of the method.
func (m *goMethod) docComment(prefix string) string {
	var text strings.Builder
	text.WriteString(m.goName + " is the method " + literal(m.method.Name) + ".")
	for _, more := range []string{m.method.Summary, m.method.Description} {
		if more != "" {
			text.WriteString("\n\n" + more)
		}
	}
	if m.method.Deprecated {
		text.WriteString("\n\nDeprecated: the document says so.")
	}
	return comment(prefix, text.String())
}

// serviceParams returns the parameters of the method of the Service.
func (m *goMethod) serviceParams() string {
	if m.style == anyParams {
		return "ctx context.Context, req *rpcx.Request"
	}
	return m.stubParams()
}

// clientParams returns the parameters of the method of the Client.
func (m *goMethod) clientParams() string {
	if m.style == anyParams {
		return "ctx context.Context, params any"
	}
	return m.stubParams()
}

// stubParams returns the parameters of a function that has its params in Go types.
func (m *goMethod) stubParams() string {
	switch m.style {
	case inStruct:
		return "ctx context.Context, params " + m.paramsType
	case inMap:
		return "ctx context.Context, params map[string]" + m.values.expr
	}
	return m.positionalParams()
}

// positionalParams returns a parameter for each param.
func (m *goMethod) positionalParams() string {
	var b strings.Builder
	b.WriteString("ctx context.Context")
	for _, a := range m.args {
		b.WriteString(", " + a.local + " " + a.typ.expr)
	}
	if m.variadic != nil {
		b.WriteString(", " + m.variadic.local + " ..." + m.variadic.typ.expr)
	}
	return b.String()
}

// unnamedParams returns the types of serviceParams, with blank names.
func (m *goMethod) unnamedParams() string {
	types := []string{"_ context.Context"}
	switch m.style {
	case anyParams:
		types = append(types, "_ *rpcx.Request")
	case inStruct:
		types = append(types, "_ "+m.paramsType)
	case inMap:
		types = append(types, "_ map[string]"+m.values.expr)
	default:
		for _, a := range m.args {
			types = append(types, "_ "+a.typ.expr)
		}
		if m.variadic != nil {
			types = append(types, "_ ..."+m.variadic.typ.expr)
		}
	}
	return strings.Join(types, ", ")
}

func (m *goMethod) results() string {
	if m.result.expr == "" {
		return "error"
	}
	return "(" + m.result.expr + ", error)"
}

func (m *goMethod) namedResults() string {
	if m.result.expr == "" {
		return "err error"
	}
	return "_ " + m.result.expr + ", err error"
}

// handlerExpr returns the expression for the handler of the method.
func (m *goMethod) handlerExpr() string {
	call := "service." + m.goName
	open := ""
	if m.method.ParamsKind == "open" {
		open = `, "..."`
	}
	switch {
	case m.style == anyParams:
		body := "return " + call + "(ctx, req)"
		if m.result.expr == "" {
			body = "return nil, " + call + "(ctx, req)"
		}
		return "rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) { " + body + " })"
	case m.style == inMap:
		return "rpcx.Func(" + call + ")"
	case m.style == inStruct && m.method.structure() == ByName:
		return "rpcx.Func(" + call + open + ")"
	case m.style == inStruct:
		var fields []string
		for _, a := range m.args {
			fields = append(fields, a.field+": "+a.local)
		}
		return fmt.Sprintf("rpcx.Func(func(%s) %s { return %s(ctx, %s{%s}) }%s%s)", m.positionalParams(), m.results(), call,
			m.paramsType, strings.Join(fields, ", "), m.nameList(), open)
	case !m.givesNames():
		return "rpcx.Func(" + call + ")"
	}
	return "rpcx.Func(" + call + m.nameList() + open + ")"
}

// givesNames reports whether the handler of the method is made with the names of the
// params. A method by position has no names, unless rpcx.Func would take its only
// parameter as all params, or as one that can be absent.
func (m *goMethod) givesNames() bool {
	switch {
	case m.style == inStruct:
		return m.method.structure() != ByName
	case m.style != positional:
		return false
	case m.method.structure() != ByPosition:
		return true
	case len(m.args) != 1 || m.variadic != nil:
		return false
	}
	a := m.args[0]
	return a.typ.whole || a.param.Required && strings.HasPrefix(a.typ.expr, "*") && !a.typ.hasMethods()
}

// checkNames returns an error if rpcx.Func would not take the name of a param as a name.
func (m *goMethod) checkNames() error {
	for _, a := range m.args {
		if name := a.param.Name; m.givesNames() && (name == "..." || strings.HasSuffix(name, "?")) {
			return fmt.Errorf("param %.100q: the name has a meaning of its own in rpcx.Func: rename the param", name)
		}
	}
	return nil
}

// nameList returns the names of the params as further arguments of rpcx.Func, which takes
// no required param after an optional one.
func (m *goMethod) nameList() string {
	var b strings.Builder
	optional := false
	for _, a := range m.args {
		name := a.param.Name
		if optional = optional || a.optional(); optional {
			name += "?"
		}
		b.WriteString(", " + literal(name))
	}
	return b.String()
}

// isStub reports whether a function made by [rpcx.BindProxy] can call the method.
func (m *goMethod) isStub() bool {
	switch {
	case m.method.Result == nil, m.method.Name == "-", m.style == anyParams, m.style == inMap:
		return false
	case m.style == inStruct:
		return true
	}
	if slices.ContainsFunc(m.args, goArg.optional) {
		return false // absent arguments have to be left out
	}
	// A stub would send the fields of a struct that is alone.
	return len(m.args) != 1 || m.variadic != nil || !m.args[0].typ.fields
}

// clientBody returns the statements of a method of the Client.
func (m *goMethod) clientBody() string {
	var b strings.Builder
	params := "params"
	if m.style == positional {
		params = "args"
		m.writeArguments(&b)
	}
	name := literal(m.method.Name)
	switch {
	case m.method.Result == nil:
		fmt.Fprintf(&b, "\treturn client.caller.Notify(ctx, %s, %s)\n", name, params)
	case m.result.expr == "":
		fmt.Fprintf(&b, "\treturn client.caller.Call(ctx, %s, %s, nil)\n", name, params)
	default:
		fmt.Fprintf(&b, "\treturn rpcx.Call[%s](ctx, client.caller, %s, %s)\n", m.result.expr, name, params)
	}
	return b.String()
}

// writeArguments writes statements that set args to the arguments, without nil at the end.
func (m *goMethod) writeArguments(b *strings.Builder) {
	var locals []string
	for _, a := range m.args {
		locals = append(locals, a.local)
	}
	fmt.Fprintf(b, "\targs := rpcx.Args{%s}\n", strings.Join(locals, ", "))
	if m.variadic != nil {
		fmt.Fprintf(b, "\tfor _, arg := range %s {\n\t\targs = append(args, arg)\n\t}\n", m.variadic.local)
		return
	}
	ifs := 0
	for i := len(m.args) - 1; i >= 0 && !m.args[i].param.Required; i-- {
		fmt.Fprintf(b, "\tif %s == nil {\n\targs = args[:%d]\n", m.args[i].local, i)
		ifs++
	}
	b.WriteString(strings.Repeat("\t}\n", ifs))
}
