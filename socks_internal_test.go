package rpcx

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// nothingSaid connects to what accepts, reads and says nothing.
func nothingSaid(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	// Owner: the test. End: the client hangs up.
	go io.Copy(io.Discard, far)
	return near, nil
}

func TestDetectionIsBounded(t *testing.T) {
	for _, c := range []struct {
		name string
		ctx  time.Duration // 0 for none
		want time.Duration
	}{
		{"by 5 s for each version", 0, 15 * time.Second},
		{"by 5 s for each version, though there is more", time.Hour, 15 * time.Second},
		{"by a third of what is left for each", 9 * time.Second, 3*time.Second + 2*time.Second + 4*time.Second/3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.ctx)
					defer cancel()
				}
				begin := time.Now()
				p, err := detectProxy(ctx, anyDestination, nil, nothingSaid)
				if took := time.Since(begin); p != nil || err == nil || took.Round(time.Millisecond) != c.want.Round(time.Millisecond) {
					t.Errorf("got %v, %v after %v, want none after %v", p, err, took, c.want)
				}
			})
		})
	}
}

func TestAddressesInTurnShareTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		failed := errors.New("failed")
		begin := time.Now()
		var began []time.Duration
		try := func(ctx context.Context, a NetAddress) (int, error) {
			began = append(began, time.Since(begin))
			switch a.Port() {
			case 2:
				return 0, failed // at once, and leaves its time to the others
			case 4:
				return 4, nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}
		addrs := []NetAddress{{name: "a", port: 1}, {name: "a", port: 2}, {name: "a", port: 3}}
		_, err := tryInTurn(ctx, addrs, try)
		if want := []time.Duration{0, 4 * time.Second, 4 * time.Second}; !slices.Equal(began, want) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("they began after %v, want %v; %v", began, want, err)
		}
		if got, err := tryInTurn(t.Context(), []NetAddress{{port: 2}, {port: 4}}, try); got != 4 || err != nil {
			t.Errorf("got %v, %v", got, err)
		}
		if _, err := tryInTurn(t.Context(), []NetAddress{{port: 2}, {port: 2}}, try); err != failed {
			t.Errorf("two alike: got %v", err)
		}
	})
}

// A handshake is given what it asks for and no more, and stays failed.
func TestHandshakeOutOfStep(t *testing.T) {
	h, err := NewSOCKSHandshake(SOCKS5, anyDestination, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Next([]byte{5}); err == nil {
		t.Error("bytes before the first call")
	}
	if send, need, err := h.Next(nil); string(send) != "\x05\x01\x00" || need != 2 || err != nil {
		t.Errorf("got %q, %d, %v", send, need, err)
	}
	if _, _, err := h.Next([]byte{5, 0, 5}); err == nil {
		t.Error("more bytes than it needs")
	}
	if send, need, err := h.Next([]byte{5}); len(send) != 0 || need != 1 || err != nil {
		t.Errorf("with half of the reply: %q, %d, %v", send, need, err)
	}
	_, _, refused := h.Next([]byte{0xFF})
	if _, _, err := h.Next(nil); !errors.Is(refused, ErrSOCKSFailure) || err != refused {
		t.Errorf("it failed with %v, and then %v", refused, err)
	}
	if _, err := NewSOCKSHandshake(SOCKS5, NetAddress{}, nil); !errors.Is(err, ErrSOCKSProtocol) {
		t.Errorf("no destination: %v", err)
	}
}

// A tunnel over TCP is read and written as TCP is.
func TestTunnelOfASocketIsASocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	near, _ := net.Pipe()
	defer near.Close()
	if plain, tunnel := newSocket(conn), newSocket(&SOCKSConn{Conn: conn}); (plain == nil) != (tunnel == nil) {
		t.Errorf("TCP: socket %v, through a tunnel %v", plain, tunnel)
	}
	if newSocket(&SOCKSConn{Conn: near}) != nil {
		t.Error("a tunnel of no socket is taken for one")
	}
}

