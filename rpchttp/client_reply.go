package rpchttp

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
)

// readReply returns the reply to msg in the response to d, or nil if the server had nothing
// to say.
func (t *transport) readReply(ctx context.Context, response *http.Response, d *delivery, msg []byte) ([]byte, error) {
	body := &d.reply
	if err := body.begin(response, t.maxSize()); err != nil {
		return nil, err
	}
	defer body.end()
	mediaType, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	success := response.StatusCode/100 == 2
	if success && mediaType == "text/event-stream" {
		return t.readEvents(ctx, d, msg)
	}
	text, err := body.readAll(response.ContentLength)
	tooLarge := false
	if _, tooLarge = errors.AsType[*rpcx.SizeError](err); tooLarge && !success {
		err = nil // the beginning will do
	}
	if err != nil {
		return nil, err
	}
	first := bytes.TrimLeft(text, " \t\r\n")
	switch {
	case tooLarge:
	case success && len(first) == 0:
		return nil, nil
	case success && (first[0] == '{' || first[0] == '[' || !isText(mediaType)):
		return text, nil
	case success && (response.StatusCode == http.StatusAccepted || response.StatusCode == http.StatusNoContent):
		return nil, nil
	case !success && t.isReply(text):
		return text, nil
	}
	return nil, newStatusError(response, text)
}

// isText reports whether a body of the type, which begins with no brace or bracket, is
// text. Of other types it may be a reply of a protocol other than JSON-RPC.
func isText(mediaType string) bool {
	return mediaType == "" || strings.HasPrefix(mediaType, "text/")
}

// isReply reports whether text has a response, with an id or an error. Beside a status of
// an error, JSON of other kinds is usual, such as {"error":"unauthorized"}.
func (t *transport) isReply(text []byte) bool {
	var m rpcx.Message
	t.decode(&m, text)
	return slices.ContainsFunc(m.Items, func(item rpcx.Item) bool {
		_, isError := item.Err.(*rpcx.Error)
		return item.Kind == rpcx.KindResponse && (item.ID != nil || isError)
	})
}

// replyReader reads the body of a response, decompressed. Both the received and the
// decompressed size are limited.
type replyReader struct {
	wire  io.LimitedReader // of the received bytes: at most one more than the limit
	plain io.Reader        // &wire, or gzip
	gzip  *gzipReader      // reads wire; nil for a body that is not compressed
	limit int
}

// begin makes r the reader of a response's body.
func (r *replyReader) begin(response *http.Response, limit int) error {
	r.limit = limit
	r.wire = io.LimitedReader{R: response.Body, N: int64(r.limit) + 1}
	r.plain = &r.wire
	switch encoding := strings.ToLower(response.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		if response.ContentLength != 0 {
			r.gzip = newGzipReader(&r.wire)
			r.plain = r.gzip
			response.ContentLength = -1 // unknown
		}
	default:
		return fmt.Errorf("the reply has the Content-Encoding %q, which was not asked for", bounded.Excerpt(encoding))
	}
	return nil
}

// end releases what r has used, except the body.
func (r *replyReader) end() {
	if r.gzip != nil {
		r.gzip.recycle()
	}
}

// tooLarge returns the error for a reply over the limit.
func (r *replyReader) tooLarge(size int) error {
	return fmt.Errorf("read the reply: %w", &rpcx.SizeError{Size: size, Limit: r.limit, Field: "Dialer.MaxSize"})
}

// readAll reads the whole body. declared is its size, or -1 if unknown. If the body is too
// large, readAll also returns its beginning, unless the declared size says so.
func (r *replyReader) readAll(declared int64) ([]byte, error) {
	if declared > int64(r.limit) {
		text := make([]byte, min(maxStatusBody, r.limit))
		n, _ := io.ReadFull(r.plain, text)
		return text[:n], r.tooLarge(int(min(declared, math.MaxInt)))
	}
	const start = 512
	size := int64(start)
	if declared >= 0 {
		size = min(declared+1, 64<<10) // the server has to send more before it gets more memory
	}
	text := make([]byte, 0, size)
	for {
		if len(text) == cap(text) {
			text = append(text, 0)[:len(text)]
		}
		n, err := r.plain.Read(text[len(text):min(cap(text), r.limit+1)])
		text = text[:len(text)+n]
		switch {
		case len(text) > r.limit || r.wire.N <= 0:
			return text[:min(len(text), r.limit)], r.tooLarge(0)
		case err == io.EOF:
			return text, nil
		case err != nil:
			return nil, readError(err)
		}
	}
}

// readError returns the error for err, an error of reading a reply.
func readError(err error) error {
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt || err == gzip.ErrHeader || err == gzip.ErrChecksum || err == errAfterGzip {
		return fmt.Errorf("decompress the reply: %w", err)
	}
	return &sendError{err: fmt.Errorf("read the reply: %w", err), sent: true}
}

// gzipReader decompresses a body of one gzip member.
type gzipReader struct {
	wire  *bufio.Reader
	gzip  *gzip.Reader
	begun bool
}

var gzipReaders = sync.Pool{New: func() any { return &gzipReader{wire: bufio.NewReader(nil), gzip: new(gzip.Reader)} }}

// newGzipReader returns a reader for wire, to be recycled.
func newGzipReader(wire io.Reader) *gzipReader {
	r := gzipReaders.Get().(*gzipReader)
	r.wire.Reset(wire)
	r.begun = false
	return r
}

// recycle makes r free for another body.
func (r *gzipReader) recycle() {
	r.wire.Reset(nil)
	gzipReaders.Put(r)
}

func (r *gzipReader) Read(p []byte) (int, error) {
	if !r.begun {
		if err := r.gzip.Reset(r.wire); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		r.gzip.Multistream(false) // empty members could go on for ever
		r.begun = true
	}
	n, err := r.gzip.Read(p)
	if err == io.EOF {
		if _, more := r.wire.ReadByte(); more == nil { // usually the end of the body, so that the connection can be used again
			err = errAfterGzip
		} else if more != io.EOF {
			err = more
		}
	}
	return n, err
}

var errAfterGzip = errors.New("there is more after the compressed reply")
