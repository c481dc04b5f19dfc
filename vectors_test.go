package rpcx

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// loadVectors returns the cases of a file of testdata/vectors, or of the folder
// that the environment variable RPCX_VECTORS names instead. In an any of T,
// numbers are json.Numbers.
func loadVectors[T any](t *testing.T, file string) []T {
	t.Helper()
	var content struct{ Cases []T }
	if err := decodeExact(readVectors(t, file), &content); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(content.Cases) == 0 {
		t.Fatalf("%s has no cases", file)
	}
	return content.Cases
}

// readVectors returns a file of vectors.
func readVectors(t *testing.T, file string) []byte {
	t.Helper()
	dir := cmp.Or(os.Getenv("RPCX_VECTORS"), filepath.Join("testdata", "vectors"))
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// decodeExact decodes JSON without rounding its numbers.
func decodeExact(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec.Decode(v)
}

// skipRule passes over the cases that have no counterpart here, for a reason
// that lies in a property of the case.
type skipRule[T any] struct {
	reason  string
	applies func(c T) bool
}

// skipVector skips the test of a case to which a rule applies.
func skipVector[T any](t *testing.T, rules []skipRule[T], c T) {
	t.Helper()
	for _, rule := range rules {
		if rule.applies(c) {
			t.Skip(rule.reason)
		}
	}
}

// vectorBytes are bytes as the vectors write them: a string (its UTF-8),
// {"hex": "00ff"}, or {"repeat": [[text, count], …]} for long ones.
type vectorBytes []byte

func (b *vectorBytes) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		var text string
		err := json.Unmarshal(data, &text)
		*b = vectorBytes(text)
		return err
	}
	var form struct {
		Hex    string
		Repeat [][2]json.RawMessage
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	var err error
	*b, err = hex.DecodeString(form.Hex)
	for _, part := range form.Repeat {
		var text string
		var count int
		if err := json.Unmarshal(part[0], &text); err != nil {
			return err
		}
		if err := json.Unmarshal(part[1], &count); err != nil {
			return err
		}
		*b = append(*b, strings.Repeat(text, count)...)
	}
	return err
}

