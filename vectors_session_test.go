package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sessionCase is a case of any topic. Times are in seconds.
type sessionCase struct {
	Name, Topic string
	Python      bool `json:"python_specific"`
	Expect      json.RawMessage

	Setting  string
	CodeName string `json:"code_name"`
	Error    string // of a framer

	Cost, Soft, Hard float64
	Extra            float64 `json:"extra_cost"`
	Concurrent       int     `json:"initial_concurrent"`
	Deltas           []float64
	Elapsed          float64 `json:"elapsed_seconds"`
	Kind             string  // of session; a server if empty
	Received         uint64  `json:"received_bytes"`
	Sent             *int    `json:"sent_bytes"`

	Current      int
	Average      *float64 `json:"average_response_seconds"`
	ResponseTime float64  `json:"target_response_time"`

	CostBefore     float64 `json:"cost_before"`
	Requests       int
	HandlerSeconds float64 `json:"handler_seconds"`

	AfterLateReply *struct{ Pending, Errors int } `json:"after_late_reply"`

	Target    *float64
	Start     int
	Retargets []retarget
	Tasks     int
	Hold      float64 `json:"hold_seconds"`

	Handler, Incoming string
	Message           vectorBytes
}

// retarget is a change of the original's Concurrency.
type retarget struct{ At, Target float64 }

// is reports whether the case is one of the original's Concurrency with a target
// that ok is true for.
func (c sessionCase) is(ok func(target float64) bool) bool { return c.Target != nil && ok(*c.Target) }

var sessionRules = []skipRule[sessionCase]{
	{"a description in words, which call_test.go tests", func(c sessionCase) bool {
		return c.Topic == "outgoing_recalibration" && c.Average == nil
	}},
	{"a negative Limits.Concurrency is no limit", func(c sessionCase) bool {
		return c.is(func(target float64) bool { return target < 0 })
	}},
	{"a Limits.Concurrency of 0 is the default", func(c sessionCase) bool {
		return c.is(func(target float64) bool { return target == 0 })
	}},
	{"Limits.Concurrency is an integer", func(c sessionCase) bool {
		return c.is(func(target float64) bool { return target != math.Trunc(target) })
	}},
	{"ReplyAndDisconnect has an argument", func(c sessionCase) bool {
		return c.Python && strings.HasSuffix(c.Handler, "-no-args")
	}},
	{"the invalid members of a batch are answered though the others are notifications", func(c sessionCase) bool {
		kinds := kindsIn(c.Message)
		return kinds[KindInvalid] && kinds[KindNotification] && !kinds[KindRequest]
	}},
	{"Limits.Response has a default", func(c sessionCase) bool {
		return strings.HasPrefix(c.Setting, "max_response_size")
	}},
}

// kindsIn returns the kinds of the members of a batch.
func kindsIn(msg []byte) map[Kind]bool {
	m := Message{StrictParams: true}
	JSONRPCv2.Decode(&m, msg, 10000)
	kinds := map[Kind]bool{}
	for _, item := range m.All() {
		kinds[item.Kind] = m.Batch
	}
	return kinds
}

var sessionTopics = map[string]func(*testing.T, sessionCase){
	"defaults":               testVectorDefault,
	"error_codes":            testVectorCode,
	"concurrency_formula":    testVectorFormula,
	"bump_cost":              testVectorBump,
	"decay":                  testVectorDecay,
	"bandwidth":              testVectorBandwidth,
	"outgoing_recalibration": testVectorRecalibration,
	"throttling":             testVectorThrottling,
	"client":                 testVectorClient,
	"concurrency_object":     testVectorConcurrency,
	"message_session":        testVectorPlain,
	"handler_outcome":        testVectorOutcome,
	"incoming_message":       testVectorIncoming,
}

func TestVectorsSession(t *testing.T) {
	for _, c := range loadVectors[sessionCase](t, "session.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, sessionRules, c)
			test := sessionTopics[c.Topic]
			if test == nil {
				t.Fatalf("unknown topic %q", c.Topic)
			}
			synctest.Test(t, func(t *testing.T) { test(t, c) })
		})
	}
}

