package proxyproto

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	pp "github.com/pires/go-proxyproto"
)

// countingReader counts the bytes that are read.
type countingReader struct {
	r    io.Reader
	read int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.read += n
	return n, err
}

// FuzzHeader compares the reader of headers with that of go-proxyproto, which reads ahead:
// both accept the same headers. No byte behind the header is read, and none over the limit.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{
		"PROXY TCP4 203.0.113.7 192.0.2.1 1000 443\r\n{}\n",
		"PROXY TCP6 2001:db8::7 2001:db8::1 1000 443\r\n",
		"PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
		"PROXY TCP4 203.0.113.7 192.0.2.1 1000 443\n", "{}\n", "PROXYv1", "\r\n\r\n",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc0\x00\x02\x01\x03\xe8\x01\xbb{}\n",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x10\xcb\x00\x71\x07\xc0\x00\x02\x01\x03\xe8\x01\xbb\xe0\x00\x01x",
		"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "\r\n\r\n\x00\r\nQUIT\n\x20\x11\x00\x00",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x31\x00\xd8" + string(make([]byte, 216)),
	} {
		f.Add([]byte(seed), 0)
	}
	f.Add(append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x10\x00"), make([]byte, 4096)...), -1)
	f.Fuzz(func(t *testing.T, data []byte, maxSize int) {
		c := &Config{MaxSize: maxSize}
		r := &countingReader{r: bytes.NewReader(data)}
		header, err := c.readHeader(r)
		if limit := max(v1MaxSize, v2Fixed, c.maxSize()); r.read > limit {
			t.Fatalf("%d bytes are read, over %d", r.read, limit)
		}
		if err != nil {
			if header != nil {
				t.Fatal("there is a header beside the error")
			}
			// Within the limit, go-proxyproto accepts nothing more.
			if c.maxSize() >= v2MaxSize {
				if other, err2 := pp.Read(bufio.NewReader(bytes.NewReader(data))); err2 == nil {
					t.Fatalf("go-proxyproto accepts %+v, and not %v", other, err)
				}
			}
			return
		}
		whole := bufio.NewReaderSize(bytes.NewReader(data), max(len(data), 16))
		other, err := pp.Read(whole)
		if err != nil || !header.EqualsTo(other) {
			t.Fatalf("go-proxyproto reads %+v, %v, want %+v", other, err, header)
		}
		if rest := len(data) - r.read; whole.Buffered() != rest {
			t.Fatalf("%d bytes are left, go-proxyproto leaves %d", rest, whole.Buffered())
		}
		if header.Command.IsLocal() {
			return
		}
		if header.SourceAddr == nil || header.DestinationAddr == nil {
			t.Fatalf("the header %+v has no addresses", header)
		}
		_, _ = header.SourceAddr.String(), header.DestinationAddr.String()
		_, _ = header.TLVs()
	})
}