func TestVectorBytes(t *testing.T) {
	for in, want := range map[string]string{
		`"é\n"`:                               "é\n",
		`{"hex":"00ff"}`:                      "\x00\xff",
		`{"hex":""}`:                          "",
		`{"repeat":[["[",3],["",9],["]",2]]}`: "[[[]]",
	} {
		var got vectorBytes
		if err := json.Unmarshal([]byte(in), &got); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
}

// vectorProtocols are the protocols by the names that the vectors give them.
var vectorProtocols = map[string]Protocol{
	"v1": JSONRPCv1, "v2": JSONRPCv2, "loose": JSONRPCLoose, "auto": JSONRPCAutoDetect, "any": JSONRPCv2,
}

// vectorMessage is an outgoing message. JSON is nil if Raw is no JSON.
type vectorMessage struct {
	Raw  string
	JSON any
}

// vectorError is an error of the original: one that it received, or a violation
// of the protocol, with what it answers to that.
type vectorError struct {
	Type       string
	Code       any
	Message    any
	Prefix     *string        `json:"message_prefix"`
	Reply      *vectorMessage `json:"error_reply"`
	IsResponse bool           `json:"is_response"`
	ResponseID any            `json:"response_id"`
}

// pythonTexts are the beginnings of texts that end in a value as Python writes it.
var pythonTexts = []string{"invalid request arguments: ", `invalid "id": `, "ill-formed response error object: "}

// check compares an error's code and text; nil as the expected text is any.
func (want *vectorError) check(t *testing.T, code int, text string) {
	t.Helper()
	for _, prefix := range pythonTexts {
		if message, ok := want.Message.(string); ok && want.Prefix == nil && strings.HasPrefix(message, prefix) {
			want.Prefix = &prefix
		}
	}
	if !sameValue(json.Number(strconv.Itoa(code)), want.Code) {
		t.Errorf("got code %d, want %v", code, want.Code)
	}
	switch {
	case want.Prefix != nil && !strings.HasPrefix(text, *want.Prefix):
		t.Errorf("got text %q, want one that starts with %q", text, *want.Prefix)
	case want.Prefix == nil && want.Message != nil && !sameValue(text, want.Message):
		t.Errorf("got text %q, want %q", text, want.Message)
	case text == "" && want.Message != "":
		t.Error("the error has no text")
	}
}

// checkError compares an error of any type that is expected to come from a peer
// or to be a violation of the protocol.
func (want *vectorError) checkError(t *testing.T, err error) {
	t.Helper()
	switch err := err.(type) {
	case *Error:
		if want.Type == "ProtocolError" {
			t.Errorf("got %v, want a *ProtocolError", err)
		}
		want.check(t, err.Code, err.Message)
	case *ProtocolError:
		if want.Type == "RPCError" {
			t.Errorf("got %v, want an *Error", err)
		}
		want.check(t, err.Code, err.Message)
	default:
		t.Errorf("got %v (%T), want error %v %v", err, err, want.Code, want.Message)
	}
}

// jsonValue decodes JSON exactly.
func jsonValue(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := decodeExact(data, &v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return v
}

// checkJSON compares JSON with a value of the vectors.
func checkJSON(t *testing.T, what string, got []byte, want any) {
	t.Helper()
	if !json.Valid(got) {
		t.Errorf("%s: got %q, which is no JSON", what, got)
	} else if !sameValue(jsonValue(t, got), want) {
		t.Errorf("%s: got %s, want %v", what, got, want)
	}
}

// sameValue reports whether got, decoded exactly, is the value that the vectors
// describe as want.
func sameValue(got, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		if len(want) == 1 {
			if same, special := sameSpecial(got, want); special {
				return same
			}
		}
		got, ok := got.(map[string]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for key, v := range want {
			if g, ok := got[key]; !ok || !sameValue(g, v) {
				return false
			}
		}
		return true
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for i := range want {
			if !sameValue(got[i], want[i]) {
				return false
			}
		}
		return true
	case json.Number:
		got, ok := got.(json.Number)
		return ok && sameNumber(got, want)
	}
	return got == want
}

// sameSpecial compares with a value for which JSON has no form, or none that
// every program reads alike.
func sameSpecial(got any, want map[string]any) (same, special bool) {
	number, isNumber := got.(json.Number)
	if text, ok := want["$float"].(string); ok {
		// A number that was too large for the original's floats is text here.
		f, _ := strconv.ParseFloat(string(number), 64)
		return isNumber && (text == "Infinity" && math.IsInf(f, 1) || text == "-Infinity" && math.IsInf(f, -1)), true
	}
	if digits, ok := want["$bigint"].(string); ok {
		return isNumber && sameNumber(number, json.Number(digits)), true
	}
	if text, ok := want["$lone_surrogates"].(string); ok {
		return got == loneSurrogates(text), true
	}
	_, omitted := want["$omitted"]
	return true, omitted
}

// loneSurrogates reads a text that is escaped as in JSON. No string of Go's can
// hold an unpaired surrogate: it becomes U+FFFD.
func loneSurrogates(escaped string) string {
	var text string
	if err := json.Unmarshal([]byte(`"`+escaped+`"`), &text); err != nil {
		panic(err)
	}
	return text
}

// sameNumber compares exactly, unless the original had a float and so has
// rounded the number itself.
func sameNumber(got, want json.Number) bool {
	if strings.ContainsAny(string(want), ".eE") {
		g, _ := got.Float64()
		w, _ := want.Float64()
		return g == w
	}
	g, ok := new(big.Rat).SetString(string(got))
	w, ok2 := new(big.Rat).SetString(string(want))
	return ok && ok2 && g.Cmp(w) == 0
}

// vectorEnvelope is a message or a member of a batch as the tests read it,
// apart from the library: all values of each key, as they stand.
type vectorEnvelope map[string][]json.RawMessage

// readEnvelope reads an object; it returns nil for anything else.
func readEnvelope(raw []byte) vectorEnvelope {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil
	}
	e := vectorEnvelope{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil
		}
		e[key.(string)] = append(e[key.(string)], value)
	}
	return e
}

// twice reports whether a key that matters is given twice.
func (e vectorEnvelope) twice() bool {
	for _, key := range envelopeKeys {
		if len(e[key]) > 1 {
			return true
		}
	}
	return false
}

func (e vectorEnvelope) has(key string) bool { return len(e[key]) > 0 }

// get returns the last value of key, nil if it has none.
func (e vectorEnvelope) get(key string) json.RawMessage {
	if values := e[key]; len(values) > 0 {
		return values[len(values)-1]
	}
	return nil
}

