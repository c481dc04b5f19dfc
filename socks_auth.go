package rpcx

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sync"
)

// SOCKSAuth has the credentials that a proxy is shown. They are asked for at the
// beginning of each handshake, concurrently. Tor, by default, never has streams
// with different credentials share a circuit: so they are also what keeps
// connections apart that should not be linked to each other.
type SOCKSAuth interface {
	// Credentials returns those for a connection to dest.
	Credentials(dest NetAddress) SOCKSUserAuth
}

// SOCKSUserAuth is a user name and a password, for every connection. In SOCKS5
// the name is of 1 to 255 bytes, and the password of 0 to 255. SOCKS4 and 4a send the
// user name alone, of any length.
type SOCKSUserAuth struct{ Username, Password string }

// Credentials returns a.
func (a SOCKSUserAuth) Credentials(NetAddress) SOCKSUserAuth { return a }

// String returns the user name, and not the password.
func (a SOCKSUserAuth) String() string { return "username " + a.Username }

// GoString is String, and LogValue has loggers use it: no format shows the password.
func (a SOCKSUserAuth) GoString() string { return a.String() }

// LogValue implements [slog.LogValuer].
func (a SOCKSUserAuth) LogValue() slog.Value { return slog.StringValue(a.String()) }

// SOCKSRandomAuth gives each connection fresh credentials, each of them 64 random
// hexadecimal digits (as in aiorpcX): over Tor, no two share a circuit.
type SOCKSRandomAuth struct{}

// Credentials returns new ones.
func (SOCKSRandomAuth) Credentials(NetAddress) SOCKSUserAuth {
	return SOCKSUserAuth{rand256(), rand256()}
}

func rand256() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// SOCKSDestinationAuth gives the connections to one host and port the same
// credentials, for as long as the program runs, and those to another others: over
// Tor, only what goes to the same place shares a circuit. They are 64 hexadecimal
// digits each, of which nobody can tell the destination.
type SOCKSDestinationAuth struct{}

// Credentials returns those for dest.
func (SOCKSDestinationAuth) Credentials(dest NetAddress) SOCKSUserAuth {
	derive := func(use string) string {
		mac := hmac.New(sha256.New, destinationKey())
		mac.Write([]byte(use + dest.String()))
		return hex.EncodeToString(mac.Sum(nil))
	}
	return SOCKSUserAuth{derive("u"), derive("p")}
}

// destinationKey keeps the credentials of two programs apart.
var destinationKey = sync.OnceValue(func() []byte { return []byte(rand256()) })
