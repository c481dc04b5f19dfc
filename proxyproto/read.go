package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/pires/go-proxyproto"
)

const (
	v1Prefix  = "PROXY "
	v1MaxSize = 107 // by the specification, with CRLF
	v2Fixed   = 16  // signature, version and command, family, length of the rest
)

// v2MaxSize is the size of the largest header whose length fits into 16 bits.
const v2MaxSize = v2Fixed + 1<<16 - 1

var errNoHeader = errors.New("the proxy has sent none: configure it to (in HAProxy, send-proxy-v2 in the server line), or take it out of Proxies (proxyproto.Config)")

// readHeader reads a header from r, and no byte beyond. The parser of go-proxyproto wants a
// bufio.Reader, which would read ahead. So readHeader finds the end of the header itself,
// within the limits, and gives the parser the complete header.
func (c *Config) readHeader(r io.Reader) (*proxyproto.Header, error) {
	var fixed [v2Fixed]byte
	if n, err := io.ReadFull(r, fixed[:1]); err != nil {
		return nil, readError(err, n)
	}
	var header []byte
	var err error
	switch fixed[0] {
	case v1Prefix[0]:
		header, err = readVersion1(r)
	case proxyproto.SIGV2[0]:
		header, err = c.readVersion2(r, &fixed)
	default:
		err = errNoHeader
	}
	if err != nil {
		return nil, err
	}
	// The buffer has room for the whole header: of version 1, the parser takes no second read.
	return proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(header), len(header)))
}

// readVersion1 reads the rest of a header of version 1, whose first byte has been read.
// Only the end of the line tells the end of the header, so readVersion1 reads byte by byte.
func readVersion1(r io.Reader) ([]byte, error) {
	header := append(make([]byte, 0, v1MaxSize), v1Prefix[0])
	for header[len(header)-1] != '\n' {
		n := len(header)
		if n == v1MaxSize {
			return nil, fmt.Errorf("no end of line within %d bytes, the maximum of version 1", v1MaxSize)
		}
		header = header[:n+1]
		if _, err := io.ReadFull(r, header[n:]); err != nil {
			return nil, readError(err, n)
		}
		if n < len(v1Prefix) && header[n] != v1Prefix[n] {
			return nil, errNoHeader
		}
	}
	return header, nil
}

// readVersion2 reads the rest of a header of version 2, whose first byte is in fixed. The
// length is checked before memory is taken.
func (c *Config) readVersion2(r io.Reader, fixed *[v2Fixed]byte) ([]byte, error) {
	if n, err := io.ReadFull(r, fixed[1:]); err != nil {
		return nil, readError(err, n+1)
	}
	if !bytes.HasPrefix(fixed[:], proxyproto.SIGV2) {
		return nil, errNoHeader
	}
	length := binary.BigEndian.Uint16(fixed[v2Fixed-2:])
	size := v2Fixed + int(length)
	if limit := c.maxSize(); size > limit {
		return nil, fmt.Errorf("%d bytes with its TLVs, over %d bytes (proxyproto.Config.MaxSize)", size, limit)
	}
	if limit := proxyproto.MaxV2HeaderSize; length > limit {
		return nil, fmt.Errorf("%d bytes with its TLVs, over %d bytes (MaxV2HeaderSize of go-proxyproto, and %d)", size, int(limit)+v2Fixed, v2Fixed)
	}
	header := make([]byte, size)
	copy(header, fixed[:])
	if n, err := io.ReadFull(r, header[v2Fixed:]); err != nil {
		return nil, readError(err, v2Fixed+n)
	}
	return header, nil
}

// maxSize returns MaxSize or the default.
func (c *Config) maxSize() int {
	switch {
	case c.MaxSize == 0:
		return defaultMaxSize
	case c.MaxSize < 0:
		return v2MaxSize
	}
	return c.MaxSize
}

// readError returns the error of a header of which n bytes have come before err. A listed
// proxy that leaves without a byte, or resets the connection, makes a health check: a reset
// discards what this side has not read yet, even if the proxy has sent a whole header.
func readError(err error, n int) error {
	switch {
	case n == 0 && err == io.EOF, errors.Is(err, syscall.ECONNRESET):
		return errLeft
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}
