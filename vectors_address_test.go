package rpcx

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

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