// FuzzSOCKSReplies: whatever a proxy sends, and in whatever pieces, a handshake ends
// in the same way after the same bytes, and they are not many.
func FuzzSOCKSReplies(f *testing.F) {
	for _, seed := range []string{
		"\x00\x5a\x00\x00\x00\x00\x00\x00tunnel", "\x00\x5b\x00\x00\x00\x00\x00\x00",
		"\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00\x50tunnel", "\x05\x02\x01\x00\x05\x00\x00\x03\x05hello\x00\x50",
		"\x05\x02\x01\x00\x05\xf6\x00\x04", "HTTP/1.1 400 Bad Request\r\n", "\x05\xff", "",
	} {
		f.Add([]byte(seed), uint8(SOCKS5), true)
		f.Add([]byte(seed), uint8(SOCKS4a), false)
	}
	f.Fuzz(func(t *testing.T, replies []byte, version uint8, login bool) {
		var auth SOCKSAuth
		if login {
			auth = SOCKSUserAuth{"user", "password"}
		}
		run := func(byteByByte bool) (*socksScript, error) {
			h, err := NewSOCKSHandshake(SOCKSVersion(version%3), anyDestination, auth)
			if err != nil {
				t.Fatal(err)
			}
			proxy := &socksScript{bytes: bytes.Clone(replies), byteByByte: byteByByte}
			return proxy, h.exchangeMessages(proxy)
		}
		whole, err1 := run(false)
		bytewise, err2 := run(true)
		if (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
			t.Errorf("in one piece: %v, byte by byte: %v", err1, err2)
		}
		refused, violated := errors.Is(err1, ErrSOCKSFailure), errors.Is(err1, ErrSOCKSProtocol)
		// (A refusal is known by its code, and may have come with more.)
		if !bytes.Equal(whole.bytes, bytewise.bytes) && (!refused || len(bytewise.bytes) < len(whole.bytes)) {
			t.Errorf("in one piece it leaves %q, byte by byte %q", whole.bytes, bytewise.bytes)
		}
		if read := len(replies) - len(whole.bytes); read > 2+2+5+257 {
			t.Errorf("it reads %d bytes", read)
		}
		if err1 != nil && refused == violated {
			t.Errorf("%v is a refusal: %v, a violation: %v", err1, refused, violated)
		}
	})
}

// The code of a refusal is kept, whatever follows it: nothing, or what it should not be.
// It is not waited for.
func TestRefusalsByTheirCode(t *testing.T) {
	const rest4, rest5 = "\x00\x00\x00\x00\x00\x00", "\x00\x01\x00\x00\x00\x00\x00\x00"
	for _, c := range []struct {
		version SOCKSVersion
		before  string // the reply
		reply   string // as far as its code
		rest    string
		code    int
	}{
		{SOCKS4, "", "\x00\x5b", rest4, 91},
		{SOCKS4a, "", "\x00\x5d", rest4, 93},
		{SOCKS4a, "", "\x00\x59", rest4, 89},
		{SOCKS5, "\x05\x00", "\x05\x05", rest5, 5},
		{SOCKS5, "\x05\x02\x01\x00", "\x05\x01", rest5, 1},
		{SOCKS5, "\x05\x00", "\x05\xf6", rest5, 0xF6},
		{SOCKS5, "\x05\x00", "\x05\xff", rest5, 0xFF},
	} {
		for name, rest := range map[string]string{
			"whole":                   c.rest,
			"cut after the code":      "",
			"cut after the next byte": c.rest[:1],
			"cut before its end":      c.rest[:3],
			"with other bytes":        strings.Repeat("\xaa", len(c.rest)),
			"with a text":             "\r\nHTTP/1.1 503 Service Unavailable\r\n\r\n",
			"with too many bytes":     c.rest + strings.Repeat("x", 1000),
		} {
			t.Run(fmt.Sprintf("%v %d %s", c.version, c.code, name), func(t *testing.T) {
				for _, byteByByte := range []bool{false, true} {
					h, err := NewSOCKSHandshake(c.version, anyDestination, SOCKSUserAuth{"user", "password"})
					if err != nil {
						t.Fatal(err)
					}
					err = h.exchangeMessages(&socksScript{bytes: []byte(c.before + c.reply + rest), byteByByte: byteByByte})
					e, ok := errors.AsType[*SOCKSError](err)
					if !ok || e.Err != ErrSOCKSFailure || e.Reply != c.code {
						t.Errorf("byte by byte %v: got %v, want a refusal with %d", byteByByte, err, c.code)
					}
				}
			})
		}
	}
}

