package rpchttp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
)

// responder writes the answer to a message.
type responder struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	x *exchange
	*settings
	stream *eventStream // nil without server-sent events
}

// answer writes the results of ServeMessage for a message.
func (o *responder) answer(in *body, reply []byte, err error) {
	status := o.statusOf(in, reply, err)
	in.release(o.h) // the client may read slowly
	if o.stream != nil && o.stream.finish(reply) {
		o.h.boundAnswer(o.w, 0)
		return
	}
	switch {
	case reply != nil:
		o.writeReply(status, reply)
	case err == nil && in.refused == 0: // nothing is to be answered
		o.h.boundAnswer(o.w, 0)
		o.w.WriteHeader(status)
	default: // the reason stays in the log
		gone := o.r.Context().Err() != nil
		o.h.refuse(o.w, o.r, &refusal{status: status, text: strings.ToLower(http.StatusText(status)), err: err, quiet: gone || err == nil})
	}
}

// statusOf returns the status, and sets the headers that belong to the status.
func (o *responder) statusOf(in *body, reply []byte, err error) int {
	cost, excessive := errors.AsType[*rpcx.CostError](err)
	refused, _ := errors.AsType[*rpcx.Error](err)
	switch {
	case excessive:
		retryAfter := ""
		if cost.RetryAfter > 0 {
			retryAfter = strconv.FormatFloat(min(cost.RetryAfter, math.MaxInt32), 'f', 0, 64)
			o.w.Header().Set("Retry-After", retryAfter)
		}
		o.h.spent.add(o.x.subnet(), retryAfter)
		return http.StatusTooManyRequests
	case refused.NotStarted():
		o.w.Header().Set("Retry-After", "1")
		if errors.Is(err, rpcx.ErrServerClosed) {
			closeConnection(o.w, o.r) // the next request may reach another server
		}
		return http.StatusServiceUnavailable
	case in.refused != 0:
		closeConnection(o.w, o.r) // the rest of the body is not wanted
		return in.refused
	case reply != nil && o.h.Status != nil:
		return o.statusOfReply(in.message(), reply)
	case reply != nil:
		return http.StatusOK
	case err == nil && o.h.Empty != nil:
		return o.h.Empty(o.r)
	case err == nil:
		return http.StatusNoContent
	}
	if _, ok := errors.AsType[*rpcx.ProtocolError](err); ok {
		return http.StatusBadRequest
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// statusOfReply asks Status if the reply is a single error.
func (o *responder) statusOfReply(msg, reply []byte) int {
	p := o.h.Server.Options.Protocol
	if p == nil {
		p = rpcx.JSONRPCv2
	}
	var m rpcx.Message
	if reply[0] == '[' {
		return http.StatusOK
	}
	p.Decode(&m, reply, 0)
	if len(m.Items) != 1 || m.Items[0].Kind != rpcx.KindResponse {
		return http.StatusOK
	}
	e, ok := errors.AsType[*rpcx.Error](m.Items[0].Err)
	if !ok {
		return http.StatusOK
	}
	if d, ok := p.(rpcx.Detector); ok {
		if found := d.Detect(msg, o.maxBatch); found != nil {
			p = found
		}
	}
	return o.h.Status(o.r, e, p)
}

// Values of headers, shared by all answers.
var jsonTypes = []string{jsonType}

const (
	// bufferedReply is the size from which package http does not find out the length of a
	// reply.
	bufferedReply = 2 << 10
	// sentPart is how much a client must read within Limits.SendTimeout.
	sentPart = 16 << 10
)

// writeReply writes a reply.
func (o *responder) writeReply(status int, reply []byte) {
	header := o.w.Header()
	header["Content-Type"] = jsonTypes
	if least := o.h.Compress; least > 0 && len(reply) >= least {
		header.Add("Vary", "Accept-Encoding")
		if acceptsGzip(o.r) {
			header.Set("Content-Encoding", "gzip")
			reply = compress(reply)
		}
	}
	if len(reply) >= bufferedReply {
		header.Set("Content-Length", strconv.Itoa(len(reply)))
	}
	o.w.WriteHeader(status)
	out := newDeadlineWriter(o.h, o.w)
	_ = out.write(reply) // package http closes the connection
}

// deadlineWriter writes to a client that must read each part within a time.
type deadlineWriter struct {
	http.ResponseController
	w       http.ResponseWriter
	h       *Handler
	timeout time.Duration // 0 for none
}

func newDeadlineWriter(h *Handler, w http.ResponseWriter) deadlineWriter {
	return deadlineWriter{*http.NewResponseController(w), w, h, h.settings.sendTimeout}
}

// write writes data. The deadline is renewed for each part, except while bodies and unread
// data hold more than half of Server.MaxQueuedBytes: then clients that read slowly make
// room. After the request, package http clears the deadline.
func (d *deadlineWriter) write(data []byte) error {
	if counted := countedSize(len(data)); counted > 0 {
		d.h.held.Add(counted)
		defer d.h.held.Add(-counted)
	}
	for first := true; len(data) > 0; first = false {
		n := min(len(data), sentPart)
		if d.timeout > 0 && (first || d.h.held.Load() <= d.h.settings.maxHeld/2) {
			_ = d.SetWriteDeadline(time.Now().Add(d.timeout)) // not every writer can
		}
		if _, err := d.w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// boundAnswer bounds the time for an answer, or the rest of an answer, that package http
// sends after the handler. Before a refusal, package http reads the rest of the body, within
// the read deadline; beforehand is the time for that. Then package http clears the deadline.
func (h *Handler) boundAnswer(w http.ResponseWriter, beforehand time.Duration) {
	if timeout := h.settings.sendTimeout; timeout > 0 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(beforehand + timeout)) // not every writer can
	}
}

// gzipper compresses replies.
type gzipper struct {
	z   *gzip.Writer
	out bytes.Buffer
}

var gzips = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is valid
	return &gzipper{z: z}
}}

// compress returns the compressed reply.
func compress(reply []byte) []byte {
	z := gzips.Get().(*gzipper)
	defer gzips.Put(z)
	z.out.Reset()
	z.z.Reset(&z.out)
	_, _ = z.z.Write(reply) // a bytes.Buffer has no errors
	_ = z.z.Close()
	return bytes.Clone(z.out.Bytes()) // the client may read slowly, and a gzip.Writer has a megabyte
}

// acceptsGzip reports whether the client takes replies in gzip.
func acceptsGzip(r *http.Request) bool { return accepts(r.Header["Accept-Encoding"], "gzip") }

// accepts reports whether a list of an Accept header has the value, with a quality above 0.
// Wildcards do not count.
func accepts(lines []string, value string) bool {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(element, ";")
			if strings.EqualFold(strings.TrimSpace(name), value) {
				return !isZeroQuality(params)
			}
		}
	}
	return false
}

// isZeroQuality reports whether the parameters of an Accept header refuse the value.
func isZeroQuality(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return err == nil && q == 0
	}
	return false
}
