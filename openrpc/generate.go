package openrpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/format"
	"go/token"
	"slices"
	"strings"
)

// Go returns Go code for the methods of d, as a file of the package pkg. The code has:
//
//   - a type for each schema under components, and for params that are passed by name
//   - the interface Service, with a method for each method of d
//   - NewHandler, which makes an [rpcx.Router] of a Service; the handlers have their
//     documentation, so that [Describe] returns the same methods, names and types again
//   - Unimplemented, a Service to embed, which has no method for peers
//   - Client, whose functions call the methods of a peer, and NewClient
//
// If d has such a name as well, the type of d keeps the name, and the other gets a number.
//
// A param or property that is not required is a pointer, a slice, a map or an any, and nil
// means absent. A schema that has no counterpart in Go, such as a oneOf, becomes any. Texts
// of d become comments. A client passes arguments by name if d says that a method takes only
// names, or takes names as well and some params are not required. A method without a
// result is a notification. The method rpc.discover is left out: use [Discover] and
// [Parse].
//
// Go fails if pkg is not an identifier, if a schema refers to no component of d, or if a
// name cannot be part of Go code. The error says which.
func (d *Document) Go(pkg string) ([]byte, error) {
	if !token.IsIdentifier(pkg) || pkg == "_" {
		return nil, fmt.Errorf("generate Go: %.100q is not the name of a package", pkg)
	}
	g := &generator{doc: d, pkg: pkg, names: make(goNames), imports: map[string]bool{rpcxPath: true}}
	code, err := g.generate()
	if err != nil {
		return nil, fmt.Errorf("generate Go: %w", err)
	}
	formatted, err := format.Source(code)
	if err != nil {
		return nil, fmt.Errorf("generate Go: %w", err)
	}
	return formatted, nil
}

const rpcxPath = "example.com/rpcx"

// generator makes the code of one file.
type generator struct {
	doc        *Document
	pkg        string
	names      goNames // of the package
	imports    map[string]bool
	components map[string]*component
	order      []*component
	methods    []*goMethod

	service, handler, unimplemented, client, newClient string // names of the fixed parts
}

func (g *generator) generate() ([]byte, error) {
	if err := g.readComponents(); err != nil {
		return nil, err
	}
	for _, fixed := range []struct {
		name *string
		want string
	}{
		{&g.service, "Service"}, {&g.handler, "NewHandler"}, {&g.unimplemented, "Unimplemented"},
		{&g.client, "Client"}, {&g.newClient, "NewClient"},
	} {
		*fixed.name = g.names.take(fixed.want)
	}
	var body bytes.Buffer
	for _, c := range g.order {
		if err := g.writeComponent(&body, c); err != nil {
			return nil, fmt.Errorf("schema %.100q: %w", c.name, err)
		}
	}
	taken := goNames{g.unimplemented: 1} // a program embeds the type beside the methods
	known := make(map[string]bool)
	for i, m := range g.doc.Methods {
		switch {
		case m == nil || m.Name == "":
			return nil, fmt.Errorf("method %d: %w", i, errNoMethodName)
		case known[m.Name]:
			return nil, fmt.Errorf("two methods are named %.100q", m.Name)
		}
		known[m.Name] = true
		if err := m.check(); err != nil { // a document that was not parsed
			return nil, fmt.Errorf("method %.100q: %w", m.Name, err)
		}
		if m.Name == "rpc.discover" {
			continue
		}
		g.imports["context"] = true
		method, err := g.readMethod(m, taken)
		if err != nil {
			return nil, fmt.Errorf("method %.100q: %w", m.Name, err)
		}
		g.methods = append(g.methods, method)
		if method.paramsType != "" {
			g.writeParamsType(&body, method)
		}
	}
	g.writeService(&body)
	if err := g.writeHandler(&body); err != nil {
		return nil, err
	}
	g.writeUnimplemented(&body)
	g.writeClient(&body)

	var file bytes.Buffer
	file.WriteString("// Code generated from an OpenRPC document. DO NOT EDIT.\n\n")
	file.WriteString(comment("", "Package "+g.pkg+" has the methods and types of "+g.doc.Info.Title+", version "+g.doc.Info.Version+"."))
	if g.doc.Info.Description != "" {
		file.WriteString("//\n" + comment("", g.doc.Info.Description))
	}
	fmt.Fprintf(&file, "package %s\n\nimport (\n", g.pkg)
	for _, path := range sortedNames(g.imports) {
		if path != rpcxPath {
			fmt.Fprintf(&file, "\t%q\n", path)
		}
	}
	fmt.Fprintf(&file, "\n\t%q\n)\n\n", rpcxPath)
	file.Write(body.Bytes())
	return file.Bytes(), nil
}