// expect decodes what a case expects.
func (c sessionCase) expect(t *testing.T, v any) {
	t.Helper()
	if err := decodeExact(c.Expect, v); err != nil {
		t.Fatal(err)
	}
}

// near says that two numbers are equal, but for what the vectors have rounded off.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6 {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// rounded returns a number as the vectors have it.
func rounded(n float64) float64 { return math.Round(n*1e6) / 1e6 }

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func seconds(n float64) time.Duration { return time.Duration(math.Round(n * float64(time.Second))) }

// farEnd is a session's connection and the peer at its other end, who notes what
// is written and when. What it says is not counted as received, as it was not
// where the vectors were made, unless the test sets count.
type farEnd struct {
	transport
	count uint64
	said  chan []byte
	end   chan struct{}
	once  sync.Once
	start time.Time
	deaf  bool

	mu    sync.Mutex
	heard []vectorHeard
}

type vectorHeard struct {
	Raw string
	At  float64 `json:"at_seconds"`
}

func (f *farEnd) receivedBytes() uint64 { return f.count }

func (f *farEnd) ReadMessage() ([]byte, error) {
	select {
	case msg := <-f.said:
		return msg, nil
	case <-f.end:
		return nil, io.EOF
	}
}

func (f *farEnd) WriteMessages(msgs [][]byte) error {
	if f.deaf {
		<-f.end
		return net.ErrClosed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, msg := range msgs {
		f.heard = append(f.heard, vectorHeard{string(msg), time.Since(f.start).Seconds()})
	}
	return nil
}

func (f *farEnd) Close() error {
	f.once.Do(func() { close(f.end) })
	return nil
}

// say sends a message to the session, and waits for what follows from it.
func (f *farEnd) say(t *testing.T, msg string) {
	t.Helper()
	f.send(msg)
	synctest.Wait()
}

// send says a message to the session.
func (f *farEnd) send(msg string) {
	select {
	case f.said <- []byte(msg):
	case <-f.end:
	}
}

// take returns what was heard since it was last asked.
func (f *farEnd) take() []vectorHeard {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	heard := f.heard
	f.heard = nil
	return heard
}

// closed reports whether the session has closed the connection.
func (f *farEnd) closed() bool {
	synctest.Wait()
	select {
	case <-f.end:
		return true
	default:
		return false
	}
}

// newVectorSession returns a session and its far end.
func newVectorSession(t *testing.T, role Role, opts *Options) (*Session, *farEnd) {
	f := &farEnd{said: make(chan []byte), end: make(chan struct{}), start: time.Now()}
	f.transport = &messages{conn: f}
	if opts == nil {
		opts = new(Options)
	}
	s := startVectorSession(t, f, role, opts)
	return s, f
}

func startVectorSession(t *testing.T, conn transport, role Role, opts *Options) *Session {
	opts.Limits.CostHandlerError, opts.Limits.HideCost = 100, true // as in the original
	s := newSession(conn, mustResolveOptions(opts), role, &pool{}, &serverLoad{})
	s.start()
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	return s
}

// plainCost returns the cost without what it decays by until somebody looks.
func plainCost(s *Session) float64 {
	s.lock()
	defer s.unlock()
	s.cost.chargeTrafficLocked()
	return s.cost.account.cost
}

func testVectorDefault(t *testing.T, c sessionCase) {
	var want map[string]float64
	if err := json.Unmarshal(c.Expect, &want); err != nil {
		t.Fatal(err)
	}
	for role, name := range map[Role]string{RoleServer: "server", RoleClient: "client"} {
		l := Limits{}.resolved(role)
		hard := l.CostHard
		if l.CostOff {
			hard = 0
		}
		got, known := map[string]float64{
			"bw_cost_per_byte":                          l.CostPerByte,
			"cost_soft_limit":                           l.CostSoft,
			"cost_hard_limit":                           hard,
			"cost_decay_per_sec":                        l.CostDecay,
			"cost_sleep":                                l.CostDelay.Seconds(),
			"error_base_cost":                           l.CostError,
			"initial_concurrent":                        float64(l.Concurrency),
			"processing_timeout":                        l.ProcessingTimeout.Seconds(),
			"max_send_delay":                            l.SendTimeout.Seconds(),
			"target_response_time":                      l.ResponseTime.Seconds(),
			"recalibrate_count":                         calibration,
			"sent_request_timeout":                      l.RequestTimeout.Seconds(),
			"outgoing concurrency at start":             float64(l.Outgoing),
			"close(force_after) seconds":                l.CloseTimeout.Seconds(),
			"max_size of the default newline framer":    float64(maxSize(NewlineFramer{}.MaxSize)),
			"max_payload of the default bitcoin framer": defaultMaxPayload,
			"max_block of the default bitcoin framer":   defaultMaxBlock,
		}[c.Setting]
		if !known {
			t.Fatalf("unknown setting %q", c.Setting)
		}
		if math.Abs(got-want[name]) > 1e-12 {
			t.Errorf("a %s has %v, want %v", name, got, want[name])
		}
	}
}

func testVectorCode(t *testing.T, c sessionCase) {
	if c.Error != "" {
		var want struct{ Cost float64 }
		c.expect(t, &want)
		_, _, err := BitcoinFramer{Magic: BitcoinMainnet}.NewSplitter()(badPlain(t, c.Error), false)
		var frame *FrameError
		if !errors.As(err, &frame) {
			t.Fatalf("the error is %v", err)
		}
		near(t, "its cost", frame.Cost, want.Cost)
		return
	}
	var want int
	c.expect(t, &want)
	got, known := map[string]int{
		"PARSE_ERROR": CodeParseError, "INVALID_REQUEST": CodeInvalidRequest, "METHOD_NOT_FOUND": CodeMethodNotFound,
		"INVALID_ARGS": CodeInvalidParams, "INTERNAL_ERROR": CodeInternalError, "ERROR_CODE_UNAVAILABLE": CodeUnavailable,
		"EXCESSIVE_RESOURCE_USAGE": CodeExcessiveResourceUsage, "SERVER_BUSY": CodeServerBusy,
	}[c.CodeName]
	if !known {
		t.Fatalf("unknown code %q", c.CodeName)
	}
	equal(t, c.CodeName, got, want)
}

// plainMessage frames a message of Bitcoin's main network.
func plainMessage(t *testing.T, command string, payload []byte) []byte {
	t.Helper()
	msg, err := BitcoinProtocol.AppendNotification(nil, command, payload, nil)
	if err == nil {
		msg, err = BitcoinFramer{Magic: BitcoinMainnet, MaxPayload: -1}.AppendFrame(nil, msg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// badPlain frames one with the mistake of the given name.
func badPlain(t *testing.T, mistake string) []byte {
	t.Helper()
	payload := []byte("payload")
	if strings.Contains(mistake, "oversize") {
		payload = make([]byte, defaultMaxPayload+1)
	}
	msg := plainMessage(t, "ping", payload)
	switch {
	case strings.Contains(mistake, "oversize"):
	case strings.Contains(mistake, "magic"):
		msg[0]++
	case strings.Contains(mistake, "checksum"):
		msg[bitcoinHeader-1]++
	default:
		t.Fatalf("unknown mistake %q", mistake)
	}
	return msg
}

// uncounted is a stream of which no bytes are counted.
type uncounted struct{ *stream }

func (uncounted) receivedBytes() uint64 { return 0 }

// testVectorPlain has a session receive a good message, and then what the name
// says; or a message whose handler ends as the name says.
func testVectorPlain(t *testing.T, c sessionCase) {
	var want struct {
		Handled []string
		Errors  uint64
		Cost    float64
		Closed  bool
	}
	c.expect(t, &want)
	what := strings.TrimPrefix(c.Name, "message-session-")
	outcome, fails := strings.CutPrefix(what, "handler-")
	if strings.Contains(outcome, "disconnect") { // here it ends any session, and is no error
		want.Closed, want.Errors, want.Cost = true, 0, 0
	}
	if strings.Contains(outcome, "excessive") { // it is an error, as in the original's other sessions
		want.Errors, want.Cost = 1, 100
	}
	if strings.Contains(outcome, "cancel") { // it ends no session by mistake here
		want.Errors, want.Cost, want.Closed = 1, 100, false
	}

	handled := []string{}
	h := HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
		handled = append(handled, req.Method)
		if !fails {
			return nil, nil
		}
		return vectorOutcomeOf(outcome, nil, want.Cost)(ctx)
	})
	opts := &Options{Protocol: BitcoinProtocol, Framer: BitcoinFramer{Magic: BitcoinMainnet}, Handler: h}
	conn, far := net.Pipe()
	defer far.Close()
	s := startVectorSession(t, uncounted{newStream(conn, opts.Framer)}, RoleServer, opts)
	say := func(msg []byte) {
		go far.Write(msg) // all that the session takes
		synctest.Wait()
	}
	say(plainMessage(t, "version", nil))
	switch {
	case fails:
	case what == "ok":
		say(plainMessage(t, "ping", nil))
	default:
		say(badPlain(t, what))
	}
	time.Sleep(31 * time.Second) // beyond Limits.ProcessingTimeout
	synctest.Wait()
	near(t, "the cost", plainCost(s), want.Cost)
	equal(t, "handled", strings.Join(handled, " "), strings.Join(want.Handled, " "))
	equal(t, "errors", s.Stats().Errors, want.Errors)
	far.SetReadDeadline(time.Now().Add(time.Second))
	_, err := far.Read(make([]byte, 1))
	equal(t, "closed", err == io.EOF, want.Closed)
}

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

func testVectorFormula(t *testing.T, c sessionCase) {
	var want struct {
		Fraction float64  `json:"cost_fraction"`
		Target   *int     // the same as before if nil
		Delay    float64  `json:"delay_seconds"`
		Cost     *float64 `json:"cost_after"`
	}
	c.expect(t, &want)
	l := Limits{}.resolved(RoleServer)
	l.CostSoft, l.CostHard, l.Concurrency = c.Soft, c.Hard, c.Concurrent
	target := c.Concurrent
	if want.Target != nil {
		target = *want.Target
	}
	var th throttle
	th.recalculate(&l, c.Cost, c.Extra)
	near(t, "the fraction", th.fraction, want.Fraction)
	near(t, "the delay", th.requestDelay(&l).Seconds(), want.Delay)
	equal(t, "the target", th.target, target)

	// The same in a session.
	s, _ := newVectorSession(t, RoleServer, &Options{ExtraCost: func(*Session) float64 { return c.Extra }})
	s.lock()
	s.limits.CostSoft, s.limits.CostHard, s.limits.Concurrency = c.Soft, c.Hard, c.Concurrent
	s.unlock()
	s.BumpCost(c.Cost)
	s.UpdateCost()
	equal(t, "the session's concurrency", s.Stats().Concurrency, target)
	if want.Cost != nil {
		near(t, "the cost", s.Cost(), *want.Cost)
	}
}

func testVectorBump(t *testing.T, c sessionCase) {
	var want []struct {
		Cost, Fraction float64
		Last           float64 `json:"last_recalc_cost"`
		Target         int
		CostFraction   float64 `json:"cost_fraction"`
	}
	c.expect(t, &want)
	s, _ := newVectorSession(t, RoleServer, nil)
	for i, delta := range c.Deltas {
		s.BumpCost(delta)
		near(t, "the cost", plainCost(s), want[i].Cost)
		s.lock()
		now := s.cost.throttle
		s.unlock()
		near(t, "the cost at the last calculation", now.last, want[i].Last)
		near(t, "the fraction", now.fraction, want[i].CostFraction)
		equal(t, "the target", now.target, want[i].Target)
	}
}

func testVectorDecay(t *testing.T, c sessionCase) {
	var want struct{ Cost float64 }
	c.expect(t, &want)
	role, opts := RoleServer, &Options{}
	if c.Kind == "client" { // where it is off by default
		role, opts.Limits.CostHard = RoleClient, 10000
	}
	s, _ := newVectorSession(t, role, opts)
	s.BumpCost(c.Cost)
	time.Sleep(seconds(c.Elapsed))
	near(t, "the cost", s.Cost(), want.Cost)
	s.UpdateCost()
	near(t, "the cost that was calculated with", s.cost.throttle.last, want.Cost)
}

func testVectorBandwidth(t *testing.T, c sessionCase) {
	var want struct {
		Cost      float64
		RecvSize  uint64 `json:"recv_size"`
		SendSize  uint64 `json:"send_size"`
		SendCount uint64 `json:"send_count"`
	}
	c.expect(t, &want)
	note := HandlerFunc(func(context.Context, *Request) (any, error) { return nil, nil })
	limits := Limits{CostHard: 1e9} // which the note that brings the bytes is not to meet
	s, far := newVectorSession(t, RoleServer, &Options{Handler: note, Limits: limits})
	if c.Sent != nil {
		sc := &encodeBuffer{msg: make([]byte, *c.Sent)}
		if err := s.writer.sendMessage(t.Context(), sc, fromCaller, nil); err != nil {
			t.Fatal(err)
		}
	} else {
		far.count = c.Received
		far.say(t, `{"jsonrpc":"2.0","method":"note"}`)
	}
	synctest.Wait()
	near(t, "the cost", plainCost(s), want.Cost)
	stats := s.Stats()
	equal(t, "bytes received", stats.BytesReceived, want.RecvSize)
	equal(t, "bytes sent", stats.BytesSent, want.SendSize)
	equal(t, "messages sent", stats.MessagesSent, want.SendCount)
}

func testVectorRecalibration(t *testing.T, c sessionCase) {
	var want struct{ Next int }
	c.expect(t, &want)
	l := Limits{Outgoing: c.Current, ResponseTime: seconds(c.ResponseTime)}.resolved(RoleClient)
	o := callLimiter{limit: l.Outgoing, reached: true} // the original always lowers it
	for range calibration - 1 {
		o.releaseAfterReply(seconds(*c.Average), 1, &l)
	}
	equal(t, "the limit before 30 replies", o.limit, c.Current)
	o.releaseAfterReply(seconds(*c.Average), 1, &l)
	equal(t, "the limit after them", o.limit, want.Next)
	o.releaseAfterReply(time.Hour, 1, &l)
	equal(t, "the limit after another", o.limit, want.Next)
}

func testVectorThrottling(t *testing.T, c sessionCase) {
	var want struct {
		Replies []struct {
			JSON any
			At   float64 `json:"at_seconds"`
		}
		Closed bool
		Hook   bool `json:"hook_called"`
		Errors uint64

		Peak       int       `json:"peak_running"`
		Unanswered int       `json:"unanswered_at_half_second"`
		Times      []float64 `json:"reply_times"`
	}
	c.expect(t, &want)
	hook := false
	running, peak := 0, 0
	var mu sync.Mutex
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		running += n
		peak = max(peak, running)
	}
	opts := &Options{OnExcessiveCost: func(*Session) { hook = true }}
	opts.Limits.Concurrency = c.Concurrent
	opts.Handler = HandlerFunc(func(context.Context, *Request) (any, error) {
		count(1)
		defer count(-1)
		time.Sleep(seconds(c.HandlerSeconds))
		return "ok", nil
	})
	s, far := newVectorSession(t, RoleServer, opts)
	if c.Requests == 0 {
		s.BumpCost(c.CostBefore)
		far.say(t, `{"jsonrpc":"2.0","method":"m","id":1}`)
		time.Sleep(10 * time.Second)
		heard := far.take()
		if len(heard) != len(want.Replies) {
			t.Fatalf("heard %v", heard)
		}
		for i, reply := range want.Replies {
			checkJSON(t, "the reply", []byte(heard[i].Raw), reply.JSON)
			near(t, "its time", heard[i].At, reply.At)
		}
		equal(t, "closed", far.closed(), want.Closed)
		equal(t, "OnExcessiveCost called", hook, want.Hook)
		equal(t, "errors", s.Stats().Errors, want.Errors)
		return
	}
	go func() { // reading may pause
		for i := range c.Requests {
			far.send(fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, i))
		}
	}()
	time.Sleep(time.Second / 2)
	equal(t, "requests unanswered at half a second", c.Requests-int(s.Stats().MessagesSent), want.Unanswered)
	time.Sleep(max(30*time.Second, seconds(want.Times[len(want.Times)-1])))
	var times []float64
	for _, h := range far.take() {
		if at := rounded(h.At); len(times) == 0 || times[len(times)-1] != at {
			times = append(times, at)
		}
	}
	if !slices.Equal(times, want.Times) {
		t.Errorf("replies at %v, want %v", times, want.Times)
	}
	equal(t, "the most that ran at once", peak, want.Peak)
}

