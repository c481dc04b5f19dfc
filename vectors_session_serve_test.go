package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// servedExpect is what is to be seen of a session after one message.
type servedExpect struct {
	Replies []struct {
		JSON any
		At   float64 `json:"at_seconds"`
	}
	Errors uint64
	Closed bool
	Serves bool    `json:"session_still_serves"`
	Cost   float64 `json:"cost_without_bandwidth"`
	Hooks  []string
	End    string `json:"message_loop_ended_with"`
}

// accident reports whether the original did not survive the message, by mistake.
func (want *servedExpect) accident() bool { return want.End != "" && want.End != "ConnectionLost" }

// answered has the message answered with one error, as any other mistake is.
func (want *servedExpect) answered(code int, text any, id any, request bool) {
	*want = servedExpect{Errors: 1, Serves: true, Cost: 100}
	if request {
		want.Replies = append(want.Replies, struct {
			JSON any
			At   float64 `json:"at_seconds"`
		}{JSON: map[string]any{
			"jsonrpc": "2.0", "id": id,
			"error": map[string]any{"code": json.Number(fmt.Sprint(code)), "message": text},
		}})
	}
}

// check has the session receive a message and compares all that follows.
func (want servedExpect) check(t *testing.T, msg string, h Handler) {
	t.Helper()
	var hooks []string
	router := NewRouter()
	if h != nil {
		router.Handle("test", h)
	}
	router.Handle("ping", HandlerFunc(func(context.Context, *Request) (any, error) { return "pong", nil }))
	s, far := newVectorSession(t, RoleServer, &Options{
		Handler:         router,
		StrictParams:    true,
		OnExcessiveCost: func(*Session) { hooks = append(hooks, "on_disconnect_due_to_excessive_session_cost") },
	})
	far.say(t, msg)
	wait := 31 * time.Second // longer than any handler takes
	if n := len(want.Replies); n > 0 {
		wait = seconds(want.Replies[n-1].At)
	}
	time.Sleep(wait)
	heard := far.take()
	bandwidth := 0
	for _, h := range heard {
		bandwidth += len(h.Raw)
	}
	// It is never below 0, whatever an error takes off.
	near(t, "the cost", max(0, plainCost(s)-float64(bandwidth)/100000), max(0, want.Cost))
	if len(heard) != len(want.Replies) {
		t.Fatalf("heard %v, want %d replies", heard, len(want.Replies))
	}
	for i, reply := range want.Replies {
		got := jsonValue(t, []byte(heard[i].Raw))
		dropBusyData(t, got)
		if !sameValue(unordered(got), unordered(reply.JSON)) { // the original has the errors first
			t.Errorf("the reply is %v, want %v", got, reply.JSON)
		}
		near(t, "its time", heard[i].At, reply.At)
	}
	equal(t, "errors", s.Stats().Errors, want.Errors)
	time.Sleep(time.Minute)
	equal(t, "closed", far.closed(), want.Closed)
	excessive := slices.DeleteFunc(want.Hooks, func(name string) bool { return name == "connection_lost" })
	if !slices.Equal(hooks, excessive) {
		t.Errorf("called were %v, want %v", hooks, excessive)
	}
	far.say(t, `{"jsonrpc":"2.0","method":"ping","id":"still"}`)
	time.Sleep(time.Minute) // it may be delayed
	heard = far.take()
	serves := len(heard) == 1 && heard[0].Raw == `{"jsonrpc":"2.0","result":"pong","id":"still"}`
	equal(t, "still serves", serves, want.Serves)
}

// unordered puts the members of a batch into an order that depends on nothing else.
func unordered(reply any) any {
	if members, ok := reply.([]any); ok {
		slices.SortStableFunc(members, func(a, b any) int { return strings.Compare(memberKey(a), memberKey(b)) })
	}
	return reply
}

func memberKey(member any) string {
	reply, _ := member.(map[string]any)
	e, _ := reply["error"].(map[string]any)
	return fmt.Sprint(reply["id"], e["code"])
}

