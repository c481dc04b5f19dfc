package natsrpcx

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/textproto"
	"runtime/debug"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
	"github.com/nats-io/nats.go"
)

// takeMessage handles m on a goroutine of its own, or refuses m if the worker is full.
func (w *worker) takeMessage(m *nats.Msg) {
	w.mu.Lock()
	full := w.maxInFlight > 0 && w.running >= w.maxInFlight
	if full {
		w.refused++
	} else {
		w.running++
	}
	w.mu.Unlock()
	if full {
		w.refuse(m, errWorkerFull)
		return
	}
	w.pool.RunTask(func() {
		defer w.release()
		w.handle(m)
	})
}

// release notes that a message has been handled.
func (w *worker) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	if w.running == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// Refusals of a message as a whole.
var (
	errWorkerFull  = busy("too many requests in flight", "queue", false)
	errTooLate     = busy("request timed out on its way", "queue", false)
	errNotAdmitted = &rpcx.Error{Code: -32002, Message: "not admitted"}
)

// handle answers m.
func (w *worker) handle(m *nats.Msg) {
	ctx := w.ctx
	if left, limited := w.timeLeft(m); limited {
		if left <= 0 {
			w.refuse(m, errTooLate)
			return
		}
		limitedCtx := &deadlineContext{parent: ctx, deadline: time.Now().Add(left)}
		defer limitedCtx.release()
		ctx = limitedCtx
	}
	x := &exchange{msg: m, maxSize: int(w.config.Conn.MaxPayload()) - replyRoom}
	if w.config.Admit != nil {
		if err := w.admit(m); err != nil {
			answer, ok := errors.AsType[*rpcx.Error](err)
			if !ok {
				answer = errNotAdmitted
			}
			w.refuse(m, answer)
			return
		}
		x.admitted = true
	}
	returned := false
	defer func() {
		if !returned { // a handler has called runtime.Goexit
			w.refuse(m, rpcx.InternalError())
		}
	}()
	reply, err := w.server.ServeMessage(ctx, x, m.Data, nil)
	returned = true
	if err == nil {
		w.reply(m, reply, "")
		return
	}
	if errors.Is(err, rpcx.ErrServerClosed) {
		select {
		case w.stopped <- struct{}{}:
		default:
		}
	}
	e, _ := errors.AsType[*rpcx.Error](err)
	switch {
	case reply != nil && e.NotStarted():
		w.reply(m, reply, reasonOf(e))
	case reply != nil:
		w.reply(m, reply, "")
	case ctx.Err() == nil: // otherwise nobody waits
		w.refuse(m, rpcx.InternalError())
	}
}

// admit calls Config.Admit. A panic, or runtime.Goexit, refuses the message: one message
// must not end the other requests of the worker.
func (w *worker) admit(m *nats.Msg) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		cause := recover()
		if log := w.server.Options.Logger; log != nil {
			log.LogAttrs(w.ctx, slog.LevelError, "Config.Admit has panicked, and the message is refused",
				slog.String("panic", bounded.Text(fmt.Sprint(cause))), slog.String("stack", string(debug.Stack())))
		}
		err = rpcx.InternalError()
	}()
	err = w.config.Admit(m)
	returned = true
	return err
}

// timeLeft returns the time until the deadline of m's sender, as far as is known.
func (w *worker) timeLeft(m *nats.Msg) (left time.Duration, limited bool) {
	r, ok := parseReplySubject(m.Reply)
	if !ok {
		return 0, false
	}
	delay := w.delays.estimate(r.inbox, time.Since(w.start), r.sent)
	return r.left - delay, r.left > 0
}

// refuse answers m as a whole with e.
func (w *worker) refuse(m *nats.Msg, e *rpcx.Error) {
	if m.Reply == "" {
		return
	}
	answer, err := rpcx.JSONRPCv2.AppendError(nil, nil, e, rpcx.JSON)
	if err != nil { // the data of an error from Admit
		answer, _ = rpcx.JSONRPCv2.AppendError(nil, nil, rpcx.InternalError(), rpcx.JSON)
	}
	reason := ""
	if e.NotStarted() {
		reason = reasonOf(e)
	}
	w.reply(m, answer, reason)
}

// reply sends the reply to m, which is empty if nothing is to be answered. A reason says
// that the request was not started.
func (w *worker) reply(m *nats.Msg, reply []byte, reason string) {
	if m.Reply == "" {
		return
	}
	answer := &nats.Msg{Subject: m.Reply, Data: reply}
	if reason != "" {
		answer.Header = nats.Header{notStartedHeader: {reason}}
	}
	conn := w.config.Conn
	// Without a connection the reply is lost, and the caller waits until its deadline.
	if err := conn.PublishMsg(answer); errors.Is(err, nats.ErrMaxPayload) { // a server with less than the last
		e := rpcx.InvalidRequest("response too large (over %s bytes)", bounded.Thousands(int(conn.MaxPayload())))
		answer, _ := rpcx.JSONRPCv2.AppendError(nil, nil, e, rpcx.JSON)
		_ = conn.Publish(m.Reply, answer) // once: under a tiny limit this answer is too large, too
	}
}

// reasonOf returns the reason in the data of e.
func reasonOf(e *rpcx.Error) string {
	var data struct{ Reason string }
	if encoded, err := json.Marshal(e.Data); err == nil {
		_ = json.Unmarshal(encoded, &data)
	}
	if data.Reason == "" {
		return "unknown"
	}
	return data.Reason
}

// exchange is the connection of the session that answers a message. The methods are those
// of [rpcx.Server.ServeMessage].
type exchange struct {
	msg      *nats.Msg
	maxSize  int
	admitted bool
}

// Header returns the values of a header of the message. Package otelrpcx reads the trace
// context by this method. NATS tells upper from lower case; senders use both forms.
func (x *exchange) Header(name string) []string {
	if values, ok := x.msg.Header[name]; ok {
		return values
	}
	return x.msg.Header[textproto.CanonicalMIMEHeaderKey(name)]
}

func (x *exchange) Admitted() bool          { return x.admitted }
func (x *exchange) MaxMessage() int         { return x.maxSize }
func (x *exchange) MaxMessageField() string { return maxPayloadField }