// writeParamsType writes the struct for the params of a method.
func (g *generator) writeParamsType(w *bytes.Buffer, m *goMethod) {
	fmt.Fprintf(w, "// %s holds the params of %s.\ntype %s %s\n\n", m.paramsType, m.goName, m.paramsType, m.paramsStruct())
}

func (g *generator) writeService(w *bytes.Buffer) {
	fmt.Fprintf(w, "// %s answers the methods of the document.\ntype %s interface {\n", g.service, g.service)
	for i, m := range g.methods {
		if i > 0 {
			w.WriteString("\n")
		}
		w.WriteString(m.docComment("\t"))
		fmt.Fprintf(w, "\t%s(%s) %s\n", m.goName, m.serviceParams(), m.results())
	}
	w.WriteString("}\n\n")
}

func (g *generator) writeUnimplemented(w *bytes.Buffer) {
	fmt.Fprintf(w, "// %s can be embedded in a %s. Its methods answer that there is no such method.\ntype %s struct{}\n\n",
		g.unimplemented, g.service, g.unimplemented)
	for _, m := range g.methods {
		fmt.Fprintf(w, "func (%s) %s(%s) (%s) {\n", g.unimplemented, m.goName, m.unnamedParams(), m.namedResults())
		fmt.Fprintf(w, "\terr = rpcx.MethodNotFound(%s)\n\treturn\n}\n\n", literal(m.method.Name))
	}
}

func (g *generator) writeHandler(w *bytes.Buffer) error {
	fmt.Fprintf(w, "// %s returns a router with the methods of service, and their documentation.\n", g.handler)
	fmt.Fprintf(w, "func %s(service %s) *rpcx.Router {\n\tr := rpcx.NewRouter()\n", g.handler, g.service)
	for _, m := range g.methods {
		doc, err := g.docLiteral(m)
		if err != nil {
			return fmt.Errorf("method %.100q: %w", m.method.Name, err)
		}
		fmt.Fprintf(w, "\tr.Handle(%s, rpcx.Documented(%s, %s))\n", literal(m.method.Name), m.handlerExpr(), doc)
	}
	w.WriteString("\treturn r\n}\n\n")
	return nil
}

// docLiteral returns the rpcx.Doc of a method.
func (g *generator) docLiteral(m *goMethod) (string, error) {
	var b strings.Builder
	b.WriteString("rpcx.Doc{\n")
	text := func(field, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s,\n", field, literal(value))
		}
	}
	text("Summary", m.method.Summary)
	text("Description", m.method.Description)
	if len(m.method.Tags) > 0 {
		b.WriteString("Tags: []string{")
		for _, tag := range m.method.Tags {
			b.WriteString(literal(tag.Name) + ", ")
		}
		b.WriteString("},\n")
	}
	if m.method.Result != nil {
		text("Result", m.method.Result.Description)
	}
	if len(m.method.Errors) > 0 {
		b.WriteString("Errors: []rpcx.Error{\n")
		for _, e := range m.method.Errors {
			if e.Code != int(int32(e.Code)) {
				return "", fmt.Errorf("error code %d is not a 32-bit number", e.Code)
			}
			fmt.Fprintf(&b, "{Code: %d, Message: %s", e.Code, literal(e.Message))
			if len(e.Data) > 0 {
				b.WriteString(", Data: " + g.rawLiteral(e.Data))
			}
			b.WriteString("},\n")
		}
		b.WriteString("},\n")
	}
	if len(m.method.Examples) > 0 {
		b.WriteString("Examples: []rpcx.Example{\n")
		for _, e := range m.method.Examples {
			b.WriteString(g.exampleLiteral(m.method, e))
		}
		b.WriteString("},\n")
	}
	if m.method.Deprecated {
		b.WriteString("Deprecated: true,\n")
	}
	b.WriteString("Public: true,\n}")
	return b.String(), nil
}

