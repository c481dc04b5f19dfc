package rpchttp

import (
	"bytes"
	"net/http"
	"sync"
	"time"
)

// eventType is the type of a stream of server-sent events.
const eventType = "text/event-stream"

// commentInterval is the longest silence of a stream. Then a comment shows proxies, and
// this side, that the other side is there.
const commentInterval = 15 * time.Second

// acceptsEvents reports whether the client takes server-sent events.
func acceptsEvents(r *http.Request) bool { return accepts(r.Header["Accept"], eventType) }

// canFlush reports whether w, or a wrapped writer, sends events at once, in the manner of
// [http.ResponseController].
func canFlush(w http.ResponseWriter) bool {
	for {
		switch f := w.(type) {
		case interface{ FlushError() error }, http.Flusher:
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = f.Unwrap()
		default:
			return false
		}
	}
}

// eventStream sends notifications, and then the reply, as server-sent events. Without a
// notification nothing is sent, and the reply is an ordinary one.
type eventStream struct {
	out deadlineWriter

	mu       sync.Mutex
	begun    bool // the header is sent
	ended    bool // no comment may be written
	failed   error
	comments *time.Timer // nil before the first event
	event    []byte
}

// notify sends a notification. ServeMessage does not call notify after its return.
func (e *eventStream) notify(msg []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sendLocked(msg)
}

// finish sends the reply as the last event, and reports true. If the stream has not begun,
// finish sends nothing and reports false.
func (e *eventStream) finish(reply []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun && reply != nil {
		_ = e.sendLocked(reply) // nobody can be told
	}
	e.ended = true
	return e.begun
}

// sendLocked sends msg as an event. Callers must hold e.mu.
func (e *eventStream) sendLocked(msg []byte) error {
	if !e.begun {
		header := e.out.w.Header()
		header.Set("Content-Type", eventType)
		header.Set("Cache-Control", "no-cache")
		header.Set("X-Accel-Buffering", "no") // or nginx keeps the events back
		e.begun = true
		e.comments = time.AfterFunc(commentInterval, e.comment)
	}
	e.event = appendEvent(e.event[:0], msg)
	err := e.writeLocked(e.event)
	if cap(e.event) > largeBuffer {
		e.event = nil // the next event may come late
	}
	return err
}

// writeLocked writes data, and starts the silence anew. Callers must hold e.mu.
func (e *eventStream) writeLocked(data []byte) error {
	if e.failed != nil {
		return e.failed
	}
	err := e.out.write(data)
	if err == nil {
		err = e.out.Flush()
	}
	if e.out.timeout > 0 {
		_ = e.out.SetWriteDeadline(time.Time{}) // HTTP/2 ends a stream at the deadline
	}
	if err != nil {
		e.failed = err
		e.comments.Stop()
		return err // package http ends the context of the request
	}
	e.comments.Reset(commentInterval)
	return nil
}

// comment ends the silence of the stream.
func (e *eventStream) comment() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		_ = e.writeLocked([]byte(":\n\n"))
	}
}

// end ends the stream. Afterwards nothing is written.
func (e *eventStream) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	if e.comments != nil {
		e.comments.Stop()
	}
}

// appendEvent appends msg as an event. Each line of msg is a line of the event.
func appendEvent(dst, msg []byte) []byte {
	dst = append(dst, "event: message\n"...)
	for {
		line, rest, more := msg, []byte(nil), false
		if i := bytes.IndexAny(msg, "\r\n"); i >= 0 {
			line, rest, more = msg[:i], msg[i+1:], true
		}
		dst = append(dst, "data: "...)
		dst = append(dst, line...)
		dst = append(dst, '\n')
		if !more {
			return append(dst, '\n')
		}
		msg = rest
	}
}