// testVectorOutcome has a handler end as its name says.
func testVectorOutcome(t *testing.T, c sessionCase) {
	var want servedExpect
	c.expect(t, &want)
	request := c.Incoming == "request"
	switch {
	case want.accident(): // here no handler can end a session by mistake
		want.answered(CodeInternalError, "internal server error", json.Number("1"), request)
	case c.Python && strings.Contains(c.Handler, "tasktimeout"): // of its own
		want.answered(CodeInternalError, "internal server error", json.Number("1"), request)
	}
	method := "test"
	if c.Handler == "invocation-unknown-method" {
		method = "foo"
	}
	msg := `{"jsonrpc":"2.0","method":"` + method + `"`
	if request {
		msg += `,"id":1`
	}
	var reply any
	if len(want.Replies) > 0 {
		reply = want.Replies[0].JSON
	}
	outcome := vectorOutcomeOf(c.Handler, reply, want.Cost)
	want.check(t, msg+"}", HandlerFunc(func(ctx context.Context, _ *Request) (any, error) { return outcome(ctx) }))
}

// vectorOutcomeOf returns a handler that ends in the way that has the given
// name. The values that it returns, which the vectors do not tell, are what its
// reply has, and what its error costs is what is beyond the 100 of any.
func vectorOutcomeOf(name string, reply any, cost float64) func(context.Context) (any, error) {
	var content struct {
		Result any
		Error  *Error
	}
	content.Error = &Error{Code: 1, Message: "not to be seen"}
	if text, err := json.Marshal(reply); err == nil {
		_ = decodeExact(text, &content) // null leaves it as it is
	}
	content.Error.Cost = cost - 100
	result := func(v any, err error) func(context.Context) (any, error) {
		return func(context.Context) (any, error) { return v, err }
	}
	has := func(part string) bool { return strings.Contains(name, part) }
	switch {
	case has("reply-and-disconnect") && has("error"):
		return result(nil, ReplyAndDisconnect(content.Error))
	case has("disconnect"):
		return result(nil, ReplyAndDisconnect(content.Result))
	case has("processing-timeout") || name == "timeout":
		return func(ctx context.Context) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	case has("sleeps-"):
		return func(context.Context) (any, error) {
			d, err := time.ParseDuration(strings.TrimPrefix(name, "sleeps-"))
			time.Sleep(d)
			return content.Result, err
		}
	case has("inner-timeout"):
		return func(ctx context.Context) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second/2)
			defer cancel()
			<-ctx.Done()
			if has("uncaught") {
				return nil, ctx.Err()
			}
			return content.Result, nil
		}
	case has("rpcerror"), has("invocation"):
		return result(nil, content.Error)
	case has("protocolerror"):
		return result(nil, protocolError(content.Error.Code, content.Error.Message))
	case has("excessive"):
		return result(nil, ErrExcessiveCost)
	case has("unencodable"):
		return result(make(chan int), nil)
	case has("timeout") && !has("timeoutcancellation"):
		return result(nil, context.DeadlineExceeded)
	case has("cancel"):
		return result(nil, context.Canceled)
	case has("raises"), has("error"):
		return result(nil, errors.New(name))
	case has("returns"):
		return result(content.Result, nil)
	}
	panic("unknown outcome " + name)
}

func testVectorIncoming(t *testing.T, c sessionCase) {
	var want servedExpect
	c.expect(t, &want)
	msg := c.Message
	if kinds := kindsIn(msg); kinds[KindInvalid] && kinds[KindRequest] {
		want.Errors++ // bad members are an error beside good ones too
		want.Cost += 100
	}
	for _, reply := range want.Replies {
		decideMethod(reply.JSON)
	}
	switch e := readEnvelope(msg); {
	case !json.Valid(msg) && want.Cost < 1000: // nested too deep, or with numbers that are none
		want.answered(CodeParseError, "invalid JSON", nil, true)
		want.Cost = 1100
	case want.accident():
		want.answered(0, nil, nil, false)
	case json.Valid(msg) && e != nil && (e.twice() || e.booleanID() || e.neither() || e.has("method") && !e.stringMethod()):
		var id any
		if raw := e.id("v2"); raw != nil {
			id = jsonValue(t, raw)
		}
		want.answered(CodeInvalidRequest, map[string]any{"$omitted": nil}, id, !e.likeResponse())
	}
	want.check(t, string(msg), nil)
}

// decideMethod makes the error of a member whose method is no string the one that
// it is here.
func decideMethod(reply any) {
	switch reply := reply.(type) {
	case []any:
		for _, member := range reply {
			decideMethod(member)
		}
	case map[string]any:
		if e, ok := reply["error"].(map[string]any); ok && e["message"] == "method must be a string" {
			e["code"] = json.Number("-32600")
		}
	}
}

