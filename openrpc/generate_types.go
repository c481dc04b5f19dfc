package openrpc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// goType is a type in generated code.
type goType struct {
	expr string
	nils bool // the type has nil: a pointer, slice, map or any
	// fields reports whether the type is a struct, or a pointer to a struct, so that a
	// session would take its fields as params.
	fields bool
	// whole reports whether the type is a struct, map, slice or array, or a pointer to one.
	// As the only parameter without a name, rpcx.Func takes it as all params, or refuses it.
	whole bool
}

var anyType = goType{expr: "any", nils: true}

// hasMethods reports whether the type has methods for JSON, which a new type made of it
// would not have.
func (t goType) hasMethods() bool {
	return t.expr == "time.Time" || t.expr == "*time.Time" || t.expr == "*big.Int"
}

// component is a schema under components.
type component struct {
	name   string
	goName string
	schema *node
	cycle  int // components that contain each other without a pointer have the same number

	resolving bool
	typ       goType // set by resolve
	alias     string // the other type if the component is an alias
	err       error  // of a reference that leads nowhere
}

// readComponents parses the schemas under components and names their types. Schemas whose
// name is an exported identifier already keep the name.
func (g *generator) readComponents() error {
	g.components = make(map[string]*component)
	names := sortedNames(g.doc.Components.Schemas)
	slices.SortStableFunc(names, func(a, b string) int { return boolOrder(goName(a) != a) - boolOrder(goName(b) != b) })
	for _, name := range names {
		schema, err := parseNode(g.doc.Components.Schemas[name])
		if err != nil {
			return fmt.Errorf("schema %.100q: %w", name, err)
		}
		c := &component{name: name, goName: g.names.take(goName(name)), schema: schema}
		g.components[name] = c
		g.order = append(g.order, c)
	}
	g.findCycles()
	for _, c := range g.order {
		g.resolve(c)
	}
	return nil
}

