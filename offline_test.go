package rpcx

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"testing"
)

// offline is a session without goroutines, connection or timer. The test is
// its reader, its writer and its worker: with receive, sent and take.
type offline struct {
	*Session
	message Message
	intake  intake
}

func newOffline(p Protocol) *offline {
	o := options(&Options{
		Protocol: p,
		Limits:   Limits{Response: -1, RequestTimeout: -1, ProcessingTimeout: -1},
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	s := newSession(&messages{conn: nowhere{}}, o, RoleClient, &pool{}, &lone)
	s.in.held = true // nobody is called to handle requests
	s.logging = true // nor to log
	return &offline{Session: s}
}

// nowhere is the connection that an offline session does not use.
type nowhere struct{}

func (nowhere) ReadMessage() ([]byte, error) { return nil, io.EOF }
func (nowhere) WriteMessages([][]byte) error { return nil }
func (nowhere) Close() error                 { return nil }

// receive has the session take a message. The bytes are overwritten behind it,
// for they are only lent.
func (o *offline) receive(msg []byte) {
	msg = bytes.Clone(msg)
	o.Session.receive(&o.intake, &o.message, msg)
	for i := range msg {
		msg[i] = '?'
	}
	o.deliver(&o.intake)
}

// take returns the requests and notifications that wait for a handler.
func (o *offline) take() (calls []*call) {
	for c := o.in.take(o.Session); c != nil; c = o.in.take(o.Session) {
		calls = append(calls, c)
	}
	return calls
}

// sent returns the messages that wait to be written.
func (o *offline) sent() (msgs [][]byte) {
	if o.out.empty() {
		return nil
	}
	f := o.out.take()
	for msg := range split(f.buf, f.ends) {
		msgs = append(msgs, bytes.Clone(msg))
	}
	o.out.giveBack(f)
	return msgs
}

// faults returns the violations of the protocol that were noted.
func (o *offline) faults() (faults []error) {
	for _, n := range o.notes {
		for _, attr := range n.attrs {
			if attr.Key == "error" {
				faults = append(faults, attr.Value.Any().(error))
			}
		}
	}
	o.notes = nil
	return faults
}

// sameErrors compares errors by their types and texts.
func sameErrors(t *testing.T, what string, got, want []error) {
	t.Helper()
	describe := func(errs []error) (list []string) {
		for _, err := range errs {
			list = append(list, fmt.Sprintf("%T %v", err, err))
		}
		return list
	}
	if g, w := describe(got), describe(want); fmt.Sprint(g) != fmt.Sprint(w) {
		t.Errorf("%s: got %q, want %q", what, g, w)
	}
}

// A ledger says what becomes of a session's calls, by the rules and not by the
// session's code: a response completes the pending call that has its id,
// wherever it was sent and whatever comes with it; the first of two wins; one
// whose call was given up is late; any other is unexpected. A string of a call's
// number is its id where the protocol is loose, and fails it elsewhere. An error
// without an id, of the code for what cannot be read, is for the pending calls if all
// are of the one message that was sent since the last response was of use.
type ledger struct {
	calls            []*ledgerCall // by their ids
	late, unexpected uint64        // responses
	loose            bool
	sent, replied    int // messages: so far, and when the last response was of use
}

type ledgerCall struct {
	ref     string // of the call or its batch
	message int    // that it was sent in
	member  bool   // of a batch
	state   ledgerState
	swept   bool // it was over when all pending calls were given up
	result  []byte
	err     error
}

type ledgerState uint8

const (
	ledgerUnsent  ledgerState = iota // its id is used up
	ledgerPending                    // it waits for its reply
	ledgerGivenUp                    // it does not, but the reply may come
	ledgerOver
)

// find returns the call with a response's id, nil if there is none.
func (l *ledger) find(item *Item) *ledgerCall {
	id, _ := ledgerID(item.ID)
	if id, err := strconv.ParseUint(id, 10, 64); err == nil && id < uint64(len(l.calls)) {
		return l.calls[id]
	}
	return nil
}

// ledgerID returns an id without its quotes, if it is a string.
func ledgerID(id []byte) (text string, quoted bool) {
	var s string
	if len(id) > 0 && id[0] == '"' && json.Unmarshal(id, &s) == nil {
		return s, true
	}
	return string(id), false
}

// refused returns the pending calls that an error without an id is for.
func (l *ledger) refused(item *Item) (calls []*ledgerCall) {
	e, ok := item.Err.(*Error)
	if item.ID != nil || !ok || e.Code != CodeParseError && e.Code != CodeInvalidRequest || l.sent != l.replied+1 {
		return nil
	}
	for _, c := range l.calls {
		if c.state == ledgerPending {
			if c.message != l.sent {
				return nil
			}
			calls = append(calls, c)
		}
	}
	return calls
}

// receive notes the responses of one message, and returns the faults in them.
func (l *ledger) receive(items []Item, batch bool) (faults []error) {
	answered := map[string]bool{} // batches by an array
	for i := range items {
		item := &items[i]
		c := l.find(item)
		refused := l.refused(item)
		switch {
		case len(refused) > 0:
			for _, c := range refused {
				c.settle(ledgerOver, nil, item.Err)
			}
			l.replied = l.sent
		case c != nil && c.state == ledgerPending:
			err := item.Err
			if text, quoted := ledgerID(item.ID); quoted && !l.loose {
				err = protocolErrorf(CodeInvalidRequest, "the id of the response is the string %q, not the number %s", text, text)
			}
			c.settle(ledgerOver, bytes.Clone(item.Result), err)
			if err, ok := err.(*ProtocolError); ok {
				faults = append(faults, err)
			}
			answered[c.ref] = answered[c.ref] || batch && c.member
			l.replied = l.sent
		case c != nil && c.state == ledgerGivenUp:
			c.state = ledgerOver
			l.late++
			l.replied = l.sent
		default:
			l.unexpected++
			faults = append(faults, unexpectedResponse(item))
		}
	}
	for _, c := range l.calls {
		if answered[c.ref] && c.state == ledgerPending {
			c.settle(ledgerGivenUp, nil, ErrNoResponse)
		}
	}
	return faults
}

func unexpectedResponse(item *Item) error {
	if e, ok := item.Err.(*Error); ok && item.ID == nil {
		return protocolErrorf(CodeInvalidRequest, "diagnostic error received: %d %s", e.Code, excerpt(e.Message))
	}
	return protocolError(CodeInvalidRequest, "response to unsent request (ID: "+excerpt(appendID(nil, item.ID))+")")
}

func (c *ledgerCall) settle(state ledgerState, result []byte, err error) {
	c.state, c.result, c.err = state, result, err
}

// giveUp notes that the pending calls of ref, or all if it is empty, end with err.
func (l *ledger) giveUp(ref string, state ledgerState, err error) {
	for _, c := range l.calls {
		if c.state == ledgerPending && (ref == "" || c.ref == ref) {
			c.settle(state, nil, err)
		}
	}
}

// in returns the references of the calls that pass, in order.
func (l *ledger) in(pass func(c *ledgerCall) bool) (refs []string) {
	for _, c := range l.calls {
		if pass(c) && (len(refs) == 0 || refs[len(refs)-1] != c.ref) {
			refs = append(refs, c.ref)
		}
	}
	return refs
}

func (c *ledgerCall) pending() bool { return c.state == ledgerPending }

// of returns the calls of ref.
func (l *ledger) of(ref string) (calls []*ledgerCall) {
	for _, c := range l.calls {
		if c.ref == ref {
			calls = append(calls, c)
		}
	}
	return calls
}
