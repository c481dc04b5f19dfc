package rpchttp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
)

// eventHandler takes the notifications in server-sent events.
type eventHandler struct {
	handler rpcx.Handler // nil for none
	log     *slog.Logger
}

func newEventHandler(opts *rpcx.Options) eventHandler {
	h := eventHandler{log: slog.New(slog.DiscardHandler)}
	if opts == nil {
		return h
	}
	if opts.Logger != nil {
		h.log = opts.Logger
	}
	if h.handler = opts.Handler; h.handler != nil {
		for i := len(opts.Middleware) - 1; i >= 0; i-- {
			h.handler = opts.Middleware[i](h.handler)
		}
	}
	return h
}

// handle calls the handler with a notification, or logs a request.
func (h eventHandler) handle(ctx context.Context, item *rpcx.Item) {
	method := slog.String("method", bounded.Excerpt(item.Method))
	if item.Kind == rpcx.KindRequest {
		h.log.LogAttrs(ctx, slog.LevelWarn, "request in server-sent events dropped: over HTTP it cannot be answered", method)
		return
	}
	if h.handler == nil {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			h.log.LogAttrs(ctx, slog.LevelError, "handler panicked", method, slog.String("error", bounded.Text(fmt.Sprint(r))))
		}
	}()
	if _, err := h.handler.ServeRPC(ctx, &rpcx.Request{Method: item.Method, Params: item.Params}); err != nil {
		h.log.LogAttrs(ctx, slog.LevelWarn, "notification failed", method, slog.Any("error", bounded.Error(err)))
	}
}

// endOfEvents is how long the server has for ending a stream after the last response. The
// connection of a stream that ends in time is used again.
const endOfEvents = 20 * time.Millisecond

// readEvents reads server-sent events up to the responses to msg, and returns the
// responses. Notifications before go to the handler.
func (t *transport) readEvents(ctx context.Context, d *delivery, msg []byte) ([]byte, error) {
	body := &d.reply
	var m rpcx.Message
	t.decode(&m, msg)
	var replies eventReplies
	for _, item := range m.Items {
		if item.Kind == rpcx.KindRequest {
			replies.missing++
		}
	}
	events := newEventReader(body)
	for replies.missing > 0 || len(replies.texts) == 0 {
		text, err := events.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		t.decode(&m, text)
		reply := false
		for _, item := range m.Items {
			switch item.Kind {
			case rpcx.KindNotification, rpcx.KindRequest:
				t.events.handle(ctx, &item)
			default:
				reply = true
				replies.count(&item)
			}
		}
		if !reply {
			continue
		}
		if replies.add(text, m.Batch); replies.size > body.limit {
			return nil, body.tooLarge(replies.size)
		}
	}
	if d.cancel != nil {
		late := time.AfterFunc(endOfEvents, d.cancel) // since Close of a body may wait for Read
		_, _ = events.next()                          // normally io.EOF
		late.Stop()
	}
	return replies.join(), nil
}

// eventReplies collects the responses in a stream of events.
type eventReplies struct {
	texts   [][]byte // single responses, or members of batches with their commas
	size    int      // of the texts together
	missing int      // responses to come
	batch   bool     // the reply is an array
}

// count counts an item other than a request or notification.
func (r *eventReplies) count(item *rpcx.Item) {
	r.missing--
	if item.Kind != rpcx.KindResponse || item.ID == nil {
		r.missing = 0 // the server has refused the message as a whole, or cannot be understood
	}
}

// add adds the text of a single response or of a batch.
func (r *eventReplies) add(text []byte, batch bool) {
	r.size += len(text)
	if batch {
		r.batch = true
		text = bytes.TrimSpace(text)
		text = text[1 : len(text)-1]
	}
	r.texts = append(r.texts, text)
}

// join returns the responses as one reply.
func (r *eventReplies) join() []byte {
	switch {
	case len(r.texts) == 0:
		return nil
	case len(r.texts) == 1 && !r.batch:
		return r.texts[0]
	}
	reply := append(make([]byte, 0, r.size+len(r.texts)+2), '[')
	reply = append(reply, bytes.Join(r.texts, []byte{','})...)
	return append(reply, ']')
}

// eventReader reads the data of server-sent events, as the HTML standard describes them.
type eventReader struct {
	body   *replyReader
	buf    *bufio.Reader
	line   []byte // the current line, without its end
	skipLF bool   // the last line has ended with a CR, to which a LF may belong
	begun  bool   // the first line was read
}

func newEventReader(body *replyReader) *eventReader {
	return &eventReader{body: body, buf: bufio.NewReader(body.plain)}
}

// next returns the data of the next event of type "message", which the caller owns. At the
// end of the stream next returns io.EOF, and drops an incomplete event.
func (r *eventReader) next() ([]byte, error) {
	var data []byte
	found, message := false, true
	for {
		if err := r.readLine(); err != nil {
			return nil, err
		}
		if len(r.line) == 0 {
			if found && message {
				return data, nil
			}
			data, found, message = nil, false, true
			continue
		}
		name, value, _ := bytes.Cut(r.line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "data":
			if found {
				data = append(data, '\n')
			}
			if len(data)+len(value) > r.body.limit {
				return nil, r.body.tooLarge(0)
			}
			data, found = append(data, value...), true
		case "event":
			message = len(value) == 0 || string(value) == "message"
		}
	}
}

// fieldSize is the room that the name of a field takes in a line, in bytes.
const fieldSize = 16

// readLine reads the next line, which ends with LF, CR LF or CR.
func (r *eventReader) readLine() error {
	r.line = r.line[:0]
	for {
		r.body.wire.N = int64(r.body.limit) + 1 // the limit is for events, not for the stream
		if _, err := r.buf.Peek(1); err == io.EOF {
			return err
		} else if err != nil {
			return readError(err)
		}
		chunk, _ := r.buf.Peek(r.buf.Buffered())
		if r.skipLF && chunk[0] == '\n' {
			chunk = chunk[1:]
			r.buf.Discard(1)
		}
		r.skipLF = false
		end := bytes.IndexAny(chunk, "\r\n")
		n := end
		if end < 0 {
			n = len(chunk)
		}
		if len(r.line)+n > r.body.limit+fieldSize {
			return r.body.tooLarge(0)
		}
		r.line = append(r.line, chunk[:n]...)
		if end < 0 {
			r.buf.Discard(n)
			continue
		}
		r.skipLF = chunk[end] == '\r'
		r.buf.Discard(n + 1)
		if !r.begun {
			r.begun = true
			r.line = bytes.TrimPrefix(r.line, []byte("\ufeff"))
		}
		return nil
	}
}
