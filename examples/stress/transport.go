package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// transport is the protocol or framing under the messages.
type transport string

const (
	overTCP     transport = "" // lines, as over TLS
	overTLS     transport = "TLS"
	overWS      transport = "WebSocket"
	overJSON    transport = "JSON values"
	overHeaders transport = "headers"
	overLengths transport = "lengths"
)

func (t transport) String() string {
	if t == overTCP {
		return "TCP"
	}
	return string(t)
}

func (t transport) framer() rpcx.Framer {
	switch t {
	case overJSON:
		return rpcx.JSONFramer{}
	case overHeaders:
		return rpcx.HeaderFramer{}
	case overLengths:
		return rpcx.LengthFramer{}
	}
	return rpcx.NewlineFramer{}
}

// frame returns the bytes of a client's message.
func (t transport) frame(message string) string {
	switch t {
	case overWS:
		return frame(opText|finalFrame, message)
	case overJSON:
		return message
	case overHeaders:
		return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(message), message)
	case overLengths:
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(message)))) + message
	}
	return message + "\n"
}

// dial connects a well-behaved client.
func (t transport) dial(ctx context.Context, addr string) (*rpcx.Session, error) {
	if t == overWS {
		return websocket.Dial(ctx, addr, nil)
	}
	d := rpcx.Dialer{TLS: insecure}
	return d.Dial(ctx, addr, &rpcx.Options{Framer: t.framer()})
}

// insecure accepts the self-signed certificate of the server.
var insecure = &tls.Config{InsecureSkipVerify: true}

// handshake makes the handshake before the messages, for a hostile client.
func (t transport) handshake(conn net.Conn) (net.Conn, error) {
	switch t {
	case overTLS:
		secure := tls.Client(conn, insecure)
		return secure, secure.Handshake()
	case overWS:
		if _, err := io.WriteString(conn, upgrade("")); err != nil {
			return conn, err
		}
		answer := bufio.NewReaderSize(conn, 1) // no server speaks first here
		response, err := http.ReadResponse(answer, nil)
		if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("the upgrade was refused: %s", response.Status)
		}
		return conn, err
	}
	return conn, nil
}

// upgrade returns a request for a WebSocket with extra header lines.
func upgrade(headers string) string {
	return "GET / HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + headers + "\r\n"
}

// Bits of the first byte of a WebSocket frame.
const (
	finalFrame   = 0x80
	compressed   = 0x40
	opContinuing = 0x0
	opText       = 0x1
	opPing       = 0x9
)

// frame returns a WebSocket frame from a client, with a mask of zeros.
func frame(first byte, payload string) string {
	return frameHeader(first, len(payload)) + payload
}

// frameHeader returns the header of a frame that announces size bytes.
func frameHeader(first byte, size int) string {
	header := []byte{first}
	switch {
	case size < 126:
		header = append(header, 0x80|byte(size))
	case size < 1<<16:
		header = binary.BigEndian.AppendUint16(append(header, 0x80|126), uint16(size))
	default:
		header = binary.BigEndian.AppendUint64(append(header, 0x80|127), uint64(size))
	}
	return string(header) + "\x00\x00\x00\x00"
}

// listen opens a listener for a server, and returns the listener and the address.
func (t transport) listen() (net.Listener, string, error) {
	addr := "tcp://127.0.0.1:0"
	var config *tls.Config
	if t == overTLS {
		addr = "tls://127.0.0.1:0"
		certificate, err := newCertificate()
		if err != nil {
			return nil, "", err
		}
		config = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	l, err := rpcx.Listen(context.Background(), addr, config)
	if err != nil {
		return nil, "", err
	}
	scheme, _, _ := strings.Cut(addr, "://")
	if t == overWS {
		scheme = "ws"
	}
	return l, scheme + "://" + l.Addr().String(), nil
}

func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
