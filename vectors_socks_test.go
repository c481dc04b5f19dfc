package rpcx

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
)

type socksCase struct {
	Name        string
	Protocol    string
	Destination struct {
		Host string
		Port json.Number
	}
	Auth        *SOCKSUserAuth
	ServerBytes string `json:"server_bytes"`
	ByteByByte  bool   `json:"byte_by_byte"`
	Expect      any

	// Of a case that is a statement.
	Op, Fact, Proxy string
}

type socksExpect struct {
	ConstructError string `json:"construct_error"`
	Events         []socksEvent
	Outcome        string
	Message        string
	MessagePrefix  string `json:"message_prefix"`
	Missing        int
	Unread         int
}

// socksEvent is that bytes are sent, or that some are read.
type socksEvent struct {
	Send string
	Read int
	Got  string
}

var socksVersions = map[string]SOCKSVersion{"SOCKS4": SOCKS4, "SOCKS4a": SOCKS4a, "SOCKS5": SOCKS5}

// decided returns what is expected of rpcx, where that differs.
func (c socksCase) decided(t *testing.T) (want socksExpect) {
	t.Helper()
	if err := json.Unmarshal(marshal(t, c.Expect), &want); err != nil {
		t.Fatal(err)
	}
	var code byte
	refusal, refused := c.refusalCode(t)
	switch {
	case refused && want.Outcome == "protocol_error":
		// The code of a refusal counts, whatever follows it, if anything does.
		want.Outcome, want.Message, want.Missing = "failure", "", 0
		want.MessagePrefix = socks5Replies[refusal]
		if c.Protocol != "SOCKS5" {
			want.MessagePrefix = c.Protocol + " proxy request failed: "
		}
	case c.loggedInByVersion5(t):
		t.Skip("a login that is answered with the version of SOCKS is answered")
	case c.Auth != nil && c.Auth.Username != "" && c.Auth.Password == "" && strings.HasPrefix(want.Message, "password"):
		t.Skip("a user need not have a password")
	case strings.Contains(c.Destination.Host, "%"):
		return socksExpect{ConstructError: "protocol_error", MessagePrefix: "an address with a zone"}
	case want.ConstructError != "":
		// Python 3.11 writes ::ffff:1.2.3.4 as ::ffff:102:304.
		if before, _, mapped := strings.Cut(want.Message, "::ffff:"); mapped {
			want.MessagePrefix = before
		}
	case c.Protocol != "SOCKS5" && c.Auth != nil && strings.Contains(c.Auth.Username, "\x00"):
		// The proxy would take what is behind it for the name of a host.
		return socksExpect{ConstructError: "protocol_error", MessagePrefix: "username"}
	case sscan(want.Message, "unknown SOCKS5 error code: %d", &code) && code&0xF8 == 0xF0:
		// The original does not know Tor's.
		want.Message, want.MessagePrefix = "", "onion service "
	}
	return want
}

// replyToLogin and replyToRequest return what the proxy sends from there on, nil if
// it does not come to that.
func (c socksCase) replyToLogin(t *testing.T) []byte {
	t.Helper()
	server, err := hex.DecodeString(c.ServerBytes)
	if err != nil {
		t.Fatal(err)
	}
	if c.Protocol == "SOCKS5" && c.Auth != nil && len(server) >= 2 && server[0] == 5 && server[1] == methodPassword {
		return server[2:]
	}
	return nil
}

func (c socksCase) replyToRequest(t *testing.T) []byte {
	t.Helper()
	server, err := hex.DecodeString(c.ServerBytes)
	if err != nil {
		t.Fatal(err)
	}
	if login := c.replyToLogin(t); len(login) >= 2 && login[0] == 1 && login[1] == 0 {
		return login[2:]
	}
	switch {
	case c.Protocol != "SOCKS5":
		return server
	case len(server) >= 2 && server[0] == 5 && server[1] == methodNone:
		return server[2:]
	}
	return nil
}

// refusalCode returns the code with which the proxy refuses to connect.
func (c socksCase) refusalCode(t *testing.T) (code byte, ok bool) {
	t.Helper()
	version, granted := byte(5), byte(0)
	if c.Protocol != "SOCKS5" {
		version, granted = 0, 90
	}
	reply := c.replyToRequest(t)
	if len(reply) < 2 || reply[0] != version || reply[1] == granted {
		return 0, false
	}
	return reply[1], true
}

func (c socksCase) loggedInByVersion5(t *testing.T) bool {
	t.Helper()
	login := c.replyToLogin(t)
	return len(login) >= 2 && login[0] == 5
}

func sscan(text, format string, args ...any) bool {
	_, err := fmt.Sscanf(text, format, args...)
	return err == nil
}

