package natsrpcx

import (
	"net/url"
	"strings"
	"testing"

	"example.com/rpcx"
)

func TestMethodSubject(t *testing.T) {
	for _, test := range []struct{ method, want string }{
		{"sum", "sum"},
		{"a/b", "a.b"},
		{"a.b", "a.b"},
		{"textDocument/didOpen", "textDocument.didOpen"},
		{"eth_getBlockByNumber", "eth_getBlockByNumber"},
		{"$/cancelRequest", "%24.cancelRequest"},
		{"*", "%2A"},
		{">", "%3E"},
		{"a.>", "a.%3E"},
		{"%", "%25"},
		{"%2A", "%252A"},
		{"a b\r\n", "a%20b%0D%0A"},
		{"é", "%C3%A9"},
		{"\x00\xff", "%00%FF"},
		{"", "%"},
		{"/", "%.%"},
		{"a//b", "a.%.b"},
		{"a.", "a.%"},
		{strings.Repeat("x", 255), strings.Repeat("x", 255)},
		{strings.Repeat("x", 256), ""},
		{strings.Repeat(">", 85), strings.Repeat("%3E", 85)},
		{strings.Repeat(">", 86), ""},
		{strings.Repeat(".", 127), strings.Repeat("%.", 127) + "%"},
		{strings.Repeat(".", 128), ""},
	} {
		subject, ok := methodSubject(test.method)
		if !ok {
			subject = ""
		}
		if subject != test.want {
			t.Errorf("%.20q: %s, want %s", test.method, subject, test.want)
		}
	}
}

// decodeSubject is the inverse of encodeSubject with one separator.
func decodeSubject(t *testing.T, subject, separator string) string {
	var segments []string
	for segment := range strings.SplitSeq(subject, ".") {
		if segment == "%" {
			segment = ""
		}
		name, err := url.PathUnescape(segment)
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		segments = append(segments, name)
	}
	return strings.Join(segments, separator)
}

func FuzzSubject(f *testing.F) {
	for _, name := range []string{"sum", "a/b.c", "*", ">", "$SYS.>", "a..b", " ", "\r\n", "%", "%announce", "", "é", strings.Repeat("é", 100)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, separators := range []string{"/.", "."} {
			subject, ok := encodeSubject(name, separators)
			if !ok {
				if len(name) <= maxSubject/3 {
					t.Errorf("%q is too long", name)
				}
				continue
			}
			if len(subject) > maxSubject || subject == "" {
				t.Fatalf("%q has a subject of %d bytes", name, len(subject))
			}
			for segment := range strings.SplitSeq(subject, ".") {
				if segment == "" || strings.HasPrefix(segment, "%announce") || strings.HasPrefix(segment, "%topic") || strings.HasPrefix(segment, "%longtopic") {
					t.Fatalf("%q has the subject %q", name, subject)
				}
				for _, c := range []byte(segment) {
					if !isPlainByte(c) && c != '%' {
						t.Fatalf("%q has the subject %q", name, subject)
					}
				}
			}
			want := name
			if separators == "/." {
				want = strings.ReplaceAll(name, "/", ".")
			}
			if got := decodeSubject(t, subject, "."); got != want {
				t.Fatalf("%q has the subject %q, which means %q", name, subject, got)
			}
		}
	})
}

func TestTopicSubject(t *testing.T) {
	b := &broker{&Config{Prefix: "p.q"}}
	seen := make(map[string]string)
	for _, topic := range []string{"", "newHeads", "a.b", "a/b", "a%2Fb", "*", ">", "é", strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x", 4096), strings.Repeat(">", 86)} {
		subject := b.topicSubject(topic)
		if other, ok := seen[subject]; ok {
			t.Errorf("%q and %q have the subject %s", topic, other, subject)
		}
		seen[subject] = topic
		if !strings.HasPrefix(subject, "p.q.%") || strings.ContainsAny(subject, "*> ") || len(subject) > 300 {
			t.Errorf("%q has the subject %s", topic, subject)
		}
	}
}

// What a gateway says of its refusals is understood by NotStarted.
func TestBusy(t *testing.T) {
	for _, test := range []struct {
		started bool
		reason  string
	}{{false, "no worker"}, {true, "connection lost"}} {
		e := busy("why", test.reason, test.started)
		if e.Code != rpcx.CodeServerBusy || e.NotStarted() == test.started || reasonOf(e) != test.reason {
			t.Errorf("%v: %v", test, e)
		}
	}
	if r := reasonOf(rpcx.ServerBusy("why")); r != "unknown" {
		t.Error(r)
	}
}
