package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
)

type splitter = bufio.SplitFunc

// direction is who has sent a message.
type direction int

const (
	fromClient direction = iota
	fromServer
)

func (d direction) arrow() string { return [...]string{"--> ", "<-- "}[d] }
func (d direction) name() string  { return [...]string{"client", "server"}[d] }

// tapped is what a tap has seen: a message, or why there is none.
type tapped struct {
	message []byte // valid during the call
	problem string
}

// tap finds the messages in the bytes of one direction. A tap holds at most an incomplete
// message, which the splitter bounds, and one chunk.
type tap struct {
	split splitter // nil when messages cannot be found any more
	show  func(tapped)
	buf   []byte
	total int64
}

func newTap(split splitter, show func(tapped)) *tap { return &tap{split: split, show: show} }

// feed shows the messages that data completes. data is only read.
func (t *tap) feed(data []byte) {
	t.total += int64(len(data))
	if t.split == nil {
		return
	}
	t.buf = append(t.buf, data...)
	t.splitBuf(false)
}

// end shows what the end of the stream completes.
func (t *tap) end() {
	if t.split != nil {
		t.splitBuf(true)
	}
	t.split, t.buf = nil, nil
}

func (t *tap) splitBuf(atEOF bool) {
	rest := t.buf
	for len(rest) > 0 || atEOF {
		n, token, err := t.split(rest, atEOF)
		rest = rest[n:]
		if len(bytes.TrimSpace(token)) > 0 {
			t.show(tapped{message: token})
		}
		if err != nil && !t.skips(err) {
			t.split, t.buf = nil, nil
			return
		}
		if n == 0 && err == nil {
			break
		}
	}
	t.buf = append(t.buf[:0], rest...)
	if cap(t.buf) > 64<<10 && len(t.buf) < cap(t.buf)/4 {
		t.buf = bytes.Clone(t.buf) // after a large message
	}
}

// skips shows the error of the splitter, and reports whether further messages can be found.
func (t *tap) skips(err error) bool {
	frame, ok := errors.AsType[*rpcx.FrameError](err)
	if ok && frame.Recoverable {
		if frame.TooLarge != nil {
			t.show(tapped{problem: fmt.Sprintf("a message of more than %d bytes passes, and is not shown (--max-size)", frame.TooLarge.Limit)})
		} else {
			t.show(tapped{problem: "a damaged message passes, and is not shown"})
		}
		return true
	}
	text := "what follows is not a message of this --framing: it passes, and is not shown"
	if hint := hintFor(err, err.Error()); hint != "" {
		text += ". " + hint
	}
	t.show(tapped{problem: text})
	return false
}

// proxyLog shows and records what passes.
type proxyLog struct {
	e    *env
	p    *printer
	conn *connFlags
	stop func(error) // ends the proxy, after an error of the output

	mu        sync.Mutex // guards the following fields, and p
	record    *os.File   // nil for none, and after an error
	recordErr error
	recording string // the path
}

// proxyEvent is a message, or what else happens, as it is recorded.
type proxyEvent struct {
	Time time.Time `json:"time"`
	Conn int       `json:"conn,omitempty"`
	From string    `json:"from,omitempty"`
	// Message is what has passed, if that is JSON; Text, if that is a text.
	Message json.RawMessage `json:"message,omitempty"`
	Text    string          `json:"text,omitempty"`
	Calls   []callTime      `json:"calls,omitempty"`
	// Event says what has happened to the connection, or why a message is not shown.
	Event string `json:"event,omitempty"`
}

func newProxyLog(e *env, p *printer, conn *connFlags, record string, stop func(error)) (*proxyLog, error) {
	l := &proxyLog{e: e, p: p, conn: conn, stop: stop, recording: record}
	if record == "" {
		return l, nil
	}
	var err error
	if l.record, err = openPrivate(record); err != nil {
		return nil, usagef("--record: %w", err)
	}
	return l, nil
}

// close closes the record, and returns its error.
func (l *proxyLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.record != nil {
		l.recordErr = l.record.Close()
		l.record = nil
	}
	if l.recordErr != nil {
		return fmt.Errorf("--record: %w", l.recordErr)
	}
	return nil
}

