package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// formatTable returns a value as a table. An array of objects has a column for each member,
// an object a row for each member, and any other array a row for each element. Everything
// else is a single cell.
func formatTable(value json.RawMessage, terminal bool) string {
	cell := func(raw json.RawMessage) string {
		var text string
		if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
			text = strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(text)
		} else {
			text = compact(raw)
		}
		return escapeFor(terminal, text)
	}
	switch value[0] {
	case '{':
		var rows [][]string
		for _, m := range members(value) {
			rows = append(rows, []string{escapeFor(terminal, m.name), cell(m.value)})
		}
		return alignColumns(rows)
	case '[':
		var elements []json.RawMessage
		if json.Unmarshal(value, &elements) != nil {
			break
		}
		return alignColumns(tableRows(elements, cell))
	}
	return cell(value)
}

// tableRows returns the rows of an array. If all elements are objects, the first row has
// the names of the columns.
func tableRows(elements []json.RawMessage, cell func(json.RawMessage) string) (rows [][]string) {
	var names []string
	column := map[string]int{}
	objects := len(elements) > 0
	for _, element := range elements {
		if element[0] != '{' {
			objects = false
			break
		}
		for _, m := range members(element) {
			if _, ok := column[m.name]; !ok {
				column[m.name] = len(names)
				names = append(names, m.name)
			}
		}
	}
	if !objects || len(names) == 0 || len(names) > maxCells/len(elements) {
		for _, element := range elements {
			rows = append(rows, []string{cell(element)})
		}
		return rows
	}
	header := make([]string, len(names))
	for i, name := range names {
		quoted, _ := marshal(name)
		header[i] = cell(quoted)
	}
	rows = append(rows, header)
	for _, element := range elements {
		row := make([]string, len(names))
		for _, m := range members(element) {
			row[column[m.name]] = cell(m.value)
		}
		rows = append(rows, row)
	}
	return rows
}

// maxCells bounds the memory of a table. If each object has names of its own, the table is
// the square of the value. The elements are rows of one cell then.
const maxCells = 1 << 20

// member is a member of an object, in the order of the text.
type member struct {
	name  string
	value json.RawMessage
}

// members returns the members of a valid JSON object.
func members(object json.RawMessage) (ms []member) {
	dec := json.NewDecoder(bytes.NewReader(object))
	dec.Token() // {
	for dec.More() {
		var m member
		name, err := dec.Token()
		if err != nil {
			return ms
		}
		m.name, _ = name.(string)
		if dec.Decode(&m.value) != nil {
			return ms
		}
		ms = append(ms, m)
	}
	return ms
}

// maxWidth is the widest cell that makes its column wider. A wider cell moves the rest of
// its own row only: a cell of 1 MB does not add 1 MB of spaces to all rows.
const maxWidth = 200

// alignColumns joins rows, with two spaces between columns.
func alignColumns(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			if w := displayWidth(cell); w <= maxWidth {
				widths[i] = max(widths[i], w)
			}
		}
	}
	lines := make([]string, len(rows))
	for i, row := range rows {
		var b strings.Builder
		for j, cell := range row {
			b.WriteString(cell)
			if j < len(row)-1 {
				b.WriteString(strings.Repeat(" ", max(widths[j]-displayWidth(cell), 0)+2))
			}
		}
		lines[i] = strings.TrimRight(b.String(), " ")
	}
	return strings.Join(lines, "\n")
}

// displayWidth returns the number of columns of text in a terminal.
func displayWidth(text string) (columns int) {
	for _, r := range text {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
			continue // combined with the character before
		case isWide(r):
			columns += 2
		default:
			columns++
		}
	}
	return columns
}

func isWide(r rune) bool {
	kind := width.LookupRune(r).Kind()
	return kind == width.EastAsianWide || kind == width.EastAsianFullwidth
}
