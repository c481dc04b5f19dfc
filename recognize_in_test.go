package rpcx

import (
	"strings"
	"testing"
)

func TestRecognize(t *testing.T) {
	const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	all := []framing{framedOtherwise, framedByLines, framedByValues, framedByHeaders, framedByLengths}
	for _, c := range []struct {
		name, input string
		at          []framing
		want        string // the beginning; "" if nothing is recognized
	}{
		{"a response", "HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", all, `HTTP ("HTTP/1.1 400 Bad Request")`},
		{"a response of 1.0", "HTTP/1.0 200 OK\r\n", all, "HTTP ("},
		{"a response that is cut off", "HTTP/1.", all, "HTTP ("},
		{"a request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", all, `HTTP ("GET / HTTP/1.1")`},
		{"a request with a bare newline", "POST /rpc HTTP/1.0\nContent-Length: 2\n\n{}", all, "HTTP ("},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", all, "HTTP ("},
		{"a request to a proxy", "CONNECT example.com:443 HTTP/1.1\r\n", all, "HTTP ("},
		{"an access log", "GET / HTTP/1.1 200 17\n", all, ""},
		{"words", "GET the HTTP/1.1 thing\n", all, ""},
		{"lower case", "get / HTTP/1.1\n", all, ""},
		{"a name alone", "HTTP/server is up\n", all, ""},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", all, "SSH ("},
		{"a client's hello", hello, all, "a TLS handshake"},
		{"a server's hello", strings.Replace(hello, "\x00\x01\x00", "\x00\x02\x00", 1), all, "a TLS handshake"},
		{"another record", "\x17\x03\x03\x00\x10\x01", all, ""},
		{"a record that is too long", "\x16\x03\x01\x50\x00\x01", all, ""},
		{"another version", "\x16\x04\x01\x02\x00\x01", all, ""},
		{"a record cut off", "\x16\x03\x01\x02\x00", all, ""},
		{"an alert", "\x15\x03\x03\x00\x02\x02\x46", all, "a TLS alert"},
		{"an alert that is none", "\x15\x03\x03\x00\x03\x02\x46", all, ""},
		{"UTF-16, little-endian", "\xff\xfe{\x00\"\x00", all, "UTF-16"},
		{"UTF-16, big-endian", "\xfe\xff\x00{\x00\"", all, "UTF-16"},
		{"a mark alone", "\xff\xfe", all, "UTF-16"},
		{"UTF-16 without a mark", "{\x00\"\x00", []framing{framedOtherwise, framedByLines, framedByValues, framedByHeaders}, "UTF-16"},
		{"the other one", "\x00[\x00{", []framing{framedOtherwise, framedByLines, framedByValues, framedByHeaders}, "UTF-16"},
		{"a length that looks like it", "\x00{\x00\"", []framing{framedByLengths}, ""},
		{"headers", "Content-Length: 2\r\n\r\n{}", []framing{framedOtherwise, framedByLines, framedByValues, framedByLengths}, "messages with headers"},
		{"headers in another case", "content-length:2\r\n", []framing{framedByLines}, "messages with headers"},
		{"other headers", "Content-Type: application/vscode-jsonrpc\r\n", []framing{framedByLines}, "messages with headers"},
		{"headers where they are expected", "Content-Length: 2\r\n\r\n{", []framing{framedByHeaders}, ""},
		{"lengths", "\x00\x00\x01\x00{\"jsonrpc\"", []framing{framedByLines, framedByValues, framedByHeaders}, "messages with their lengths"},
		{"lengths where they are expected", "\x00\x00\x01\x00{\"jsonrpc\"", []framing{framedByLengths, framedOtherwise}, ""},
		{"an object", `{"jsonrpc":"2.0"}`, []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"an indented object", "{\n  \"jsonrpc\": ", []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"a batch", `[{"jsonrpc":"2.0"}]`, []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"a message of Aiomas", `[0,1,["a",[],{}]]`, []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"no object", `{jsonrpc}`, []framing{framedByLengths, framedByHeaders}, ""},
		{"a bracket", `{`, []framing{framedByLengths, framedByHeaders}, ""},
		{"two values", `{"a":1}{"b":2}`, []framing{framedByLines}, "JSON without newlines"},
		{"two values with a space", `{"a":1} [{"b":`, []framing{framedByLines}, "JSON without newlines"},
		{"a line too long", "{\"a\":1}\n{\"b\":2}", []framing{framedByLines}, ""},
		{"a value that has not ended", `{"a":1`, []framing{framedByLines}, ""},
		{"a value and text", `{"a":1} is what I got`, []framing{framedByLines}, ""},
		{"a value", `{"a":1}`, []framing{framedByLines}, ""},
		{"two values where that is expected", `{"a":1}{"b":2`, []framing{framedByValues, framedOtherwise}, ""},
		{"text", "Starting server on port 80\n", all, ""},
		{"nothing", "", all, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range c.at {
				got := recognize([]byte(c.input), f, false)
				if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
					t.Errorf("framed as %d: %q, want %q", f, got, c.want)
				}
			}
		})
	}
	for input, want := range map[string]string{`{"a":1}`: likeValues, "[1] ": likeValues, `{"a":1`: "", "12": ""} {
		if got := recognize([]byte(input), framedByLines, true); got != want {
			t.Errorf("%s at the end of input: %q, want %q", input, got, want)
		}
	}
}

// What is recognized does not depend on how the framer is passed.
func TestFramingOf(t *testing.T) {
	for want, framers := range map[framing][]Framer{
		framedByLines:   {NewlineFramer{}, &NewlineFramer{}},
		framedByValues:  {JSONFramer{}, &JSONFramer{}},
		framedByHeaders: {HeaderFramer{}, &HeaderFramer{}},
		framedByLengths: {LengthFramer{}, &LengthFramer{}, BitcoinFramer{}, &BitcoinFramer{}},
		framedOtherwise: {struct{ Framer }{NewlineFramer{}}},
	} {
		for _, f := range framers {
			if got := framingOf(f); got != want {
				t.Errorf("%T: %d, want %d", f, got, want)
			}
		}
	}
}
