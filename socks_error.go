package rpcx

import (
	"errors"
	"fmt"
)

// SOCKSError is the error of a handshake with a SOCKS proxy. It matches
// [ErrSOCKSFailure] if the proxy refused, and [ErrSOCKSProtocol] if it did not
// follow the protocol, or if the protocol cannot express what was asked for.
type SOCKSError struct {
	Version SOCKSVersion
	// Reply is the code with which the proxy refused to connect; 0 if what it refused
	// were the credentials, or if it did not refuse. In SOCKS4 and 4a it is 91 to 93;
	// in SOCKS5 it is 1 to 8, or one of Tor's for onion services, 0xF0 to 0xF7, which
	// a SocksPort with the flag ExtendedErrors sends. Others occur.
	Reply   int
	Message string // what was wrong, or the meaning of Reply
	Err     error  // ErrSOCKSFailure or ErrSOCKSProtocol

	hint string // what to do at this side, a part of the text; "" for nothing
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

func (h *SOCKSHandshake) failure(reply int, format string, args ...any) *SOCKSError {
	return &SOCKSError{Version: h.version, Reply: reply, Message: fmt.Sprintf(format, args...), Err: ErrSOCKSFailure}
}

// withHint returns e, whose text says what to do at this side.
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

	// Tor's, from its proposal 304.
	0xF0: "onion service descriptor not found",
	0xF1: "onion service descriptor invalid",
	0xF2: "onion service introduction failed",
	0xF3: "onion service rendezvous failed",
	0xF4: "onion service requires client authorization",
	0xF5: "onion service client authorization wrong",
	0xF6: "onion service address invalid",
	0xF7: "onion service introduction timed out",
}
