package main

import (
	"encoding/xml"
	"io"
	"os"
	"strings"
	"testing"

	"example.com/rpcx/internal/leaktest"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// texts returns the texts of an SVG document.
func texts(t *testing.T, svg []byte) (found []string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			if s := strings.TrimSpace(string(text)); s != "" && !strings.Contains(s, " ms") && !strings.Contains(s, "{") {
				found = append(found, s)
			}
		}
	}
}

// The picture in the docs has the spans of the present code. Its times are those of the
// machine that has drawn it.
func TestTraceOfTheDocs(t *testing.T) {
	spans, err := order(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	now := texts(t, drawTrace(spans))
	docs, err := os.ReadFile("../../../docs/trace.svg")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(now, "\n"), strings.Join(texts(t, docs), "\n"); got != want {
		t.Errorf("the spans are now\n%s\n\ndocs/trace.svg has\n%s\n\nDraw it again: go -C otel/conformance run ./picture trace ../../docs/trace.svg", got, want)
	}
}

// The picture of metrics is a document, with the titles of all panels.
func TestMetricsOfTheDocs(t *testing.T) {
	docs, err := os.ReadFile("../../../docs/metrics.svg")
	if err != nil {
		t.Fatal(err)
	}
	found := strings.Join(texts(t, docs), "\n")
	for _, p := range panels {
		if p.title != "durations, ms" && !strings.Contains(found, p.title) {
			t.Errorf("docs/metrics.svg has no %q", p.title)
		}
	}
	for _, p := range phases {
		if !strings.Contains(found, p.name) {
			t.Errorf("docs/metrics.svg has no %q", p.name)
		}
	}
}