// likeResponse reports whether the message can be a response by itself.
func (e vectorEnvelope) likeResponse() bool {
	return e != nil && !e.has("method") && (e.has("result") || e.has("error"))
}

// neither reports whether it is neither a request nor a response.
func (e vectorEnvelope) neither() bool {
	return e != nil && !e.has("method") && !e.has("result") && !e.has("error")
}

func (e vectorEnvelope) stringMethod() bool {
	method := e.get("method")
	return method != nil && method[0] == '"'
}

func (e vectorEnvelope) booleanID() bool {
	id := e.get("id")
	return id != nil && (id[0] == 't' || id[0] == 'f')
}

// textID reports whether the id is a string.
func (e vectorEnvelope) textID() bool {
	id := e.get("id")
	return id != nil && id[0] == '"'
}

// halfResponse reports whether the message has a result or an error, and not both; an
// error of null by itself is none.
func (e vectorEnvelope) halfResponse() bool {
	return e.has("result") != e.has("error") && string(e.get("error")) != "null"
}

// roundedID reports whether the id is an integer only in the original, which has
// rounded it to a float.
func (e vectorEnvelope) roundedID() bool {
	id := string(e.get("id"))
	number, ok := new(big.Rat).SetString(id)
	if !ok || !strings.ContainsAny(id, ".eE") {
		return false
	}
	f, exact := number.Float64()
	return !exact && f == math.Trunc(f)
}

// id returns the id under which an error is answered: the message's, if it is
// given once and is legal, or nil.
func (e vectorEnvelope) id(protocol string) json.RawMessage {
	id := e.get("id")
	if len(e["id"]) != 1 || e.booleanID() || id[0] == 'n' || protocol != "v1" && (id[0] == '[' || id[0] == '{') {
		return nil
	}
	return id
}

type addressCase struct {
	Name           string
	Op             string
	Host, Port     any // text or a number
	Protocol       any
	Address        any
	String         any
	DefaultHost    any    `json:"default_host"`
	DefaultPort    any    `json:"default_port"`
	HasDefaultFunc bool   `json:"has_default_func"`
	Defaults       string // the name of a table
	A, B           []any
	PythonSpecific bool `json:"python_specific"`
	Expect         addressExpect
}

type addressExpect struct {
	Value          any
	Kind, Text     string // of a host alone
	Host           struct{ Kind, Text string }
	Port           int
	Protocol       string
	String         string
	Error, Message string
}

var addressRules = []skipRule[addressCase]{
	{"in Go, what is neither text nor a number cannot be passed", func(c addressCase) bool {
		return c.Expect.Error == "TypeError"
	}},
	{"in Go, a Boolean is no port", func(c addressCase) bool { _, is := c.Port.(bool); return is }},
}

// decided returns the case with what is expected of rpcx: only ASCII, where
// Python's patterns and digits go beyond it, and nothing before a final newline.
func (c addressCase) decided() addressCase {
	if !c.PythonSpecific {
		return c
	}
	for _, value := range []any{c.Host, c.Port, c.Protocol, c.Address, c.String} {
		text, _ := value.(string)
		if strings.ContainsFunc(text, func(r rune) bool { return r == '\n' || r > 0x7f }) {
			c.Expect = addressExpect{Error: "ValueError"}
			if c.Op == "is_valid_hostname" {
				c.Expect = addressExpect{Value: false}
			}
		}
	}
	return c
}