func TestVectorsSOCKS(t *testing.T) {
	for _, c := range loadVectors[socksCase](t, "socks.json") {
		t.Run(c.Name, func(t *testing.T) {
			if c.Op == "fact" {
				c.checkFact(t)
				return
			}
			want := c.decided(t)
			if !c.ByteByByte {
				c.run(t, want, false)
			}
			c.run(t, want, true) // however they come, the outcome is the same
		})
	}
}

// run does the handshake, and gives it the server's bytes as it asks for them, or one
// by one.
func (c socksCase) run(t *testing.T, want socksExpect, byteByByte bool) {
	t.Helper()
	server, err := hex.DecodeString(c.ServerBytes)
	if err != nil {
		t.Fatal(err)
	}
	dest, err := newNetAddress(c.Destination.Host, c.Destination.Port.String())
	if err != nil {
		t.Fatal(err)
	}
	var auth SOCKSAuth
	if c.Auth != nil {
		auth = *c.Auth
	}
	h, err := NewSOCKSHandshake(socksVersions[c.Protocol], dest, auth)
	if want.ConstructError != "" {
		want.checkError(t, err, want.ConstructError)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy := &socksScript{bytes: server, byteByByte: byteByByte}
	err = h.exchange(proxy)
	if byteByByte {
		want.Events = sends(want.Events)
	}
	if fmt.Sprint(proxy.events) != fmt.Sprint(want.Events) {
		t.Errorf("got  %v\nwant %v", proxy.events, want.Events)
	}
	want.checkError(t, err, want.Outcome)
	// (A refusal is known by its code: how much is read of what follows says nothing.)
	if len(proxy.bytes) != want.Unread && want.Outcome != "failure" {
		t.Errorf("%d bytes are left, want %d", len(proxy.bytes), want.Unread)
	}
	if proxy.missing != want.Missing {
		t.Errorf("%d bytes are missing, want %d", proxy.missing, want.Missing)
	}
}

// socksScript is a connection to a proxy that says what it has to say.
type socksScript struct {
	bytes      []byte
	byteByByte bool
	missing    int // what was asked for beyond the end
	events     []socksEvent
}

func (s *socksScript) Write(p []byte) (int, error) {
	s.events = append(s.events, socksEvent{Send: hex.EncodeToString(p)})
	return len(p), nil
}

func (s *socksScript) Read(p []byte) (int, error) {
	if len(s.bytes) == 0 {
		s.missing = len(p)
		return 0, io.EOF
	}
	n := min(len(p), len(s.bytes))
	if s.byteByByte {
		n = 1
	} else {
		s.events = append(s.events, socksEvent{Read: len(p), Got: hex.EncodeToString(s.bytes[:n])})
	}
	copy(p, s.bytes[:n])
	s.bytes = s.bytes[n:]
	return n, nil
}

func sends(events []socksEvent) []socksEvent {
	var sends []socksEvent
	for _, e := range events {
		if e.Send != "" {
			sends = append(sends, e)
		}
	}
	return sends
}

func (e socksExpect) checkError(t *testing.T, err error, outcome string) {
	t.Helper()
	if outcome == "ok" {
		if err != nil {
			t.Errorf("got %v", err)
		}
		return
	}
	want := map[string]error{"failure": ErrSOCKSFailure, "protocol_error": ErrSOCKSProtocol}[outcome]
	got, ok := errors.AsType[*SOCKSError](err)
	if want == nil || !ok || !errors.Is(err, want) {
		t.Fatalf("got %v, want %s", err, outcome)
	}
	if e.MessagePrefix != "" && !strings.HasPrefix(got.Message, e.MessagePrefix) || e.MessagePrefix == "" && got.Message != e.Message {
		t.Errorf("got %q, want %q", got.Message, e.MessagePrefix+e.Message)
	}
}

func (c socksCase) checkFact(t *testing.T) {
	t.Helper()
	switch c.Fact {
	case "str(SOCKSProxy)":
		p := SOCKSProxy{Addr: c.Proxy, Version: socksVersions[c.Protocol]}
		if c.Auth != nil {
			p.Auth = *c.Auth
		}
		checkJSON(t, "String", marshal(t, p.String()), c.Expect)
	case "order of protocols tried by auto_detect_at_address":
		var names []string
		for _, version := range detectOrder {
			names = append(names, version.String())
		}
		checkJSON(t, "the order", marshal(t, names), c.Expect)
	case "SOCKSRandomAuth":
		digits := regexp.MustCompile("^[0-9a-f]{64}$")
		seen := make(map[string]bool)
		for range 10 {
			user := SOCKSRandomAuth{}.Credentials(anyDestination)
			if !digits.MatchString(user.Username) || !digits.MatchString(user.Password) {
				t.Errorf("got %+v", user)
			}
			seen[user.Username], seen[user.Password] = true, true
		}
		if len(seen) != 20 {
			t.Errorf("of 20, %d are different", len(seen))
		}
	default:
		t.Fatalf("unknown fact %q", c.Fact)
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
