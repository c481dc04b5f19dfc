package rpcx

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// SOCKSVersion is a version of the SOCKS protocol.
type SOCKSVersion uint8

const (
	// SOCKS5 carries host names, IPv4 and IPv6 addresses, a user name and a
	// password (RFC 1928, RFC 1929). It is the default.
	SOCKS5 SOCKSVersion = iota
	// SOCKS4a carries host names, IPv4 addresses and a user name.
	SOCKS4a
	// SOCKS4 carries IPv4 addresses and a user name.
	SOCKS4
)

func (v SOCKSVersion) String() string {
	switch v {
	case SOCKS5:
		return "SOCKS5"
	case SOCKS4a:
		return "SOCKS4a"
	case SOCKS4:
		return "SOCKS4"
	}
	return fmt.Sprintf("SOCKSVersion(%d)", uint8(v))
}

// SOCKSHandshake is the client's side of a SOCKS handshake, without I/O:
// [SOCKSHandshake.Next] returns the bytes to send and the number of bytes to read.
// [SOCKSProxy] performs handshakes over connections. SOCKSHandshake is for programs with
// another transport.
//
//	send, need, err := h.Next(nil)
//	for err == nil {
//		// write send, if not empty
//		if need == 0 {
//			break // the handshake is done; the tunnel begins
//		}
//		// read 1 to need bytes into p
//		send, need, err = h.Next(p)
//	}
type SOCKSHandshake struct {
	version   SOCKSVersion
	greeting  []byte // for SOCKS5
	login     []byte // message of RFC 1929, nil without credentials
	request   []byte
	probeOnly bool // stop after the proxy's first reply, which must be a known reply
	greeted   bool // a SOCKS5 proxy has answered the greeting

	reply       []byte    // received part of the awaited reply
	replySize   int       // size of the awaited reply, as far as known
	handleReply socksStep // called with the complete reply; nil after the handshake
	// checkRefusal returns the error of a refusing reply, and nil for any other reply. The
	// reply has at least its version and code. If replies have no code, checkRefusal is
	// nil.
	checkRefusal func(h *SOCKSHandshake, reply []byte) error
}

// socksStep handles a complete reply, and returns the bytes to send next. It takes the
// handshake as a parameter, so that a new handshake can be copied.
type socksStep func(h *SOCKSHandshake, reply []byte) (send []byte, err error)