// A proxy that refuses and then neither says more nor hangs up is not waited for.
func TestRefusalsBeforeSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for version, replies := range map[SOCKSVersion][]string{
			SOCKS4:  {"\x00\x5b"},
			SOCKS4a: {"\x00\x5b\x00"},
			SOCKS5:  {"\x05\x00", "\x05\x02"},
		} {
			proxy := SOCKSProxy{Addr: "127.0.0.1:1", Version: version, Dial: func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				// Owner: the test. End: the client hangs up.
				go func() {
					var buf [1000]byte
					for _, reply := range replies {
						far.Read(buf[:])
						io.WriteString(far, reply)
					}
					io.Copy(io.Discard, far)
				}()
				return near, nil
			}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			begin := time.Now()
			_, err := proxy.DialContext(ctx, "tcp", "192.0.2.1:80")
			cancel()
			if e, ok := errors.AsType[*SOCKSError](err); !ok || e.Reply == 0 || time.Since(begin) != 0 {
				t.Errorf("%v: after %v got %v", version, time.Since(begin), err)
			}
		}
	})
}

// Some proxies answer a login with the version of SOCKS, and not with the login's.
func TestLoginAnsweredByVersion5(t *testing.T) {
	const granted = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	for reply, want := range map[string]string{
		"\x01\x00": "",
		"\x05\x00": "",
		"\x01\x01": "SOCKS proxy refused: SOCKS5 proxy auth failure code: 1 (it refuses the user name or password of SOCKSProxy.Auth)",
		"\x05\x01": "SOCKS proxy refused: SOCKS5 proxy auth failure code: 1 (it refuses the user name or password of SOCKSProxy.Auth)",
		"\x05\xff": "SOCKS proxy refused: SOCKS5 proxy auth failure code: 255 (it refuses the user name or password of SOCKSProxy.Auth)",
		"\x00\x00": `SOCKS protocol error: invalid SOCKS5 proxy auth response: "\x00\x00"`,
		"\x04\x00": `SOCKS protocol error: invalid SOCKS5 proxy auth response: "\x04\x00"`,
	} {
		h, err := NewSOCKSHandshake(SOCKS5, anyDestination, SOCKSUserAuth{"user", "password"})
		if err != nil {
			t.Fatal(err)
		}
		proxy := &socksScript{bytes: []byte("\x05\x02" + reply + granted + "tunnel")}
		got := ""
		if err := h.exchangeMessages(proxy); err != nil {
			got = err.Error()
		}
		if got != want || want == "" && string(proxy.bytes) != "tunnel" {
			t.Errorf("%q: got %q, want %q; %q is left", reply, got, want, proxy.bytes)
		}
	}
}

// A user without a password has one of no bytes.
func TestUserWithoutPassword(t *testing.T) {
	for version, want := range map[SOCKSVersion]string{
		SOCKS5:  "\x01\x04user\x00",
		SOCKS4:  "\x04\x01\x00\x01\x7f\x00\x00\x01user\x00",
		SOCKS4a: "\x04\x01\x00\x01\x7f\x00\x00\x01user\x00",
	} {
		h, err := NewSOCKSHandshake(version, anyDestination, SOCKSUserAuth{Username: "user"})
		if err != nil {
			t.Fatal(err)
		}
		sent, _, err := h.Next(nil)
		if version == SOCKS5 {
			sent, _, err = h.Next([]byte{5, 2})
		}
		if string(sent) != want || err != nil {
			t.Errorf("%v: sent %q, want %q; %v", version, sent, want, err)
		}
	}
}

// A proxy can only choose a method that it was offered, or refuse all.
func TestDetectionOfAMethodThatWasNotOffered(t *testing.T) {
	for method, proxy := range map[byte]bool{0: true, 2: true, 255: true, 5: false, 1: false} {
		h, err := NewSOCKSHandshake(SOCKS5, anyDestination, nil)
		if err != nil {
			t.Fatal(err)
		}
		h.probeOnly = true
		if _, need, err := h.Next(nil); err != nil || need != 2 {
			t.Fatalf("needs %d bytes, %v", need, err)
		}
		if _, _, err = h.Next([]byte{5, method}); errors.Is(err, ErrSOCKSProtocol) == proxy {
			t.Errorf("method %d: %v", method, err)
		}
	}
}