func (g *generator) exampleLiteral(m *Method, e Example) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{Name: %s", literal(e.Name))
	switch {
	case len(e.Params) == 0:
	case m.structure() == ByName || m.ParamsKind != "" && !allPositional(m, e):
		b.WriteString(", Params: map[string]any{")
		seen := make(map[string]bool)
		for _, p := range e.Params {
			if !seen[p.Name] {
				fmt.Fprintf(&b, "%s: %s, ", literal(p.Name), g.rawLiteral(p.Value))
			}
			seen[p.Name] = true
		}
		b.WriteString("}")
	default:
		b.WriteString(", Params: rpcx.Args{")
		for _, p := range e.Params {
			b.WriteString(g.rawLiteral(p.Value) + ", ")
		}
		b.WriteString("}")
	}
	if e.Result != nil {
		b.WriteString(", Result: " + g.rawLiteral(e.Result.Value))
	}
	b.WriteString("},\n")
	return b.String()
}

// allPositional reports whether the arguments of e have the names of the first params.
func allPositional(m *Method, e Example) bool {
	for i, p := range e.Params {
		if p.Name != m.paramName(i) {
			return false
		}
	}
	return true
}

// rawLiteral returns an expression for a value in JSON.
func (g *generator) rawLiteral(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "nil"
	}
	g.imports["encoding/json"] = true
	var compact bytes.Buffer
	if json.Compact(&compact, raw) != nil {
		return "nil" // no JSON: a Document that was not parsed
	}
	return "json.RawMessage(" + literal(compact.String()) + ")"
}

func (g *generator) writeClient(w *bytes.Buffer) {
	fmt.Fprintf(w, "// %s calls the methods of a peer. Use %s to make one.\ntype %s struct {\n", g.client, g.newClient, g.client)
	for _, m := range g.methods {
		if m.isStub() {
			w.WriteString(m.docComment("\t"))
			fmt.Fprintf(w, "\t%s func(%s) %s %s\n\n", m.goName, m.stubParams(), m.results(), structTag("rpcx", m.method.Name))
		}
	}
	w.WriteString("\tcaller rpcx.Caller\n}\n\n")
	fmt.Fprintf(w, "// %s returns a client that calls through caller.\n", g.newClient)
	fmt.Fprintf(w, "func %s(caller rpcx.Caller) (*%s, error) {\n\tclient := &%s{caller: caller}\n", g.newClient, g.client, g.client)
	w.WriteString("\tif err := rpcx.BindProxy(rpcx.Remote(caller), client); err != nil {\n\t\treturn nil, err\n\t}\n\treturn client, nil\n}\n\n")
	for _, m := range g.methods {
		if !m.isStub() {
			w.WriteString(m.docComment(""))
			fmt.Fprintf(w, "func (client *%s) %s(%s) %s {\n%s}\n\n", g.client, m.goName, m.clientParams(), m.results(), m.clientBody())
		}
	}
}

// required returns the names under "required" of a schema.
func requiredNames(n *node) map[string]bool {
	names := make(map[string]bool)
	if list := n.get("required"); list != nil {
		for _, e := range list.elements {
			if e.kind == '"' {
				names[e.text] = true
			}
		}
	}
	return names
}

// isNull reports whether the schema n allows null alone.
func isNull(n *node) bool { return n.textOf("type") == "null" }

// withoutNull returns the other schema if n allows a schema or null, in one of the usual
// ways to say so.
func withoutNull(n *node) (other *node, ok bool) {
	for _, key := range []string{"oneOf", "anyOf"} {
		if list := n.get(key); list != nil && list.kind == '[' && len(list.elements) == 2 {
			if i := slices.IndexFunc(list.elements, isNull); i >= 0 {
				return list.elements[1-i], true
			}
		}
	}
	return nil, false
}
