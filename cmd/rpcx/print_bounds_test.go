package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// The size of what is printed is bounded by the size of the reply.

func TestDeepValueIsOneLine(t *testing.T) {
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	value := "[" + strings.Repeat(deep+",", 10) + "1]"
	var out bytes.Buffer
	p := &printer{w: &out, form: "json"}
	if err := p.print(t.Context(), json.RawMessage(value)); err != nil {
		t.Fatal(err)
	}
	if out.String() != value+"\n" {
		t.Errorf("%d bytes were printed, want the %d bytes of the value", out.Len(), len(value))
	}
}

func TestIndentedSize(t *testing.T) {
	for _, value := range []string{`1`, `"a,[\"{"`, `[]`, `{}`, `[1,2]`, `{"a":[1,{"b":[]}],"c":"[[["}`, ` [ 1 , 2 ] `} {
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(value), "", "  "); err != nil {
			t.Fatal(err)
		}
		if got := indentedSize(json.RawMessage(value)); got < b.Len() || got > 2*b.Len()+8 {
			t.Errorf("indentedSize(%s) = %d, want %d or a little more", value, got, b.Len())
		}
	}
}

func TestTableOfHostileValues(t *testing.T) {
	t.Run("each object has names of its own", func(t *testing.T) {
		var objects []string
		for i := range 2000 {
			objects = append(objects, fmt.Sprintf(`{"k%d":1}`, i))
		}
		got := formatTable(json.RawMessage("["+strings.Join(objects, ",")+"]"), false)
		if want := strings.Join(objects, "\n"); got != want {
			t.Errorf("got %.100q, want a row for each object", got)
		}
	})
	t.Run("a cell is very wide", func(t *testing.T) {
		wide := strings.Repeat("x", 100_000)
		got := formatTable(json.RawMessage(`[{"a":"`+wide+`","b":1},{"a":"yy","b":2}]`), false)
		if want := "a   b\n" + wide + "  1\nyy  2"; got != want {
			t.Errorf("got %d bytes, want %d", len(got), len(want))
		}
	})
}

// A message as deep as JSON may be is shown and recorded, too.
func TestProxyShowsDeepMessages(t *testing.T) {
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
	var out bytes.Buffer
	l := &proxyLog{e: &env{stderr: &out}, p: &printer{w: &out, form: "text"}, conn: &connFlags{}, stop: func(err error) { t.Error(err) }}
	l.show(1, fromClient, tapped{message: []byte(deep)}, newCallTable())
	if !strings.Contains(out.String(), deep) {
		t.Errorf("got %.100q", out.String())
	}
}
