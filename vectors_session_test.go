package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
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
	{"a description in words, which outgoing_test.go tests", func(c sessionCase) bool {
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

func (f *farEnd) received() uint64 { return f.count }

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
	opts.Limits.CostHandlerError = 100 // as in the original
	s := newSession(conn, options(opts), role, &pool{}, &load{})
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
	s.pay()
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

func (uncounted) received() uint64 { return 0 }

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