// testVectorConcurrency has handlers compete for a number of places that changes.
func testVectorConcurrency(t *testing.T, c sessionCase) {
	if c.Target != nil {
		var want struct {
			Most int `json:"max_concurrent"`
		}
		c.expect(t, &want)
		s, _ := newVectorSession(t, RoleServer, &Options{Limits: Limits{Concurrency: int(*c.Target)}})
		equal(t, "the concurrency", s.Stats().Concurrency, want.Most)
		return
	}
	var want struct {
		Events [][3]any // task, its begin and end; or task, error, time
		Stuck  int      // tasks that the original leaves waiting for ever
	}
	c.expect(t, &want)
	number := func(v any) float64 {
		f, _ := v.(json.Number).Float64()
		return f
	}
	// What waits when there is no place any more is refused, though there be some later.
	if i := slices.IndexFunc(c.Retargets, func(r retarget) bool { return r.Target < 1 }); i >= 0 {
		c.Retargets = c.Retargets[:i+1]
		want.Events = slices.DeleteFunc(want.Events, func(e [3]any) bool {
			_, failed := e[1].(string)
			return failed || number(e[1]) >= c.Retargets[i].At
		})
		want.Stuck = c.Tasks - len(want.Events)
	}
	type event struct{ begin, end float64 }
	events := map[string]event{}
	var mu sync.Mutex
	start := time.Now()
	opts := &Options{Limits: Limits{Concurrency: c.Start, ProcessingTimeout: -1}}
	opts.Handler = HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		begin := time.Since(start).Seconds()
		time.Sleep(seconds(c.Hold))
		mu.Lock()
		defer mu.Unlock()
		events[req.ID.String()] = event{rounded(begin), rounded(time.Since(start).Seconds())}
		return nil, nil
	})
	s, far := newVectorSession(t, RoleServer, opts)
	for i := range c.Tasks {
		far.say(t, fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, i))
	}
	for _, r := range c.Retargets {
		time.Sleep(seconds(r.At) - time.Since(start))
		if r.Target < 1 {
			s.BumpCost(20000)
			continue
		}
		s.lock()
		s.requests.limit = int(r.Target)
		s.unlock()
	}
	time.Sleep(time.Hour)
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	equal(t, "tasks that ran", len(events), len(want.Events))
	for _, e := range want.Events {
		task := fmt.Sprint(e[0])
		equal(t, "task "+task, events[task], event{number(e[1]), number(e[2])})
	}
	refused := 0
	for _, h := range far.take() {
		var reply struct{ Error *Error }
		if json.Unmarshal([]byte(h.Raw), &reply) == nil && reply.Error != nil {
			refused++
			equal(t, "the code", reply.Error.Code, CodeExcessiveResourceUsage)
		}
	}
	equal(t, "tasks that were refused", refused, want.Stuck)
	equal(t, "closed", far.closed(), want.Stuck > 0)
}