// resolve sets the typ of a component. A component that is a reference to another one, or
// to another one or null, becomes an alias. resolve reports false for a component that
// refers to itself through such references alone.
func (g *generator) resolve(c *component) bool {
	switch {
	case c.typ.expr != "":
		return true
	case c.resolving:
		return false
	}
	c.resolving = true
	n, nullable := unwrap(c.schema), false
	for n.get("$ref") == nil { // as in typeOf, a reference comes first
		other, ok := nullableSchema(n)
		if !ok {
			break
		}
		n, nullable = unwrap(other), true
	}
	ref := n.get("$ref")
	if ref == nil {
		c.typ = goType{c.goName, nullable || isNilSchema(n), isStructSchema(n), isWholeSchema(n)}
		return true
	}
	target, err := g.componentOf(ref)
	if err != nil || !g.resolve(target) {
		c.err, c.alias, c.typ = err, "any", goType{expr: c.goName, nils: true}
		return true
	}
	c.alias = target.goName
	c.typ = target.typ
	c.typ.expr, c.typ.nils = c.goName, nullable || target.typ.nils
	if nullable && !target.typ.nils {
		c.alias = "*" + c.alias
	}
	return true
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (g *generator) componentOf(ref *node) (*component, error) {
	name, err := componentName(ref.text, "schemas")
	if err != nil {
		return nil, err
	}
	c := g.components[name]
	if c == nil {
		return nil, fmt.Errorf("the reference %.100q leads nowhere", ref.text)
	}
	return c, nil
}

// unwrap returns the only schema of an allOf, or n.
func unwrap(n *node) *node {
	for {
		list := n.get("allOf")
		if list == nil || len(list.elements) != 1 || n.get("properties") != nil {
			return n
		}
		n = list.elements[0]
	}
}

// schemaType returns the type that a schema names, or that its keywords suggest, or "".
func schemaType(n *node) string {
	switch t := n.get("type"); {
	case t == nil:
	case t.kind == '"':
		return t.text
	case t.kind == '[' && len(t.elements) == 1:
		return t.elements[0].text
	default:
		return ""
	}
	switch {
	case n.get("oneOf") != nil || n.get("anyOf") != nil || n.get("allOf") != nil:
		return ""
	case n.get("properties") != nil || n.get("additionalProperties") != nil:
		return "object"
	case n.get("items") != nil:
		return "array"
	}
	if values := n.get("enum"); values != nil && len(values.elements) > 0 &&
		!slices.ContainsFunc(values.elements, func(v *node) bool { return v.kind != '"' }) {
		return "string"
	}
	return ""
}

// nullableSchema returns the schema of the values of n that are not null, and whether n
// allows null beside others.
func nullableSchema(n *node) (other *node, ok bool) {
	if other, ok := withoutNull(n); ok {
		return other, true
	}
	if t := n.get("type"); t != nil && t.kind == '[' && len(t.elements) == 2 {
		if i := slices.IndexFunc(t.elements, func(e *node) bool { return e.text == "null" }); i >= 0 {
			copied := *n
			copied.members = append(slices.Clone(n.members), member{"type", t.elements[1-i]})
			return &copied, true
		}
	}
	return n, false
}

// isStructSchema reports whether the type of a schema without a reference is a struct.
func isStructSchema(n *node) bool { return schemaType(n) == "object" && structProperties(n) != nil }

// isWholeSchema reports whether the type of a schema without a reference is a struct, map,
// slice or array.
func isWholeSchema(n *node) bool {
	t := schemaType(n)
	return t == "object" || t == "array"
}

// structProperties returns the properties of a schema that can be fields, or nil.
func structProperties(n *node) *node {
	properties := n.get("properties")
	if properties == nil || properties.kind != '{' {
		return nil
	}
	seen := make(map[string]bool, len(properties.members))
	for _, p := range properties.members {
		if !tagName(p.key) || seen[p.key] {
			return nil
		}
		seen[p.key] = true
	}
	return properties
}

// isNilSchema reports whether the type of a schema without a reference has nil.
func isNilSchema(n *node) bool {
	switch schemaType(n) {
	case "string":
		return n.textOf("contentEncoding") == "base64"
	case "integer":
		return n.textOf("format") == "bigint"
	case "number", "boolean":
		return false
	case "object":
		return structProperties(n) == nil
	case "array":
		return arrayLength(n) == 0
	}
	return true
}

// maxArray bounds the length of arrays in generated code, and so the memory of a value.
const maxArray = 1024

// arrayLength returns the length if an array of simple values has a single length, or 0.
func arrayLength(n *node) int {
	low, high, items := n.get("minItems"), n.get("maxItems"), n.get("items")
	if low == nil || high == nil || low.text != high.text || items == nil {
		return 0
	}
	if items = unwrap(items); items.get("$ref") != nil {
		return 0
	}
	if _, nullable := nullableSchema(items); nullable {
		return 0
	}
	switch schemaType(items) {
	case "string", "number", "boolean", "integer":
	default:
		return 0
	}
	length, err := strconv.Atoi(low.text)
	if err != nil || length < 1 || length > maxArray {
		return 0
	}
	return length
}

// typeOf returns the type of a schema. within is the component whose schema is being
// written, or nil.
func (g *generator) typeOf(n *node, within *component) (goType, error) {
	n = unwrap(n)
	if ref := n.get("$ref"); ref != nil {
		c, err := g.componentOf(ref)
		if err != nil {
			return goType{}, err
		}
		if within != nil && within.cycle == c.cycle && !c.typ.nils {
			return c.typ.optional(), nil
		}
		return c.typ, nil
	}
	if other, ok := nullableSchema(n); ok {
		t, err := g.typeOf(other, nil)
		return t.optional(), err
	}
	switch schemaType(n) {
	case "string":
		switch {
		case n.textOf("contentEncoding") == "base64":
			return goType{expr: "[]byte", nils: true}, nil
		case n.textOf("format") == "date-time":
			g.imports["time"] = true
			return goType{expr: "time.Time"}, nil
		}
		return goType{expr: "string"}, nil
	case "integer":
		switch n.textOf("format") {
		case "bigint":
			g.imports["math/big"] = true
			return goType{expr: "*big.Int", nils: true}, nil
		case "uint64":
			return goType{expr: "uint64"}, nil
		}
		return goType{expr: "int64"}, nil
	case "number":
		return goType{expr: "float64"}, nil
	case "boolean":
		return goType{expr: "bool"}, nil
	case "array":
		return g.arrayType(n)
	case "object":
		return g.objectType(n, within)
	}
	return anyType, nil
}

func (g *generator) arrayType(n *node) (goType, error) {
	elem := anyType
	if items := n.get("items"); items != nil && items.kind == '{' {
		var err error
		if elem, err = g.typeOf(items, nil); err != nil {
			return goType{}, err
		}
	}
	if length := arrayLength(n); length > 0 {
		return goType{expr: fmt.Sprintf("[%d]%s", length, elem.expr), whole: true}, nil
	}
	return goType{expr: "[]" + elem.expr, nils: true, whole: true}, nil
}

func (g *generator) objectType(n *node, within *component) (goType, error) {
	if properties := structProperties(n); properties != nil {
		expr, err := g.structType(properties, requiredNames(n), within)
		return goType{expr: expr, fields: true, whole: true}, err
	}
	key, values := "string", n.get("additionalProperties")
	if pattern := n.get("patternProperties"); pattern != nil && len(pattern.members) == 1 {
		if m := pattern.members[0]; m.key == numberKeys || m.key == "^[0-9]+$" {
			key, values = "int64", m.value
		}
	}
	elem := anyType
	if values != nil && values.kind == '{' {
		var err error
		if elem, err = g.typeOf(values, nil); err != nil {
			return goType{}, err
		}
	}
	return goType{expr: "map[" + key + "]" + elem.expr, nils: true, whole: true}, nil
}

// structType returns a struct with the given properties as fields.
func (g *generator) structType(properties *node, required map[string]bool, within *component) (string, error) {
	var b strings.Builder
	b.WriteString("struct {\n")
	names := make(goNames)
	for _, p := range properties.members {
		inside := within
		if !required[p.key] {
			inside = nil // the field is a pointer, which ends the cycle
		}
		t, err := g.typeOf(p.value, inside)
		if err != nil {
			return "", fmt.Errorf("property %.100q: %w", p.key, err)
		}
		writeField(&b, names.take(goName(p.key)), p.key, t, required[p.key], p.value.textOf("description"))
	}
	b.WriteString("}")
	if len(properties.members) == 0 {
		return "struct{}", nil
	}
	return b.String(), nil
}

// writeField writes a field of a struct.
func writeField(b *strings.Builder, goName, name string, t goType, required bool, description string) {
	if description != "" {
		b.WriteString(comment("\t", description))
	}
	tag := name
	if !required {
		t, tag = t.optional(), name+",omitzero"
	}
	fmt.Fprintf(b, "\t%s %s %s\n", goName, t.expr, structTag("json", tag))
}

// optional returns t, or a pointer to t if t has no nil.
func (t goType) optional() goType {
	if !t.nils {
		t.expr, t.nils = "*"+t.expr, true
	}
	return t
}

// writeComponent writes the type of a component.
func (g *generator) writeComponent(w *bytes.Buffer, c *component) error {
	n := unwrap(c.schema)
	text := c.goName + " is the schema " + strconv.Quote(c.name) + "."
	if c.name == c.goName {
		text = c.goName + " is a schema of the document."
	}
	for _, key := range []string{"title", "description"} {
		if more := n.textOf(key); more != "" {
			text += "\n\n" + more
		}
	}
	w.WriteString(comment("", text))
	if c.alias != "" {
		fmt.Fprintf(w, "type %s = %s\n\n", c.goName, c.alias)
		return c.err
	}
	t, err := g.typeOf(n, c)
	if err != nil {
		return err
	}
	if t.hasMethods() {
		t.expr = "= " + t.expr
	}
	fmt.Fprintf(w, "type %s %s\n\n", c.goName, t.expr)
	if values := n.get("enum"); values != nil && t.expr == "string" {
		return g.writeConstants(w, c, values)
	}
	return nil
}

// writeConstants writes a constant for each value of an enum of strings.
func (g *generator) writeConstants(w *bytes.Buffer, c *component, values *node) error {
	fmt.Fprintf(w, "// The values of %s.\nconst (\n", c.goName)
	for _, v := range values.elements {
		if v.kind != '"' {
			return errors.New("the enum of a string has other values")
		}
		fmt.Fprintf(w, "\t%s %s = %s\n", g.names.take(c.goName+goName(v.text)), c.goName, literal(v.text))
	}
	w.WriteString(")\n\n")
	return nil
}

// findCycles numbers the components, so that components that contain each other without a
// pointer, slice or map between have the same number (Tarjan's strongly connected
// components).
func (g *generator) findCycles() {
	index := make(map[*component]int)
	low := make(map[*component]int)
	var stack []*component
	cycles := 0
	var visit func(c *component)
	visit = func(c *component) {
		index[c] = len(index) + 1
		low[c] = index[c]
		stack = append(stack, c)
		for _, next := range g.contained(c.schema, nil) {
			if index[next] == 0 {
				visit(next)
				low[c] = min(low[c], low[next])
			} else if next.cycle == 0 {
				low[c] = min(low[c], index[next])
			}
		}
		if low[c] != index[c] {
			return
		}
		cycles++
		for {
			last := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if last.cycle = cycles; last == c {
				return
			}
		}
	}
	for _, c := range g.order {
		if index[c] == 0 {
			visit(c)
		}
	}
}

// contained appends the components that a value of the schema n contains without a
// pointer, slice or map between.
func (g *generator) contained(n *node, list []*component) []*component {
	n = unwrap(n)
	if ref := n.get("$ref"); ref != nil {
		if c, err := g.componentOf(ref); err == nil {
			list = append(list, c)
		}
		return list
	}
	if _, nullable := nullableSchema(n); nullable || !isStructSchema(n) {
		return list
	}
	required := requiredNames(n)
	for _, p := range structProperties(n).members {
		if required[p.key] {
			list = g.contained(p.value, list)
		}
	}
	return list
}
