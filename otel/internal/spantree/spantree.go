// Package spantree writes the spans of a test as text, for comparison.
package spantree

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// Check checks the spans that have ended, and that all have ended. The form of want is that
// of [Lines], with two more tabs before each line.
func Check(t testing.TB, spans *tracetest.SpanRecorder, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(want)) {
		lines = append(lines, strings.TrimRight(strings.TrimPrefix(line, "\t\t"), "\n"))
	}
	if got := strings.Join(Lines(spans), "\n"); got != strings.Join(lines, "\n") {
		t.Errorf("spans:\n%s\n\nwant:\n%s", got, strings.Join(lines, "\n"))
	}
	if started, ended := len(spans.Started()), len(spans.Ended()); started != ended {
		t.Errorf("%d spans have begun, and %d have ended", started, ended)
	}
}

// Lines returns a line for each span that has ended, indented below its parent: kind, name,
// attributes that are not the same for all, links. Spans with the same parent are in the
// order in which they have begun.
func Lines(recorder *tracetest.SpanRecorder) []string {
	begun := make(map[trace.SpanID]int)
	for i, s := range recorder.Started() {
		begun[s.SpanContext().SpanID()] = i
	}
	spans := recorder.Ended()
	slices.SortFunc(spans, func(a, b sdktrace.ReadOnlySpan) int {
		return cmp.Compare(begun[a.SpanContext().SpanID()], begun[b.SpanContext().SpanID()])
	})
	names := make(map[trace.SpanID]string)
	for _, s := range spans {
		names[s.SpanContext().SpanID()] = s.SpanKind().String() + " " + s.Name()
	}
	var lines []string
	var walk func(parent trace.SpanID, indent string)
	walk = func(parent trace.SpanID, indent string) {
		for _, s := range spans {
			known := names[s.Parent().SpanID()] != ""
			if s.Parent().SpanID() != parent && (known || parent.IsValid()) {
				continue
			}
			var line strings.Builder
			line.WriteString(indent + describe(s))
			for _, link := range s.Links() {
				line.WriteString(" → " + cmp.Or(names[link.SpanContext.SpanID()], "a stranger's span"))
			}
			if s.Parent().IsValid() && !known {
				line.WriteString(" below a span that has not ended here")
			}
			lines = append(lines, line.String())
			walk(s.SpanContext().SpanID(), indent+"\t")
		}
	}
	walk(trace.SpanID{}, "")
	return lines
}

// Name returns the indentation, the kind and the name of a line without its attributes.
func Name(line string) string {
	words := strings.Split(line, " ")
	end := slices.IndexFunc(words, func(w string) bool { return strings.Contains(w, "=") || w == "→" })
	if end < 0 {
		return line
	}
	return strings.Join(words[:end], " ")
}

// describe returns the text of a span for Lines.
func describe(s sdktrace.ReadOnlySpan) string {
	text := s.Name()
	if s.SpanKind() != trace.SpanKindInternal {
		text = strings.ToUpper(s.SpanKind().String()) + " " + text
	}
	attrs := s.Attributes()
	slices.SortFunc(attrs, func(a, b attribute.KeyValue) int { return cmp.Compare(a.Key, b.Key) })
	failed := false
	for _, a := range attrs {
		switch {
		case a.Key == "rpc.system.name" && a.Value.AsString() == "jsonrpc",
			a.Key == "jsonrpc.protocol.version" && a.Value.AsString() == "2.0",
			a.Key == "rpc.method" && a.Value.AsString() == s.Name(),
			strings.HasPrefix(string(a.Key), "network.peer."), strings.HasPrefix(string(a.Key), "server."):
			continue // the same for all, or of a test of their own
		case a.Key == "error.type":
			failed = true
		}
		text += fmt.Sprintf(" %s=%s", a.Key, a.Value.String())
	}
	if failed != (s.Status().Code == codes.Error) {
		text += " and the status " + s.Status().Code.String()
	}
	return text
}