// NewSOCKSHandshake begins a handshake for a connection to dest. A nil auth means no
// credentials. If the version cannot express the request, the error is a [*SOCKSError] that
// matches [ErrSOCKSProtocol].
func NewSOCKSHandshake(version SOCKSVersion, dest NetAddress, auth SOCKSAuth) (*SOCKSHandshake, error) {
	h := &SOCKSHandshake{version: version}
	if dest == (NetAddress{}) {
		return nil, h.protocolError("no address to connect to")
	}
	if dest.IP().Zone() != "" {
		// A zone has a meaning on this machine only.
		return nil, h.protocolError("an address with a zone is not for a proxy: %s", dest.Host())
	}
	var user *SOCKSUserAuth
	if auth != nil {
		credentials := auth.Credentials(dest)
		user = &credentials
	}
	var err error
	switch version {
	case SOCKS5:
		err = h.buildSOCKS5Messages(dest, user)
	case SOCKS4, SOCKS4a:
		err = h.buildSOCKS4Request(dest, user)
	default:
		err = h.protocolError("unknown version of SOCKS: %d", uint8(version)).withHint("SOCKSProxy.Version is rpcx.SOCKS5, which is 0, rpcx.SOCKS4a or rpcx.SOCKS4")
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Next takes the received bytes: none at first, then at most as many as the last call
// needed. It returns the bytes to send, and how many bytes Next needs to continue. The
// needed bytes belong to the handshake, never to the tunnel. If need is 0, the handshake is
// done.
//
// An error ends the handshake, except the error about too many bytes. A refusal ends the
// handshake at its second byte, the code; Next does not ask for the bytes that follow.
func (h *SOCKSHandshake) Next(received []byte) (send []byte, need int, err error) {
	if len(received) > h.replySize-len(h.reply) {
		return nil, 0, fmt.Errorf("SOCKS handshake was given %d bytes, %d more than it needs", len(received), len(received)+len(h.reply)-h.replySize)
	}
	h.reply = append(h.reply, received...)
	if h.checkRefusal != nil && len(h.reply) >= 2 {
		err = h.checkRefusal(h, h.reply)
	}
	if err == nil && len(h.reply) == h.replySize && h.handleReply != nil {
		take := h.handleReply
		h.handleReply = nil
		send, err = take(h, h.reply)
	}
	if err != nil {
		h.awaitReply(0, func(*SOCKSHandshake, []byte) ([]byte, error) { return nil, err })
		return nil, 0, err
	}
	return send, h.replySize - len(h.reply), nil
}

// awaitReply waits for the next size bytes, to be passed to take.
func (h *SOCKSHandshake) awaitReply(size int, take socksStep) {
	h.reply, h.replySize, h.handleReply, h.checkRefusal = h.reply[:0], size, take, nil
}

func (h *SOCKSHandshake) finishHandshake([]byte) ([]byte, error) {
	h.awaitReply(0, nil)
	return nil, nil
}

// SOCKS4, and its extension 4a: a request and a reply of eight bytes.
//
//	request  4, 1 (connect), port, IPv4 address, user id, 0
//	         4a: address 0.0.0.1, and at the end the name, 0
//	reply    0, code, and six bytes without a meaning here

func (h *SOCKSHandshake) buildSOCKS4Request(dest NetAddress, user *SOCKSUserAuth) error {
	switch {
	case dest.IP().Is4(), h.version == SOCKS4a && !dest.IP().IsValid():
	case h.version == SOCKS4a:
		return h.protocolError("SOCKS4a requires an IPv4 address or host name: %s", dest.Host())
	default:
		return h.protocolError("SOCKS4 requires an IPv4 address: %s", dest.Host())
	}
	id := ""
	if user != nil {
		id = user.Username
	}
	if strings.ContainsRune(id, 0) {
		// A zero byte would end the id, and the remainder be taken for a host name.
		return h.protocolError("username %q has a zero byte in it", id)
	}
	h.request = append(h.request, 4, 1, byte(dest.port>>8), byte(dest.port))
	if dest.IP().Is4() {
		h.request = append(h.request, dest.IP().AsSlice()...)
		h.request = append(append(h.request, id...), 0)
	} else {
		h.request = append(h.request, 0, 0, 0, 1)
		h.request = append(append(h.request, id...), 0)
		h.request = append(append(h.request, dest.name...), 0)
	}
	h.handleReply = (*SOCKSHandshake).sendSOCKS4Request
	return nil
}

func (h *SOCKSHandshake) sendSOCKS4Request([]byte) ([]byte, error) {
	h.awaitReply(8, (*SOCKSHandshake).handleSOCKS4Reply)
	h.checkRefusal = (*SOCKSHandshake).checkSOCKS4Refusal
	return h.request, nil
}

func (h *SOCKSHandshake) checkSOCKS4Refusal(reply []byte) error {
	const granted = 90
	code := reply[1]
	if reply[0] != 0 || code == granted {
		return nil
	}
	text, ok := socks4Replies[code]
	if !ok && h.probeOnly {
		// Zeros, a length or an HTTP/2 frame (of a gRPC server, say) would pass as a reply.
		return h.protocolError("no reply of a %v proxy: %q", h.version, reply)
	}
	if !ok {
		text = fmt.Sprintf("unknown %v reply code %d", h.version, code)
	}
	return h.refusalError(int(code), "%v proxy request failed: %s", h.version, text)
}

func (h *SOCKSHandshake) handleSOCKS4Reply(reply []byte) ([]byte, error) {
	if reply[0] != 0 {
		return nil, h.protocolError("invalid %v proxy response: %q", h.version, reply)
	}
	return h.finishHandshake(nil)
}

// SOCKS5: a greeting with the authentication methods, answered with the chosen method; the
// credentials, if the proxy chose them; the request.
//
//	request  5, 1 (connect), 0, address, port
//	reply    5, code, 0, address, port (of the proxy's side of the connection)
//	address  1, 4 bytes; 4, 16 bytes; or 3, length, name

func (h *SOCKSHandshake) buildSOCKS5Messages(dest NetAddress, user *SOCKSUserAuth) error {
	h.request = append(h.request, 5, 1, 0)
	switch ip := dest.IP(); {
	case ip.Is4():
		h.request = append(append(h.request, 1), ip.AsSlice()...)
	case ip.Is6():
		h.request = append(append(h.request, 4), ip.AsSlice()...)
	default: // 254 bytes at most, as already checked
		h.request = append(append(h.request, 3, byte(len(dest.name))), dest.name...)
	}
	h.request = append(h.request, byte(dest.port>>8), byte(dest.port))
	h.greeting = []byte{5, 1, socksMethodNone}
	if user != nil {
		if n := len(user.Username); n < 1 || n > 255 {
			return h.protocolError("username %s has invalid length %d", user.Username, n).withHint("1 to 255 bytes; without a user, SOCKSProxy.Auth is nil")
		}
		// RFC 1929 requires a password of at least a byte. Proxies with passwordless users
		// accept an empty password, as sent by other clients.
		if n := len(user.Password); n > 255 {
			return h.protocolError("password has invalid length %d", n).withHint("at most 255 bytes")
		}
		h.login = append(append(h.login, 1, byte(len(user.Username))), user.Username...)
		h.login = append(append(h.login, byte(len(user.Password))), user.Password...)
		h.greeting = []byte{5, 2, socksMethodNone, socksMethodPassword}
	}
	h.handleReply = (*SOCKSHandshake).sendSOCKS5Greeting
	return nil
}

func (h *SOCKSHandshake) sendSOCKS5Greeting([]byte) ([]byte, error) {
	h.awaitReply(2, (*SOCKSHandshake).handleSOCKS5Method)
	return h.greeting, nil
}

const (
	socksMethodNone     = 0
	socksMethodPassword = 2
	socksMethodsRefused = 255
)

func (h *SOCKSHandshake) handleSOCKS5Method(reply []byte) ([]byte, error) {
	method := reply[1]
	h.greeted = true
	switch {
	case reply[0] != 5:
		return nil, h.protocolError("invalid SOCKS5 proxy response: %q", reply)
	case h.probeOnly && method != socksMethodNone && method != socksMethodPassword && method != socksMethodsRefused:
		return nil, h.protocolError("invalid SOCKS5 proxy response: %q", reply) // the method was not offered
	case method != socksMethodNone && (method != socksMethodPassword || h.login == nil):
		refusal := h.refusalError(0, "SOCKS5 proxy rejected authentication methods")
		if h.login == nil {
			return nil, refusal.withHint("set SOCKSProxy.Auth if it wants a user name and password")
		}
		return nil, refusal.withHint("it takes neither SOCKSProxy.Auth nor nothing")
	case h.probeOnly:
		return h.finishHandshake(nil)
	case method == socksMethodPassword:
		h.awaitReply(2, (*SOCKSHandshake).handleSOCKS5Login)
		return h.login, nil
	}
	return h.sendSOCKS5Request()
}

// handleSOCKS5Login also accepts version 5 in place of the login's version 1, since some
// proxies answer with 5.
func (h *SOCKSHandshake) handleSOCKS5Login(reply []byte) ([]byte, error) {
	switch {
	case reply[0] != 1 && reply[0] != 5:
		return nil, h.protocolError("invalid SOCKS5 proxy auth response: %q", reply)
	case reply[1] != 0:
		return nil, h.refusalError(0, "SOCKS5 proxy auth failure code: %d", reply[1]).withHint("it refuses the user name or password of SOCKSProxy.Auth")
	}
	return h.sendSOCKS5Request()
}

func (h *SOCKSHandshake) sendSOCKS5Request() ([]byte, error) {
	h.awaitReply(5, (*SOCKSHandshake).handleSOCKS5Reply) // up to the length of a name
	h.checkRefusal = (*SOCKSHandshake).checkSOCKS5Refusal
	return h.request, nil
}

func (h *SOCKSHandshake) checkSOCKS5Refusal(reply []byte) error {
	code := reply[1]
	if reply[0] != 5 || code == 0 {
		return nil
	}
	text, ok := socks5Replies[code]
	if !ok {
		text = fmt.Sprintf("unknown SOCKS5 error code: %d", code)
	}
	return h.refusalError(int(code), "%s", text)
}

func (h *SOCKSHandshake) handleSOCKS5Reply(reply []byte) ([]byte, error) {
	size := 0 // size of the address without its first byte, already received
	switch reply[3] {
	case 1:
		size = 3
	case 3:
		size = int(reply[4])
	case 4:
		size = 15
	}
	if reply[0] != 5 || reply[2] != 0 || reply[3] != 1 && reply[3] != 3 && reply[3] != 4 {
		return nil, h.protocolError("invalid SOCKS5 proxy response: %q", reply)
	}
	h.awaitReply(size+2, (*SOCKSHandshake).finishHandshake)
	return nil, nil
}

// SOCKSError is the error of a handshake with a SOCKS proxy. If the proxy refused, it
// matches [ErrSOCKSFailure]. If the proxy violated the protocol, or the protocol cannot
// express the request, it matches [ErrSOCKSProtocol].
type SOCKSError struct {
	Version SOCKSVersion
	// Reply is the code with which the proxy refused to connect. It is 0 if the proxy
	// refused the credentials, or did not refuse. In SOCKS4 and SOCKS4a codes are 91 to 93.
	// In SOCKS5 codes are 1 to 8, or Tor's codes for onion services, 0xF0 to 0xF7, which a
	// SocksPort with the flag ExtendedErrors sends. Further codes occur.
	Reply   int
	Message string // description of the failure, or the meaning of Reply
	Err     error  // ErrSOCKSFailure or ErrSOCKSProtocol

	hint string // advice for this side, part of the text; may be empty
}

// Sentinels that a [*SOCKSError] matches.
var (
	ErrSOCKSProtocol = errors.New("rpcx: SOCKS protocol error")
	ErrSOCKSFailure  = errors.New("rpcx: SOCKS proxy refused")
)

func (e *SOCKSError) Error() string {
	text := trimPrefix(e.Err) + ": " + e.Message
	if e.hint != "" {
		text += " (" + e.hint + ")"
	}
	return text
}

func (e *SOCKSError) Unwrap() error { return e.Err }

func (h *SOCKSHandshake) protocolError(format string, args ...any) *SOCKSError {
	return &SOCKSError{Version: h.version, Message: fmt.Sprintf(format, args...), Err: ErrSOCKSProtocol}
}

func (h *SOCKSHandshake) refusalError(reply int, format string, args ...any) *SOCKSError {
	return &SOCKSError{Version: h.version, Reply: reply, Message: fmt.Sprintf(format, args...), Err: ErrSOCKSFailure}
}

// withHint adds advice for this side to the text of e, and returns e.
func (e *SOCKSError) withHint(hint string) *SOCKSError {
	e.hint = hint
	return e
}

var socks4Replies = map[byte]string{
	91: "request rejected or failed",
	92: "request rejected because SOCKS server cannot connect to identd on the client",
	93: "request rejected because the client program and identd report different user-ids",
}

var socks5Replies = map[byte]string{
	1: "general SOCKS server failure",
	2: "connection not allowed by ruleset",
	3: "network unreachable",
	4: "host unreachable",
	5: "connection refused",
	6: "TTL expired",
	7: "command not supported",
	8: "address type not supported",

	// Tor's codes, from Tor's proposal 304.
	0xF0: "onion service descriptor not found",
	0xF1: "onion service descriptor invalid",
	0xF2: "onion service introduction failed",
	0xF3: "onion service rendezvous failed",
	0xF4: "onion service requires client authorization",
	0xF5: "onion service client authorization wrong",
	0xF6: "onion service address invalid",
	0xF7: "onion service introduction timed out",
}

// SOCKSAuth supplies the credentials for a proxy. Each handshake asks for credentials at
// its beginning; calls may be concurrent.
//
// By default, Tor does not let streams with different credentials share a circuit. So
// credentials also separate connections that must not be linked to each other.
type SOCKSAuth interface {
	// Credentials returns the credentials for a connection to dest.
	Credentials(dest NetAddress) SOCKSUserAuth
}

// SOCKSUserAuth is a fixed user name and password. In SOCKS5 the name has 1 to 255 bytes,
// and the password 0 to 255. SOCKS4 and SOCKS4a send only the user name, of any length.
type SOCKSUserAuth struct{ Username, Password string }

// Credentials returns a.
func (a SOCKSUserAuth) Credentials(NetAddress) SOCKSUserAuth { return a }

// String returns the user name without the password.
func (a SOCKSUserAuth) String() string { return "username " + a.Username }

// GoString returns String's text: like LogValue, it keeps the password out of output.
func (a SOCKSUserAuth) GoString() string { return a.String() }

// LogValue implements [slog.LogValuer].
func (a SOCKSUserAuth) LogValue() slog.Value { return slog.StringValue(a.String()) }

// SOCKSRandomAuth gives each connection fresh credentials: a name and a password of 64
// random hexadecimal digits each (as in aiorpcX). Over Tor, no two connections share a
// circuit.
type SOCKSRandomAuth struct{}

// Credentials returns new random credentials.
func (SOCKSRandomAuth) Credentials(NetAddress) SOCKSUserAuth {
	return SOCKSUserAuth{randomHex(), randomHex()}
}

func randomHex() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// SOCKSDestinationAuth uses the same credentials for each connection to a host and port, as
// long as the program runs. Different destinations have different credentials. So over Tor,
// only connections to the same destination share a circuit. Name and password have 64
// hexadecimal digits each, and do not reveal the destination.
type SOCKSDestinationAuth struct{}

// Credentials returns the credentials for dest.
func (SOCKSDestinationAuth) Credentials(dest NetAddress) SOCKSUserAuth {
	derive := func(use string) string {
		mac := hmac.New(sha256.New, destinationKey())
		mac.Write([]byte(use + dest.String()))
		return hex.EncodeToString(mac.Sum(nil))
	}
	return SOCKSUserAuth{derive("u"), derive("p")}
}

// destinationKey makes the credentials of two programs differ.
var destinationKey = sync.OnceValue(func() []byte { return []byte(randomHex()) })