func TestNoFormatShowsThePassword(t *testing.T) {
	var log strings.Builder
	proxy := SOCKSProxy{Addr: "localhost:1080", Auth: SOCKSUserAuth{"me", "secret"}}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("", "auth", proxy.Auth)
	fmt.Fprintf(&log, "%v %+v %#v %s", proxy, proxy, proxy.Auth, proxy)
	if strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), "username me") {
		t.Error(log.String())
	}
}

// The texts of errors say what to do at this side. SOCKSError.Message stays the original's.
func TestSOCKSErrorsSayWhatToDo(t *testing.T) {
	login := SOCKSUserAuth{"user", "password"}
	for _, c := range []struct {
		name    string
		version SOCKSVersion
		auth    SOCKSAuth
		reply   string
		want    string
	}{
		{"a version that is a number", 5, nil, "", "unknown version of SOCKS: 5 (SOCKSProxy.Version is rpcx.SOCKS5, which is 0, rpcx.SOCKS4a or rpcx.SOCKS4)"},
		{"no user name", SOCKS5, SOCKSUserAuth{}, "", "username  has invalid length 0 (1 to 255 bytes; without a user, SOCKSProxy.Auth is nil)"},
		{"a long password", SOCKS5, SOCKSUserAuth{"u", strings.Repeat("p", 256)}, "", "password has invalid length 256 (at most 255 bytes)"},
		{"no credentials where some are wanted", SOCKS5, nil, "\x05\xff", "SOCKS5 proxy rejected authentication methods (set SOCKSProxy.Auth if it wants a user name and password)"},
		{"credentials of a kind that is not wanted", SOCKS5, login, "\x05\xff", "SOCKS5 proxy rejected authentication methods (it takes neither SOCKSProxy.Auth nor nothing)"},
		{"credentials that are wrong", SOCKS5, login, "\x05\x02\x01\x01", "SOCKS5 proxy auth failure code: 1 (it refuses the user name or password of SOCKSProxy.Auth)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := NewSOCKSHandshake(c.version, anyDestination, c.auth)
			if err == nil {
				err = h.exchangeMessages(&socksScript{bytes: []byte(c.reply)})
			}
			if err == nil || !strings.HasSuffix(err.Error(), ": "+c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// An error tells how far the proxy has come when the time is over.
func TestSOCKSProxyThatDoesNotAnswer(t *testing.T) {
	for _, c := range []struct {
		name    string
		version SOCKSVersion
		answer  string
		want    string
	}{
		{"the greeting", SOCKS5, "", "the proxy did not answer the SOCKS5 greeting (is it a SOCKS proxy?): context deadline exceeded"},
		{"the request", SOCKS5, "\x05\x00", "the proxy did not answer the SOCKS5 request to connect: context deadline exceeded"},
		{"the request of version 4", SOCKS4, "", "the proxy did not answer the SOCKS4 request to connect: context deadline exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				proxy := SOCKSProxy{Addr: "127.0.0.1:1", Version: c.version, Dial: func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					go func() {
						defer far.Close()
						far.Read(make([]byte, 512))
						far.Write([]byte(c.answer))
						io.Copy(io.Discard, far)
					}()
					return near, nil
				}}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := proxy.DialContext(ctx, "tcp", "192.0.2.1:80")
				if !errors.Is(err, context.DeadlineExceeded) || !strings.HasSuffix(err.Error(), ": "+c.want) {
					t.Errorf("got %v, want %s", err, c.want)
				}
			})
		})
	}
}

func TestNilSOCKSProxyDialsNothing(t *testing.T) {
	var proxy *SOCKSProxy
	d := Dialer{DialContext: proxy.DialContext}
	_, err := d.Dial(t.Context(), "tcp://127.0.0.1:1", nil)
	if err == nil || !strings.Contains(err.Error(), "the *SOCKSProxy is nil") {
		t.Errorf("got %v", err)
	}
}

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
	if c.Protocol == "SOCKS5" && c.Auth != nil && len(server) >= 2 && server[0] == 5 && server[1] == socksMethodPassword {
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
	case len(server) >= 2 && server[0] == 5 && server[1] == socksMethodNone:
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
	err = h.exchangeMessages(proxy)
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
		for _, version := range socksDetectOrder {
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
