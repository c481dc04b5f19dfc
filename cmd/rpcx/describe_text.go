package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"example.com/rpcx/openrpc"
)

// describeText returns the list of methods, or everything about the methods that names
// match.
func describeText(doc *openrpc.Document, names []string) (string, error) {
	if len(names) == 0 {
		return methodList(doc), nil
	}
	var parts []string
	for _, name := range names {
		found := false
		for _, m := range doc.Methods {
			if matches(name, m.Name) {
				found = true
				parts = append(parts, methodText(doc, m))
			}
		}
		if !found {
			var all []string
			for _, m := range doc.Methods {
				all = append(all, m.Name)
			}
			return "", usagef("there is no method %q%s", name, didYouMean(name, all))
		}
	}
	return strings.Join(parts, "\n\n"), nil
}

// matches reports whether a name is the pattern. In a pattern, * stands for any text.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(name, parts[0])
	if len(parts) == 1 || !ok {
		return ok && rest == ""
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, parts[last])
}

func methodList(doc *openrpc.Document) string {
	title := oneLine(doc.Info.Title + " " + doc.Info.Version)
	lines := []string{title}
	if doc.Info.Description != "" {
		lines = append(lines, wrapText(doc.Info.Description, "")...)
	}
	for _, s := range doc.Servers {
		lines = append(lines, "at "+oneLine(s.URL))
	}
	lines = append(lines, "")
	var rows [][]string
	for _, m := range doc.Methods {
		summary := oneLine(m.Summary)
		if m.Deprecated {
			summary = strings.TrimSpace("(deprecated) " + summary)
		}
		rows = append(rows, []string{signature(m), summary})
	}
	if len(rows) == 0 {
		return strings.Join(append(lines, "no methods"), "\n")
	}
	// A long signature has its summary on the next line, so that one method does not push
	// all summaries away.
	const widest = 52
	width := 0
	for _, row := range rows {
		if w := displayWidth(row[0]); w <= widest {
			width = max(width, w)
		}
	}
	for _, row := range rows {
		line := row[0]
		if row[1] != "" {
			if displayWidth(line) > width {
				lines = append(lines, line)
				line = ""
			}
			line += strings.Repeat(" ", width-displayWidth(line)+2) + row[1]
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.Join(lines, "\n")
}

// signature returns a method as one line: name(a: number, b?: string) → string.
func signature(m *openrpc.Method) string {
	var params []string
	for _, p := range m.Params {
		mark := "?"
		if p.Required || p.Variadic {
			mark = ""
		}
		text := oneLine(p.Name) + mark + ": " + typeText(p.Schema, 0)
		if p.Variadic {
			text = "…" + text
		}
		params = append(params, text)
	}
	switch {
	case m.ParamsKind == "any":
		params = append(params, "any params")
	case m.Values != nil:
		params = append(params, "any names: "+typeText(m.Values, 0))
	case m.ParamsKind == "open":
		params = append(params, "…")
	}
	text := oneLine(m.Name) + "(" + strings.Join(params, ", ") + ")"
	if m.Result != nil {
		text += " → " + typeText(m.Result.Schema, 0)
	}
	return text
}

// methodText returns everything about a method.
func methodText(doc *openrpc.Document, m *openrpc.Method) string {
	lines := []string{signature(m)}
	indent := func(texts ...string) {
		for _, text := range texts {
			lines = append(lines, wrapText(text, "  ")...)
		}
	}
	indent(m.Summary)
	if m.Description != m.Summary {
		indent(m.Description)
	}
	if m.Deprecated {
		indent("Deprecated.")
	}
	switch m.ParamStructure {
	case openrpc.ByName:
		indent("Arguments are passed by name only.")
	case openrpc.ByPosition:
		indent("Arguments are passed by position only.")
	}
	section := func(title string, contents ...*openrpc.Content) {
		if len(contents) == 0 {
			return
		}
		lines = append(lines, "", title+":")
		for _, c := range contents {
			lines = append(lines, "  "+strings.TrimPrefix(oneLine(c.Name)+": "+typeText(c.Schema, 0), ": "))
			for _, text := range []string{c.Summary, c.Description} {
				lines = append(lines, wrapText(text, "      ")...)
			}
		}
	}
	section("Params", m.Params...)
	if m.Result != nil {
		section("Result", m.Result)
	}
	if types := componentTexts(doc, m); len(types) > 0 {
		lines = append(lines, "", "Types:")
		lines = append(lines, types...)
	}
	if len(m.Errors) > 0 {
		lines = append(lines, "", "Errors:")
		for _, e := range m.Errors {
			lines = append(lines, fmt.Sprintf("  %d  %s", e.Code, oneLine(e.Message)))
		}
	}
	if len(m.Examples) > 0 {
		lines = append(lines, "", "Examples:")
		for _, x := range m.Examples {
			lines = append(lines, "  "+exampleText(m, x))
		}
	}
	return strings.Join(lines, "\n")
}

func exampleText(m *openrpc.Method, x openrpc.Example) string {
	var args []string
	for _, p := range x.Params {
		text := compact(p.Value)
		if m.ParamStructure == openrpc.ByName {
			text = oneLine(p.Name) + "=" + text
		}
		args = append(args, text)
	}
	text := oneLine(m.Name) + "(" + strings.Join(args, ", ") + ")"
	if x.Result != nil {
		text += " → " + compact(x.Result.Value)
	}
	if name := oneLine(x.Name); name != "" {
		text = name + ": " + text
	}
	return text
}

// componentTexts returns a line for each type that the method needs, in the order of use.
func componentTexts(doc *openrpc.Document, m *openrpc.Method) (lines []string) {
	var names []string
	add := func(schema openrpc.Schema) {
		for _, name := range referencesIn(schema) {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, p := range m.Params {
		add(p.Schema)
	}
	if m.Result != nil {
		add(m.Result.Schema)
	}
	for i := 0; i < len(names) && i < maxTypes; i++ {
		schema, ok := doc.Components.Schemas[names[i]]
		if !ok {
			continue
		}
		lines = append(lines, "  "+oneLine(names[i])+" = "+typeText(schema, 0))
		add(schema)
	}
	return lines
}

// maxTypes bounds the types that are shown for one method.
const maxTypes = 100

const componentPrefix = "#/components/schemas/"

// referencesIn returns the names of the components that a schema refers to.
func referencesIn(schema openrpc.Schema) (names []string) {
	dec := json.NewDecoder(bytes.NewReader(schema))
	isRef := false
	for {
		token, err := dec.Token()
		if err != nil {
			return names
		}
		text, ok := token.(string)
		if name, is := strings.CutPrefix(text, componentPrefix); ok && isRef && is {
			names = append(names, unescapePointer(name))
		}
		isRef = ok && text == "$ref"
	}
}

// unescapePointer decodes a part of a JSON pointer.
func unescapePointer(part string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
}

// schema is the part of JSON Schema that typeText understands.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       json.RawMessage   `json:"type"` // a string, or an array of strings
	Enum       []json.RawMessage `json:"enum"`
	Const      json.RawMessage   `json:"const"`
	Format     string            `json:"format"`
	Items      json.RawMessage   `json:"items"`
	Properties json.RawMessage   `json:"properties"`
	Required   []string          `json:"required"`
	Additional json.RawMessage   `json:"additionalProperties"`
	OneOf      []json.RawMessage `json:"oneOf"`
	AnyOf      []json.RawMessage `json:"anyOf"`
	AllOf      []json.RawMessage `json:"allOf"`
}

// typeText returns a type as TypeScript writes types. What typeText does not understand is
// any.
func typeText(raw openrpc.Schema, depth int) string {
	var s schema
	if depth > 6 || json.Unmarshal(raw, &s) != nil {
		return "any"
	}
	switch {
	case s.Ref != "":
		return oneLine(unescapePointer(strings.TrimPrefix(s.Ref, componentPrefix)))
	case s.Const != nil:
		return oneLine(compact(s.Const))
	case len(s.Enum) > 0:
		return join(s.Enum, func(v json.RawMessage) string { return oneLine(compact(v)) }, " | ")
	case len(s.OneOf) > 0, len(s.AnyOf) > 0:
		return join(append(s.OneOf, s.AnyOf...), func(v json.RawMessage) string { return typeText(v, depth+1) }, " | ")
	case len(s.AllOf) > 0:
		return join(s.AllOf, func(v json.RawMessage) string { return typeText(v, depth+1) }, " & ")
	}
	var types []string
	if len(s.Type) > 0 && json.Unmarshal(s.Type, &types) != nil {
		types = []string{""}
		if json.Unmarshal(s.Type, &types[0]) != nil {
			return "any"
		}
	}
	if len(types) == 0 {
		if s.Properties == nil {
			return "any"
		}
		types = []string{"object"}
	}
	for i, t := range types {
		types[i] = s.plainType(t, depth)
	}
	return strings.Join(types, " | ")
}

// plainType returns a type that a schema names.
func (s *schema) plainType(t string, depth int) string {
	switch t {
	case "array":
		if s.Items == nil {
			return "any[]"
		}
		element := typeText(s.Items, depth+1)
		if strings.ContainsAny(element, "|&") {
			element = "(" + element + ")"
		}
		return element + "[]"
	case "object":
		return s.objectType(depth)
	case "string":
		if s.Format != "" {
			return "string<" + oneLine(s.Format) + ">"
		}
	}
	return oneLine(t)
}

func (s *schema) objectType(depth int) string {
	var parts []string
	if len(s.Properties) > 0 && s.Properties[0] == '{' {
		for _, m := range members(s.Properties) {
			mark := "?"
			if slices.Contains(s.Required, m.name) {
				mark = ""
			}
			parts = append(parts, oneLine(m.name)+mark+": "+typeText(m.value, depth+1))
		}
	}
	if len(s.Additional) > 0 && s.Additional[0] == '{' {
		parts = append(parts, "[name]: "+typeText(s.Additional, depth+1))
	}
	if len(parts) == 0 {
		return "object"
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func join[T any](values []T, text func(T) string, separator string) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = text(v)
	}
	return strings.Join(texts, separator)
}

// oneLine returns text without line breaks.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// wrapText returns the words of text as lines of 88 columns. Blank lines between
// paragraphs are kept.
func wrapText(text, indent string) (lines []string) {
	const width = 88
	line := ""
	flush := func() {
		if line != "" {
			lines = append(lines, indent+line)
		}
		line = ""
	}
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			flush()
			lines = append(lines, "")
		}
		for word := range strings.FieldsSeq(paragraph) {
			if line != "" && displayWidth(indent+line)+1+displayWidth(word) > width {
				flush()
			}
			if line != "" {
				line += " "
			}
			line += word
		}
	}
	flush()
	return lines
}
