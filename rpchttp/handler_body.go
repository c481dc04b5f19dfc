package rpchttp

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/buffers"
)

const (
	smallestBuffer = 1 << 10
	firstBuffer    = 8 << 10  // of a body whose size is unknown
	largeBuffer    = 64 << 10 // larger buffers count for Server.MaxQueuedBytes
)

// body is the message of a request, in a pooled buffer.
type body struct {
	buf []byte // from package buffers
	n   int    // bytes of the message in buf
}

// message returns the message, which is valid until release.
func (b *body) message() []byte { return b.buf[:b.n] }

// read reads the message of r, at most s.maxSize bytes and within s.readTimeout. If read
// fails, it returns the answer.
func (b *body) read(h *Handler, w http.ResponseWriter, r *http.Request, s *settings) *refusal {
	deadline := http.NewResponseController(w)
	if s.readTimeout > 0 {
		_ = deadline.SetReadDeadline(time.Now().Add(s.readTimeout)) // not every writer can
	}
	no := b.readWithin(h, r, s)
	if s.readTimeout > 0 && no == nil {
		_ = deadline.SetReadDeadline(time.Time{})
	}
	return no
}

func (b *body) readWithin(h *Handler, r *http.Request, s *settings) *refusal {
	var src io.Reader = r.Body
	size := int64(firstBuffer)
	if isGzip(r) {
		z := gunzips.Get().(*gunzip)
		defer z.recycle()
		if err := z.begin(r.Body); err != nil {
			return readFailure(err)
		}
		src = z
	} else if r.ContentLength >= 0 {
		size = min(r.ContentLength+1, largeBuffer)
	}
	b.buf = buffers.Get(buffers.SizeFor(max(smallestBuffer, int(size))))
	for {
		n, err := src.Read(b.buf[b.n:])
		b.n += n
		switch {
		case b.n > s.maxSize:
			return tooLarge(s)
		case err == io.EOF:
			return nil
		case err != nil:
			return readFailure(err)
		}
		if b.n == len(b.buf) {
			if no := b.grow(h, s); no != nil {
				return no
			}
		}
	}
}

// grow doubles the buffer. The size of large buffers is limited for all requests together.
func (b *body) grow(h *Handler, s *settings) *refusal {
	size := 2 * len(b.buf)
	counted := countedSize(len(b.buf))
	if h.arriving.Add(countedSize(size)-counted) > s.maxArriving {
		h.arriving.Add(counted - countedSize(size))
		return &refusal{status: http.StatusServiceUnavailable,
			text: "too many requests arrive: " + bounded.Over(int(s.maxArriving), "bytes", "Server.MaxQueuedBytes")}
	}
	larger := buffers.Get(size)
	copy(larger, b.buf)
	buffers.Put(b.buf)
	b.buf = larger
	return nil
}

// countedSize returns how many bytes a buffer counts for Server.MaxQueuedBytes.
func countedSize(size int) int64 {
	if size <= largeBuffer {
		return 0
	}
	return int64(size)
}

// release gives the buffer back.
func (b *body) release(h *Handler) {
	if b.buf == nil {
		return
	}
	if counted := countedSize(len(b.buf)); counted > 0 {
		h.arriving.Add(-counted)
	}
	buffers.Put(b.buf)
	b.buf, b.n = nil, 0
}

// readFailure returns the answer for an error of reading the body.
func readFailure(err error) *refusal {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &refusal{status: http.StatusRequestTimeout, text: "request body too slow (rpchttp.Handler.ReadTimeout)"}
	}
	if _, compressed := errors.AsType[*gzipError](err); compressed {
		return &refusal{status: http.StatusBadRequest, text: "request body is no single gzip member", err: err}
	}
	return &refusal{status: http.StatusBadRequest, text: "request body incomplete", err: err}
}

// gunzip reads a body of a single gzip member.
type gunzip struct {
	source source
	in     *bufio.Reader
	z      gzip.Reader
}

var gunzips = sync.Pool{New: func() any {
	z := new(gunzip)
	z.in = bufio.NewReader(&z.source)
	return z
}}

// source passes on a body, and keeps its error, which tells a bad connection from bad data.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (n int, err error) {
	if n, err = s.Reader.Read(p); err != nil {
		s.err = err
	}
	return n, err
}

// gzipError is an error of the compressed data.
type gzipError struct{ err error }

func (e *gzipError) Error() string { return "decompress the request body: " + e.err.Error() }
func (e *gzipError) Unwrap() error { return e.err }

var errAfterMember = errors.New("data after the first gzip member")

// begin reads the header of the member.
func (z *gunzip) begin(body io.Reader) error {
	z.source = source{Reader: body}
	z.in.Reset(&z.source)
	if err := z.z.Reset(z.in); err != nil {
		return z.failure(err)
	}
	z.z.Multistream(false)
	return nil
}

// Read implements [io.Reader]. The result is io.EOF if the body ends after the member.
func (z *gunzip) Read(p []byte) (int, error) {
	n, err := z.z.Read(p)
	if err == io.EOF {
		switch _, more := z.in.ReadByte(); more {
		case io.EOF:
			return n, io.EOF
		case nil:
			err = errAfterMember
		default:
			err = more
		}
	}
	if err != nil {
		err = z.failure(err)
	}
	return n, err
}

// failure returns the error of the connection, if there was one, or a *gzipError.
func (z *gunzip) failure(err error) error {
	if z.source.err != nil && z.source.err != io.EOF {
		return z.source.err
	}
	return &gzipError{err}
}

// recycle gives z back to the pool.
func (z *gunzip) recycle() {
	z.source = source{}
	gunzips.Put(z)
}