// tell shows an event. Its text may have texts of peers.
func (l *proxyLog) tell(conn int, format string, args ...any) {
	l.write(&proxyEvent{Time: time.Now(), Conn: conn, Event: l.conn.redact(fmt.Sprintf(format, args...))})
}

// show shows what a tap has seen. calls may be nil.
func (l *proxyLog) show(conn int, from direction, m tapped, calls *callTable) {
	ev := &proxyEvent{Time: time.Now(), Conn: conn, From: from.name(), Event: m.problem}
	if m.message != nil {
		text := l.redact(string(m.message))
		if json.Valid(m.message) {
			ev.Calls = calls.match(from, m.message, ev.Time)
		}
		if json.Valid([]byte(text)) {
			ev.Message = json.RawMessage(text)
		} else {
			ev.Text = redactHeaders(strings.ToValidUTF8(text, "\ufffd"))
		}
	}
	l.write(ev)
}

// redact removes secrets, also as they are written within strings of JSON.
func (l *proxyLog) redact(text string) string {
	text = l.conn.redact(text)
	for _, secret := range l.conn.jsonSecrets() {
		text = strings.ReplaceAll(text, secret, "…")
	}
	return text
}

// jsonSecrets returns the secrets that are written in another way within strings of JSON.
func (c *connFlags) jsonSecrets() (texts []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range c.secrets {
		if quoted, err := marshal(secret); err == nil && string(quoted) != `"`+secret+`"` {
			texts = append(texts, strings.Trim(string(quoted), `"`))
		}
	}
	return texts
}

var secretHeader = regexp.MustCompile(`(?im)^([ \t]*(?:[a-z-]*authorization|(?:set-)?cookie2?|[a-z-]*(?:api-?key|token|secret|password)[a-z-]*)[ \t]*:).*$`)

// redactHeaders replaces the values of HTTP headers that hold secrets.
func redactHeaders(text string) string { return secretHeader.ReplaceAllString(text, "$1 …") }

func (l *proxyLog) write(ev *proxyEvent) {
	text, err := marshal(ev)
	if err != nil { // the message is as deep as JSON may be, and the event is around it
		ev.Text, ev.Message, ev.Calls = string(ev.Message), nil, nil
		text, err = marshal(ev)
	}
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.record != nil {
		if _, err := l.record.Write(append(text, '\n')); err != nil {
			l.recordErr = errors.Join(err, l.record.Close())
			l.record = nil
			notice(l.e, "recording has stopped: %s", err)
		}
	}
	if l.p.form == "text" && l.p.filter == nil {
		err = l.p.write(l.line(ev))
	} else {
		err = l.printObject(text)
	}
	if err != nil {
		l.stop(err)
	}
}

// printObject prints an event in the form of --output.
func (l *proxyLog) printObject(text json.RawMessage) error {
	err := l.p.print(context.Background(), text)
	if _, ok := errors.AsType[*outputError](err); err != nil && !ok {
		notice(l.e, "%s", err) // a filter that fails for one event
		return nil
	}
	return err
}

// line returns an event as a line for people.
func (l *proxyLog) line(ev *proxyEvent) string {
	var b strings.Builder
	b.WriteString(ev.Time.Format("15:04:05.000"))
	if ev.Conn > 0 {
		fmt.Fprintf(&b, " #%d", ev.Conn)
	}
	b.WriteByte(' ')
	if ev.From != "" {
		from := fromClient
		if ev.From == fromServer.name() {
			from = fromServer
		}
		b.WriteString(from.arrow())
	}
	switch {
	case ev.Message != nil:
		b.WriteString(l.p.colour(escapeFor(l.p.terminal, compact(ev.Message))))
	case ev.Text != "":
		b.WriteString(flatten(ev.Text))
	default:
		b.WriteString(flatten(ev.Event))
	}
	for _, c := range ev.Calls {
		took := roundTime(time.Duration(c.Seconds * float64(time.Second)))
		fmt.Fprintf(&b, "  (%s %s)", flatten(c.Method), took)
	}
	return b.String()
}

// flatten returns a text as a part of a line, without control characters.
func flatten(text string) string {
	return escapeControl(strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(text))
}

// roundTime returns a duration with three digits or so.
func roundTime(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(100 * time.Nanosecond)
}