func TestVectorsAddress(t *testing.T) {
	tables := vectorDefaults(t)
	for _, c := range loadVectors[addressCase](t, "address.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, addressRules, c)
			c = c.decided()
			switch c.Op {
			case "is_valid_hostname":
				if got := isHostname(c.Host.(string)); got != c.Expect.Value {
					t.Errorf("got %v", got)
				}
			case "classify_host":
				got, err := parseHost(c.Host.(string))
				c.Expect.Host.Kind, c.Expect.Host.Text = c.Expect.Kind, c.Expect.Text
				c.Expect.check(t, ServiceAddr{address: got}, "", err)
			case "validate_port":
				port, err := parsePort(fmt.Sprint(c.Port))
				if c.Expect.checkError(t, err); err == nil && fmt.Sprint(port) != fmt.Sprint(c.Expect.Value) {
					t.Errorf("got %d", port)
				}
			case "validate_protocol":
				got, err := NewServiceAddr(c.Protocol.(string), NetAddress{name: "a", port: 1})
				if c.Expect.checkError(t, err); err == nil && got.Protocol() != c.Expect.Value {
					t.Errorf("got %q", got.Protocol())
				}
			case "net_address":
				got, err := newNetAddress(c.Host.(string), fmt.Sprint(c.Port))
				c.Expect.check(t, ServiceAddr{address: got}, got.String(), err)
			case "net_address_from_string":
				var defaults []AddressDefaults
				if c.HasDefaultFunc {
					defaults = []AddressDefaults{vectorDefault("", c.DefaultHost, c.DefaultPort)}
				}
				got, err := ParseNetAddress(c.String.(string), defaults...)
				c.Expect.check(t, ServiceAddr{address: got}, got.String(), err)
			case "service":
				got, err := NewServiceAddr(c.Protocol.(string), NetAddress{name: "a", port: 1})
				if err == nil { // in the order in which the original checks them
					got.address, err = ParseNetAddress(c.Address.(string))
				}
				c.Expect.check(t, got, got.String(), err)
			case "service_from_string":
				defaults, ok := tables[c.Defaults]
				if !ok {
					t.Fatalf("no table %q", c.Defaults)
				}
				got, err := ParseServiceAddr(c.String.(string), defaults...)
				c.Expect.check(t, got, got.String(), err)
			case "net_address_equal":
				got := vectorAddress(t, c.A) == vectorAddress(t, c.B)
				if got != c.Expect.Value {
					t.Errorf("equal: %v", got)
				}
			case "service_equal":
				got := vectorService(t, c.A) == vectorService(t, c.B)
				if got != c.Expect.Value {
					t.Errorf("equal: %v", got)
				}
			default:
				t.Fatalf("unknown op %q", c.Op)
			}
		})
	}
}

// vectorDefaults returns the tables of defaults by name.
func vectorDefaults(t *testing.T) map[string][]AddressDefaults {
	var content struct {
		Tables map[string]*struct {
			Protocol   any
			Host, Port map[string]any
		} `json:"default_tables"`
	}
	if err := decodeExact(readVectors(t, "address.json"), &content); err != nil {
		t.Fatal(err)
	}
	tables := make(map[string][]AddressDefaults)
	for name, table := range content.Tables {
		tables[name] = nil
		if table == nil {
			continue
		}
		protocol, _ := table.Protocol.(string)
		tables[name] = []AddressDefaults{{Protocol: protocol}}
		for protocol, host := range table.Host {
			tables[name] = append(tables[name], vectorDefault(protocol, host, nil))
		}
		for protocol, port := range table.Port {
			tables[name] = append(tables[name], vectorDefault(protocol, nil, port))
		}
	}
	return tables
}

func vectorDefault(protocol string, host, port any) AddressDefaults {
	d := AddressDefaults{Protocol: protocol}
	d.Host, _ = host.(string)
	if port != nil {
		fmt.Sscan(fmt.Sprint(port), &d.Port)
	}
	return d
}

