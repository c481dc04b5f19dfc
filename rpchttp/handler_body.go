package rpchttp

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/buffers"
)

const (
	smallestBuffer = 1 << 10
	largeBuffer    = 8 << 10 // larger buffers count for Server.MaxQueuedBytes
)

// body is the message of a request, in a pooled buffer.
type body struct {
	buf []byte // from package buffers; nil before read and after release
	n   int    // bytes of the message in buf
	// If dropped is not nil, buf has only the beginning of a message, or nothing, and the
	// answer is an error. refused is the status, or 0 for that of any other error.
	dropped *rpcx.FrameError
	refused int
}

// message returns the message, which is valid until release.
func (b *body) message() []byte { return b.buf[:b.n] }

// read reads the message of r, at most s.maxSize bytes. The result is the answer to a body
// that is not worth an exchange, or nil.
func (b *body) read(h *Handler, r *http.Request, s *settings) *refusal {
	if r.ContentLength > int64(s.maxSize) {
		b.dropTooLarge(s.maxSize, maxSizeField)
		return nil
	}
	if r.Body == nil { // of a request that no http.Server has read
		r.Body = http.NoBody
	}
	src, size := io.Reader(r.Body), int64(largeBuffer)
	if isGzip(r) {
		z := gunzips.Get().(*gunzip)
		defer z.recycle()
		z.begin(r.Body, s.maxSize)
		src = z
	} else if r.ContentLength >= 0 {
		size = min(r.ContentLength+1, largeBuffer)
	}
	b.buf = buffers.Get(buffers.SizeFor(max(smallestBuffer, int(size))))
	for {
		n, err := src.Read(b.buf[b.n:])
		b.n += n
		if b.n > s.maxSize {
			b.dropTooLarge(s.maxSize, maxSizeField)
			return nil
		}
		if err != nil {
			return b.end(err, s)
		}
		if b.n == len(b.buf) {
			if no := b.grow(h, s); no != nil {
				return no
			}
		}
	}
}

// end handles err, which ends the reading of the body.
func (b *body) end(err error, s *settings) *refusal {
	compressed, ok := errors.AsType[*gzipError](err)
	limit, limited := errors.AsType[*http.MaxBytesError](err)
	switch {
	case err == io.EOF && isBlank(b.message()): // a session would pass over the message
		b.drop(0, "the request body is empty", "invalid JSON: the request body is empty")
	case err == io.EOF:
	case err == errCompressedTooLarge:
		b.dropTooLarge(s.maxSize, maxSizeField)
	case limited: // by a middleware
		b.dropTooLarge(int(limit.Limit), "http.MaxBytesReader")
	case ok:
		b.drop(http.StatusBadRequest, compressed.Error(), "request body is no single gzip member")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{status: http.StatusRequestTimeout, unread: true, text: "request body too slow (rpchttp.Handler.ReadTimeout)"}
	default:
		return &refusal{status: http.StatusBadRequest, text: "request body incomplete", err: err}
	}
	return nil
}

// isBlank reports whether a message is only white space.
func isBlank(msg []byte) bool { return len(bytes.TrimLeft(msg, " \t\r\n")) == 0 }

// drop drops a message that is not JSON. why is for the log.
func (b *body) drop(status int, why, answer string) {
	b.refused = status
	b.dropped = &rpcx.FrameError{Message: why, Recoverable: true, Answer: &rpcx.Error{Code: rpcx.CodeParseError, Message: answer}}
}

// dropTooLarge drops a message over a limit in bytes.
func (b *body) dropTooLarge(limit int, field string) {
	b.refused = http.StatusRequestEntityTooLarge
	b.dropped = &rpcx.FrameError{Message: "dropping a large message", Recoverable: true,
		TooLarge: &rpcx.SizeError{Limit: limit, Field: field}}
}

// grow doubles the buffer. The size of large buffers is limited for all requests together.
func (b *body) grow(h *Handler, s *settings) *refusal {
	size := 2 * len(b.buf)
	more := countedSize(size) - countedSize(len(b.buf))
	if h.held.Add(more) > s.maxHeld {
		h.held.Add(-more)
		return &refusal{status: http.StatusServiceUnavailable, unread: true,
			text: "too many large requests: " + bounded.Over(int(s.maxHeld), "bytes", "Server.MaxQueuedBytes")}
	}
	larger := buffers.Get(size)
	copy(larger, b.buf)
	buffers.Put(b.buf)
	b.buf = larger
	return nil
}

// countedSize returns how many bytes a buffer, or data for a client, counts for
// Server.MaxQueuedBytes.
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
		h.held.Add(-counted)
	}
	buffers.Put(b.buf)
	b.buf, b.n = nil, 0
}

// gunzip reads a body of a single gzip member.
type gunzip struct {
	source source
	in     *bufio.Reader
	z      gzip.Reader
	begun  bool // the header of the member was read
}

var gunzips = sync.Pool{New: func() any {
	z := new(gunzip)
	z.in = bufio.NewReader(&z.source)
	return z
}}

// source passes on a compressed body, up to a size, and keeps the error, which tells a lost
// connection from bad data.
type source struct {
	io.Reader
	left int // bytes that may still come
	err  error
}

var errCompressedTooLarge = errors.New("the compressed body is too large")

func (s *source) Read(p []byte) (n int, err error) {
	n, err = s.Reader.Read(p)
	if s.left -= n; s.left < 0 {
		err = errCompressedTooLarge
	}
	if err != nil {
		s.err = err
	}
	return n, err
}

// gzipError is an error of the compressed data.
type gzipError struct{ err error }

func (e *gzipError) Error() string { return "decompress the request body: " + e.err.Error() }
func (e *gzipError) Unwrap() error { return e.err }

var errAfterMember = errors.New("data after the first gzip member")

// begin prepares z for a body of at most maxSize bytes.
func (z *gunzip) begin(body io.Reader, maxSize int) {
	z.source = source{Reader: body, left: maxSize}
	z.in.Reset(&z.source)
	z.begun = false
}

// Read implements [io.Reader]. The result is io.EOF if the body ends after the member.
func (z *gunzip) Read(p []byte) (n int, err error) {
	if !z.begun {
		z.begun = true
		if err := z.z.Reset(z.in); err != nil {
			return 0, z.failure(err)
		}
		z.z.Multistream(false)
	}
	if n, err = z.z.Read(p); err == nil {
		return n, nil
	}
	if err == io.EOF {
		if _, err = z.in.ReadByte(); err == io.EOF {
			return n, io.EOF
		}
		if err == nil {
			err = errAfterMember
		}
	}
	return n, z.failure(err)
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