// dropBusyData takes the data of an error -102 off, which the original has not.
func dropBusyData(t *testing.T, reply any) {
	switch reply := reply.(type) {
	case []any:
		for _, member := range reply {
			dropBusyData(t, member)
		}
	case map[string]any:
		if e, ok := reply["error"].(map[string]any); ok && e["code"] == json.Number("-102") {
			data, ok := e["data"].(map[string]any)
			if _, told := data["started"].(bool); !ok || !told {
				t.Errorf("%v does not say whether the request was begun", e)
			}
			delete(e, "data")
		}
	}
}

// testVectorClient has a call or a batch answered, or not, so that it ends as the
// original's did. What it calls is what the original sent.
func testVectorClient(t *testing.T, c sessionCase) {
	var want struct {
		Raises  string
		Code    any
		Message any
		Result  any
		At      float64 `json:"at_seconds"`
		Sent    []struct{ JSON any }
		Errors  uint64
		Aborted bool

		Before *int `json:"sent_before_reply"`
		After  int  `json:"sent_after_one_reply"`
	}
	c.expect(t, &want)
	s, far := newVectorSession(t, RoleClient, nil)
	if want.Before != nil {
		for range 60 {
			go s.Call(t.Context(), "m", nil, nil)
		}
		sent := far.take()
		equal(t, "sent before the reply", len(sent), *want.Before)
		var first struct{ ID json.RawMessage } // which need not be 0: those with lower ids may still wait
		if err := json.Unmarshal([]byte(sent[0].Raw), &first); err != nil {
			t.Fatal(err)
		}
		far.say(t, fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%s}`, first.ID))
		equal(t, "sent after it", *want.Before+len(far.take()), want.After)
		return
	}

	far.deaf = want.Aborted
	var sent any
	if len(want.Sent) > 0 {
		sent = want.Sent[0].JSON
	}
	errs := make(chan error, 1)
	go func() {
		switch {
		case want.Message == "batch is empty": // here it is no error
			if err := s.SendBatch(t.Context(), new(Batch)); err != nil {
				t.Error(err)
			}
			want.Raises = ""
			errs <- nil
		case want.Raises == "ProtocolError" && sent == nil:
			errs <- s.Call(t.Context(), "m", "text", nil)
		case sent == nil: // what would have been sent is not told
			errs <- s.Call(t.Context(), "m", Args{1}, nil)
		default:
			errs <- clientCall(t, s, sent, want.Result)
		}
	}()
	synctest.Wait()
	for i, h := range far.take() {
		if i > 0 || sent == nil {
			t.Errorf("%s was sent", h.Raw)
			continue
		}
		checkJSON(t, "what was sent", []byte(h.Raw), sent)
	}
	if sent != nil && !hasID(sent) {
		want.Raises = "" // it is over when it is queued, a batch too
	} else if want.Raises != "TaskTimeout" && sent != nil {
		time.Sleep(seconds(want.At))
		if want.Raises == "CancelledError" {
			far.Close()
		} else {
			far.say(t, clientReply(t, sent, want.Result, want.Code, want.Message))
		}
	}
	err := <-errs
	near(t, "the end", time.Since(far.start).Seconds(), want.At)
	var rpcErr *Error
	var protErr *ProtocolError
	var batchErr *BatchError
	switch want.Raises {
	case "":
		if err != nil {
			t.Errorf("the error is %v", err)
		}
	case "RPCError":
		if !errors.As(err, &rpcErr) {
			t.Fatalf("the error is %v", err)
		}
		checkJSON(t, "the code", fmt.Append(nil, rpcErr.Code), want.Code)
		equal(t, "the text", any(rpcErr.Message), want.Message)
	case "ProtocolError":
		if !errors.As(err, &protErr) {
			t.Fatalf("the error is %v", err)
		}
		checkJSON(t, "the code", fmt.Append(nil, protErr.Code), want.Code)
	case "BatchError":
		if !errors.As(err, &batchErr) {
			t.Errorf("the error is %v", err)
		}
	case "TaskTimeout":
		if want.Aborted { // the peer did not read
			if !errors.Is(err, ErrSlowPeer) || !far.closed() {
				t.Errorf("the error is %v, closed: %v", err, far.closed())
			}
		} else if !errors.Is(err, ErrTimeout) {
			t.Errorf("the error is %v", err)
		}
	case "CancelledError": // here it is told from a cancellation
		if !errors.Is(err, ErrConnectionLost) || errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
	default:
		t.Fatalf("unknown error %q", want.Raises)
	}
	stats := s.Stats()
	equal(t, "pending", stats.Pending, 0)
	equal(t, "errors", stats.Errors, want.Errors)
	if c.AfterLateReply != nil {
		far.say(t, clientReply(t, sent, want.Result, nil, nil))
		stats = s.Stats()
		equal(t, "pending after the late reply", stats.Pending, c.AfterLateReply.Pending)
		equal(t, "errors after the late reply", stats.Errors, uint64(c.AfterLateReply.Errors))
		late := uint64(1)
		if members, ok := sent.([]any); ok { // each is one
			late = uint64(len(slices.DeleteFunc(slices.Clone(members), func(m any) bool { return !hasID(m) })))
		}
		equal(t, "late replies", stats.LateReplies, late)
	}
}

// hasID reports whether a message, or a member of it, is a request.
func hasID(sent any) bool {
	if members, ok := sent.([]any); ok {
		return slices.ContainsFunc(members, hasID)
	}
	return sent.(map[string]any)["id"] != nil
}

// clientCall sends what the original has sent, and compares the results.
func clientCall(t *testing.T, s *Session, sent any, results any) error {
	ctx := context.Background()
	field := func(item any, name string) any { return item.(map[string]any)[name] }
	switch sent := sent.(type) {
	case []any:
		var b Batch
		var futures []*Future
		for _, item := range sent {
			if field(item, "id") == nil {
				b.Notify(field(item, "method").(string), field(item, "params"))
			} else {
				futures = append(futures, b.Call(field(item, "method").(string), field(item, "params"), nil))
			}
		}
		err := s.SendBatch(ctx, &b)
		want, ok := results.([]any)
		if !ok {
			return err
		}
		for i, f := range futures {
			if e, ok := want[i].(map[string]any); ok && e["error"] != nil {
				var got *Error
				if !errors.As(f.Err(), &got) || fmt.Sprint([]any{got.Code, got.Message}) != fmt.Sprint(e["error"]) {
					t.Errorf("member %d: got %v, want %v", i, f.Err(), e["error"])
				}
				err = nil // as the vectors have it, unless they raise errors
				continue
			}
			var got json.RawMessage
			if err := f.Decode(&got); err != nil {
				t.Errorf("member %d: %v", i, err)
			} else {
				checkJSON(t, fmt.Sprint("member ", i), got, want[i])
			}
		}
		return err
	case map[string]any:
		if sent["id"] == nil {
			return s.Notify(ctx, sent["method"].(string), sent["params"])
		}
		var got json.RawMessage
		err := s.Call(ctx, sent["method"].(string), sent["params"], &got)
		if err == nil {
			checkJSON(t, "the result", got, results)
		}
		return err
	}
	t.Errorf("%v was sent", sent)
	return nil
}

// clientReply returns the reply with the given results, or error; without
// either, a batch's second member fails. Members are answered backwards.
func clientReply(t *testing.T, sent, results, code, text any) string {
	t.Helper()
	reply := func(id, result, code, text any) map[string]any {
		r := map[string]any{"jsonrpc": "2.0", "id": id}
		if code != nil {
			r["error"] = map[string]any{"code": code, "message": text}
		} else {
			r["result"] = result
		}
		return r
	}
	var msg any
	if members, ok := sent.([]any); ok {
		var replies []any
		for _, item := range members {
			if id := item.(map[string]any)["id"]; id != nil {
				i := len(replies)
				r := reply(id, i, nil, nil)
				if want, ok := results.([]any); !ok {
					if i == 1 {
						r = reply(id, nil, 1, "x")
					}
				} else if e, ok := want[i].(map[string]any); ok && e["error"] != nil {
					r = reply(id, nil, e["error"].([]any)[0], e["error"].([]any)[1])
				} else {
					r = reply(id, want[i], nil, nil)
				}
				replies = append(replies, r)
			}
		}
		slices.Reverse(replies)
		msg = replies
	} else {
		msg = reply(sent.(map[string]any)["id"], results, code, text)
	}
	text2, err := json.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	return string(text2)
}