func vectorAddress(t *testing.T, hostPort []any) NetAddress {
	t.Helper()
	a, err := newNetAddress(hostPort[0].(string), fmt.Sprint(hostPort[1]))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func vectorService(t *testing.T, parts []any) ServiceAddr {
	t.Helper()
	a, err := ParseServiceAddr(fmt.Sprintf("%s://%s", parts[0], parts[1]))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// check compares what an op returned, and the text that it has, if it is a whole
// address.
func (e addressExpect) check(t *testing.T, got ServiceAddr, text string, err error) {
	t.Helper()
	if e.checkError(t, err); err != nil {
		return
	}
	host := got.Address()
	kind := "name"
	switch {
	case host.IP().Is4():
		kind = "ipv4"
	case host.IP().Is6():
		kind = "ipv6"
		// Python 3.11 writes ::ffff:1.2.3.4 as ::ffff:102:304; later ones, and the
		// RFC, as Go does.
		if want, err := netip.ParseAddr(e.Host.Text); err == nil && want.Is4In6() {
			e.String = strings.Replace(e.String, e.Host.Text, want.String(), 1)
			e.Host.Text = want.String()
		}
	}
	if kind != e.Host.Kind || host.Host() != e.Host.Text {
		t.Errorf("got %s %q, want %s %q", kind, host.Host(), e.Host.Kind, e.Host.Text)
	}
	if int(host.Port()) != e.Port || got.Protocol() != e.Protocol || text != e.String {
		t.Errorf("got %q: protocol %q, port %d, want %q", text, got.Protocol(), host.Port(), e.String)
	}
}

func (e addressExpect) checkError(t *testing.T, err error) {
	t.Helper()
	switch {
	case (err != nil) != (e.Error != ""):
		t.Errorf("got error %v, want %s %q", err, e.Error, e.Message)
	case err == nil || e.Message == "":
	case strings.HasSuffix(e.Message, "does not appear to be an IPv4 or IPv6 address"):
		if !strings.HasPrefix(err.Error(), "invalid host: ") {
			t.Errorf("got %q, want one about the host", err)
		}
	case e.Message == "invalid port: ": // which ends with nothing
		if !strings.HasPrefix(err.Error(), "invalid port: none (") {
			t.Errorf("got %q, want one about the port that is not there", err)
		}
	case leadingZeros.ReplaceAllString(err.Error(), "$1$2") != e.Message:
		t.Errorf("got %q, want %q", err, e.Message)
	}
}

// leadingZeros are those of a port, of which the original's errors have the number.
var leadingZeros = regexp.MustCompile("^(invalid port: )0+([0-9]+)$")

// Addresses are texts in JSON, and keys of its objects.
func TestAddressesAreText(t *testing.T) {
	type config struct {
		Peers map[NetAddress]ServiceAddr
		None  NetAddress
	}
	const text = `{"Peers":{"[::1]:5":"ssl://example.org:443"},"None":""}`
	var c config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	key, err := NewNetAddress("0:0::1", 5)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Peers[key].String(); got != "ssl://example.org:443" || c.None != (NetAddress{}) {
		t.Errorf("got %q and %v", got, c.None)
	}
	if back, err := json.Marshal(c); err != nil || string(back) != text {
		t.Errorf("got %s, %v", back, err)
	}
	before := key
	for _, bad := range []string{"example.org", "example.org:0", "[::1%a]b]:5", ":5"} {
		if err := key.UnmarshalText([]byte(bad)); err == nil || key != before {
			t.Errorf("%s: %v, %v", bad, key, err)
		}
	}
	var service ServiceAddr
	if err := service.UnmarshalText([]byte("example.org:443")); err == nil || service.String() != "" {
		t.Errorf("without a protocol: %v, %v", service, err)
	}
	if _, err := NewServiceAddr("tcp", NetAddress{}); err == nil {
		t.Error("a service without an address")
	}
}

func TestTheFirstDefaultThatHasAPartIsTaken(t *testing.T) {
	got, err := ParseNetAddress("", AddressDefaults{Port: 5}, AddressDefaults{Host: "a", Port: 6}, AddressDefaults{Host: "b"})
	if err != nil || got.String() != "a:5" {
		t.Errorf("got %v, %v", got, err)
	}
}

// FuzzAddresses: whatever is parsed has a text that is parsed to the same.
func FuzzAddresses(f *testing.F) {
	for _, seed := range []string{
		"a:1", "[::1]:80", "ssl://[::ffff:1.2.3.4%eth0]:443", "1.2.3.4:65535", "tcp://a.:1", "[a]:1", "::1", "a,b://c:9", "://:",
		"tcp://[fe80::1%a]b]:5",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseNetAddress(s); err == nil {
			if again, err := ParseNetAddress(a.String()); err != nil || again != a {
				t.Errorf("%q is %v, and that is %v (%v)", s, a, again, err)
			}
			if again, err := NewNetAddress(a.Host(), int(a.Port())); err != nil || again != a {
				t.Errorf("%q is %v, its parts %v (%v)", s, a, again, err)
			}
			if a.IP().IsValid() == isHostname(a.Host()) {
				t.Errorf("%q is an IP address and a name, or neither", s)
			}
		}
		d := []AddressDefaults{{Protocol: "ssl", Host: "h", Port: 1}, {Protocol: "tcp", Port: 2}}
		if a, err := ParseServiceAddr(s, d...); err == nil {
			if again, err := ParseServiceAddr(a.String()); err != nil || again != a {
				t.Errorf("%q is %v, and that is %v (%v)", s, a, again, err)
			}
			if a.Protocol() != strings.ToLower(a.Protocol()) {
				t.Errorf("%q is of the protocol %q", s, a.Protocol())
			}
		}
	})
}
