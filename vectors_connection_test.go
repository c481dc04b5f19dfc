package rpcx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type connectionCase struct {
	Name     string
	Protocol string
	Limit    int `json:"max_response_size"` // 0 or less: none
	Steps    []connectionStep
}

type connectionStep struct {
	Op      string
	Ref     string
	Message vectorBytes // received
	vectorRequest
	Items  []vectorRequest // of a batch
	Item   string          // that is answered
	Result any
	Error  *vectorError
	Value  int
	Expect struct {
		Message  *vectorMessage // sent
		Items    []vectorRequest
		Futures  map[string]vectorOutcome // done in this step
		Pending  []vectorPending
		Raises   *vectorError
		Protocol string
	}
}

// vectorRequest is a request or notification, one that came with its reference.
type vectorRequest struct {
	Ref, Kind, Method string
	Args              any
}

// vectorPending is a call, or a batch of them.
type vectorPending struct {
	Method string
	Args   any
	Batch  []vectorRequest
}

type vectorOutcome struct {
	Result    any
	Error     *vectorError
	Cancelled bool
	Results   []vectorOutcome // of a batch
}

func TestVectorsConnection(t *testing.T) {
	for _, c := range loadVectors[connectionCase](t, "connection.json") {
		t.Run(c.Name, func(t *testing.T) {
			r := scriptRunner{
				offline: newOffline(vectorProtocols[c.Protocol]),
				futures: map[string]*Future{}, sentAs: map[string]vectorPending{}, in: map[string]*inItem{},
			}
			r.strictParams = true
			r.limit(c.Limit)
			for i := range c.Steps {
				t.Logf("step %d: %s %.200s", i, c.Steps[i].Op, c.Steps[i].Message)
				r.step(t, &c.Steps[i])
			}
		})
	}
}

// scriptRunner runs a script, and keeps a ledger to which the session is always
// held. The vectors are compared as long as they follow the same rules.
type scriptRunner struct {
	*offline
	ledger  ledger
	futures map[string]*Future
	sentAs  map[string]vectorPending
	in      map[string]*inItem

	differs   bool // by now, calls of the original are in another state
	undecided bool // in this step the original has detected a protocol by what rpcx refuses
}

func (r *scriptRunner) limit(n int) {
	if r.limits.Response = n; n <= 0 {
		r.limits.Response = math.MaxInt
	}
}

// step takes one step, and compares all that can be seen of it.
func (r *scriptRunner) step(t *testing.T, step *connectionStep) {
	t.Helper()
	doneBefore := r.done()
	var faults []error
	switch step.Op {
	case "send_request", "send_batch", "send_notification":
		r.send(t, step)
	case "receive":
		faults = r.receiveStep(t, step)
	case "send_result":
		r.answer(t, step)
	case "set_max_response_size":
		r.limit(step.Value)
	case "cancel_future":
		r.futures[step.Ref].Cancel()
		r.ledger.giveUp(step.Ref, ledgerGivenUp, ErrCancelled)
	case "cancel_pending_requests":
		// What the end of a session does to its calls, without the end.
		r.life.closeCause = ErrClosed
		r.lock()
		r.calls.failPendingLocked(r.life.closeCause, true)
		r.unlock()
		r.life.closeCause = nil
		for _, c := range r.ledger.calls { // the original forgets the cancelled ones, too
			c.swept = true
		}
		r.ledger.giveUp("", ledgerOver, &ConnectionError{Written: true, Err: ErrClosed})
	default:
		t.Fatalf("unknown op %q", step.Op)
	}
	if left := r.sent(); len(left) > 0 {
		t.Errorf("sent without need: %s", left)
	}
	sameErrors(t, "faults", r.faults(), faults)
	if got := r.stats; got.LateReplies != r.ledger.late || got.UnexpectedReplies != r.ledger.unexpected {
		t.Errorf("got %d late and %d unexpected replies, want %d and %d", got.LateReplies, got.UnexpectedReplies, r.ledger.late, r.ledger.unexpected)
	}
	r.checkCalls(t)
	if want := step.Expect.Protocol; want != "" && r.undecided {
		p := vectorProtocols[want]
		r.proto.Store(&p) // so that the rest can be compared
		r.undecided = false
	} else if want != "" && r.Protocol() != vectorProtocols[want] {
		t.Errorf("got protocol %v, want %s", r.Protocol(), want)
	}
	if !r.differs {
		done := slices.DeleteFunc(r.done(), func(ref string) bool { return slices.Contains(doneBefore, ref) })
		r.checkFutures(t, step, done)
		r.checkPending(t, step)
	}
}

// done returns the references of the calls that are over.
func (r *scriptRunner) done() (refs []string) {
	for ref, f := range r.futures {
		select {
		case <-f.Done():
			refs = append(refs, ref)
		default:
		}
	}
	slices.Sort(refs)
	return refs
}

// send sends a request, a notification or a batch.
func (r *scriptRunner) send(t *testing.T, step *connectionStep) {
	t.Helper()
	ctx := context.Background()
	var f *Future
	var err error
	state := ledgerPending
	switch step.Op {
	case "send_request":
		f = r.Go(ctx, step.Method, goValue(step.Args))
		err = f.Err()
	case "send_notification":
		err = r.Notify(ctx, step.Method, goValue(step.Args))
	case "send_batch":
		f = r.GoBatch(ctx, encodeCase{Items: batchItems(step.Items)}.batch(t))
		err = f.Err()
	}
	if err != nil {
		state = ledgerUnsent
	}
	switch step.Op {
	case "send_request":
		r.ledger.calls = append(r.ledger.calls, &ledgerCall{ref: step.Ref, message: r.ledger.sent + 1, state: state})
		r.sentAs[step.Ref] = vectorPending{Method: step.Method, Args: step.Args}
	case "send_batch":
		for _, item := range step.Items {
			if item.Kind == "request" {
				r.ledger.calls = append(r.ledger.calls, &ledgerCall{ref: step.Ref, message: r.ledger.sent + 1, state: state, member: true})
			}
		}
		r.sentAs[step.Ref] = vectorPending{Batch: step.Items}
	}
	switch want := step.Expect.Raises; {
	case step.Op == "send_batch" && len(step.Items) == 0: // here an empty batch is no error, and no message
		if err != nil || len(r.sent()) > 0 {
			t.Fatal("an empty batch was sent, or is an error:", err)
		}
		return
	case want != nil:
		if err == nil {
			t.Fatalf("got no error, want %v", want.Message)
		}
		want.checkError(t, err)
		return
	case err != nil:
		t.Fatal(err)
	}
	if len(r.ledger.of(step.Ref)) > 0 {
		r.futures[step.Ref] = f
	} else if f != nil && f.Wait(ctx, nil) != nil {
		t.Error("a batch that waits for nothing is not done")
	}
	r.checkSent(t, step.Expect.Message.JSON)
}

// batchItems gives requests the form in which a batch takes them.
func batchItems(items []vectorRequest) (list []any) {
	for _, item := range items {
		list = append(list, map[string]any{"kind": item.Kind, "method": item.Method, "args": item.Args})
	}
	return list
}

// checkSent compares the only message that was sent; nil is none.
func (r *scriptRunner) checkSent(t *testing.T, want any) {
	t.Helper()
	msgs := r.sent()
	switch {
	case want == nil && len(msgs) > 0:
		t.Errorf("sent %s, want nothing", msgs)
	case want != nil && len(msgs) != 1:
		t.Errorf("sent %s, want %v", msgs, want)
	case want != nil:
		checkJSON(t, "sent", msgs[0], want)
	}
}

// receiveStep receives a message, and returns the faults in it.
func (r *scriptRunner) receiveStep(t *testing.T, step *connectionStep) []error {
	t.Helper()
	r.receive(step.Message)
	m := Message{StrictParams: true}
	r.Protocol().Decode(&m, step.Message, 0)
	r.ledger.loose = r.Protocol() == JSONRPCLoose
	r.undecided = r.undecided || readEnvelope(step.Message).twice()
	switch {
	case m.Kind() == KindResponse, r.ascribed(&m, step.Message):
		return r.checkResponses(t, step, &m)
	case m.Batch:
		if replies, rest := r.mixed(step.Message); len(replies) > 0 {
			// The original takes none of them for what they are.
			r.differs = true
			faults := r.ledger.receive(replies, true)
			others := *step
			others.Message, others.Expect.Raises = rest, nil
			r.Protocol().Decode(&m, rest, 0)
			r.checkItems(t, &others, &m)
			return append(faults, r.checkInvalid(t, &others, &m)...)
		}
	case refuses(step):
		r.differs = true
		r.undecided = r.undecided || !json.Valid(step.Message)
		step.Expect.Raises, step.Expect.Items = &vectorError{}, nil
	}
	r.checkItems(t, step, &m)
	return r.checkInvalid(t, step, &m)
}

// ascribed reports whether a message that is neither a request nor a response has the
// id of a call that waits, or waited, and makes a response of it.
func (r *scriptRunner) ascribed(m *Message, msg []byte) bool {
	e := readEnvelope(msg)
	item := m.Items[0]
	if m.Batch || !e.neither() || e.twice() || item.ID == nil {
		return false
	}
	item.Kind, item.ID = KindResponse, callID(item.ID)
	if c := r.ledger.find(&item); c == nil || c.state != ledgerPending && c.state != ledgerGivenUp {
		return false
	}
	switch r.Protocol() {
	case JSONRPCLoose:
		item.Result, item.Err = json.RawMessage("null"), nil
	case JSONRPCv1:
		item.Err = protocolError(CodeInvalidRequest, `response must contain both "result" and "error"`)
	default:
		item.Err = protocolError(CodeInvalidRequest, `response contains neither "result" nor "error"`)
	}
	m.Items[0] = item
	return true
}

// mixed returns the responses for calls which wait in a batch that is not one of
// responses, and has no request either; and the batch without them.
func (r *scriptRunner) mixed(msg []byte) (replies []Item, rest []byte) {
	var others [][]byte
	for _, raw := range membersOf(msg) {
		var m Message
		r.Protocol().Decode(&m, raw, 0)
		c := r.ledger.find(&m.Items[0])
		if kind := m.Items[0].Kind; kind == KindRequest || kind == KindNotification {
			return nil, nil
		}
		if e := readEnvelope(raw); e.likeResponse() && c != nil && c.state == ledgerPending {
			replies = append(replies, m.Items[0])
		} else {
			others = append(others, raw)
		}
	}
	return replies, slices.Concat([]byte("["), bytes.Join(others, []byte(",")), []byte("]"))
}

// sent returns the messages that wait to be written, and has the ledger count them.
func (r *scriptRunner) sent() [][]byte {
	msgs := r.offline.sent()
	r.ledger.sent += len(msgs)
	return msgs
}

// refuses reports whether rpcx refuses a message that the original took for
// JSON, for a response or for a request.
func refuses(step *connectionStep) bool {
	if !json.Valid(step.Message) {
		return step.Expect.Raises == nil || !sameValue(step.Expect.Raises.Code, json.Number("-32700"))
	}
	e := readEnvelope(step.Message)
	return e.neither() || e.twice() || e.booleanID()
}

// checkResponses enters responses into the ledger, and compares the faults in
// them, which it returns.
func (r *scriptRunner) checkResponses(t *testing.T, step *connectionStep, m *Message) []error {
	t.Helper()
	r.differs = r.differs || r.decides(step, m)
	faults := r.ledger.receive(m.Items, m.Batch)
	if raises := step.Expect.Raises; !r.differs && raises != nil {
		if len(faults) != 1 {
			t.Fatalf("got faults %v, want %v", faults, raises.Message)
		}
		raises.checkError(t, faults[0])
	}
	return faults
}

// decides reports whether rpcx decides differently about responses.
func (r *scriptRunner) decides(step *connectionStep, m *Message) bool {
	raises := step.Expect.Raises
	if raises != nil && (m.Batch || raises.Type != "ProtocolError") {
		// A batch answered nobody, or was ill-formed as a whole; or Python could
		// not compare an id.
		return true
	}
	for i, raw := range membersOf(step.Message) {
		e := readEnvelope(raw)
		c := r.ledger.find(&m.Items[i])
		_, illFormed := m.Items[i].Err.(*ProtocolError)
		switch {
		case e.booleanID() || e.twice() || e.roundedID():
			return true
		case c != nil && e.textID(): // it is the call's number, or fails the call
			return true
		case len(r.ledger.refused(&m.Items[i])) > 0: // it is for the only call or batch
			return true
		case r.Protocol() == JSONRPCv1 && e.halfResponse(): // it is what it says
			return true
		case r.Protocol() == JSONRPCLoose && e.neither(): // its result is null
			return true
		case illFormed && raises != nil && raises.Prefix != nil && *raises.Prefix == "diagnostic error received: ": // its code is no int
			return true
		case c != nil && c.member && !m.Batch: // it completes one member
			return true
		case c != nil && c.state == ledgerGivenUp && c.swept: // it is late all the same
			return true
		}
	}
	return false
}

// membersOf returns the members of a batch, or the message itself.
func membersOf(msg []byte) (members []json.RawMessage) {
	if json.Unmarshal(msg, &members) != nil {
		return []json.RawMessage{json.RawMessage(msg)}
	}
	return members
}

// checkCalls holds the session's calls to the ledger.
func (r *scriptRunner) checkCalls(t *testing.T) {
	t.Helper()
	var pending []string
	for _, c := range r.calls.table.pendingCalls() {
		f := c.message.future
		for ref := range r.futures {
			if r.futures[ref] == f && !slices.Contains(pending, ref) {
				pending = append(pending, ref)
			}
		}
	}
	if want := r.ledger.in((*ledgerCall).pending); !slices.Equal(pending, want) {
		t.Errorf("pending are %v, want %v", pending, want)
	}
	done := r.done()
	for ref, f := range r.futures {
		calls := r.ledger.of(ref)
		over := !slices.ContainsFunc(calls, func(c *ledgerCall) bool { return c.state == ledgerPending })
		if slices.Contains(done, ref) != over {
			t.Errorf("%s is over: got %v, want %v", ref, !over, over)
		}
		if !over {
			continue
		}
		members := f.members()
		if !calls[0].member {
			members = []*Future{f}
		}
		failed := false
		for i, c := range calls {
			failed = failed || c.err != nil
			sameErrors(t, ref, []error{members[i].Err()}, []error{c.err})
			if c.err == nil && !bytes.Equal(members[i].call.result, c.result) {
				t.Errorf("%s: got result %s, want %s", ref, members[i].call.result, c.result)
			}
		}
		if (f.Err() != nil) != failed {
			t.Errorf("%s: got error %v", ref, f.Err())
		}
	}
}

// checkFutures compares the calls that became done in a step.
func (r *scriptRunner) checkFutures(t *testing.T, step *connectionStep, done []string) {
	t.Helper()
	if want := slices.Sorted(maps.Keys(step.Expect.Futures)); !slices.Equal(done, want) {
		t.Fatalf("done are %v, want %v", done, want)
	}
	for ref, want := range step.Expect.Futures {
		f := r.futures[ref]
		members := []*Future{f}
		if f.members() != nil {
			members = f.members()
		}
		wants := want.Results
		if wants == nil {
			wants = slices.Repeat([]vectorOutcome{want}, len(members))
		}
		if len(wants) != len(members) {
			t.Fatalf("%s: got %d results, want %d", ref, len(members), len(wants))
		}
		for i, want := range wants {
			var result json.RawMessage
			err := members[i].Decode(&result)
			switch {
			case want.Cancelled:
				if !errors.Is(err, ErrCancelled) && !errors.Is(err, ErrConnectionLost) {
					t.Errorf("%s: got %v, want it cancelled", ref, err)
				}
			case want.Error != nil:
				want.Error.decided(protocolName(r.Protocol())).checkError(t, err)
			case err != nil:
				t.Errorf("%s: got %v, want a result", ref, err)
			default:
				checkJSON(t, fmt.Sprintf("%s, result %d", ref, i), result, want.Result)
			}
		}
	}
}

// checkPending compares the calls that wait for their replies. The original
// lists those that were cancelled, too, until it gives up all.
func (r *scriptRunner) checkPending(t *testing.T, step *connectionStep) {
	t.Helper()
	got := []vectorPending{}
	listed := func(c *ledgerCall) bool { return c.pending() || c.state == ledgerGivenUp && !c.swept }
	for _, ref := range r.ledger.in(listed) {
		got = append(got, r.sentAs[ref])
	}
	if diff := cmp.Diff(step.Expect.Pending, got); diff != "" {
		t.Errorf("pending: %s", diff)
	}
}

// inItem is a request from the peer.
type inItem struct {
	call     *peerRequest
	message  *inMessage
	place    int // among the members of a batch
	answered bool
}

// inMessage is the message that a request came in.
type inMessage struct {
	batch   bool
	members []json.RawMessage
	places  []int                  // of the members in the original's reply: the invalid ones, then the others as they are answered
	invalid map[int]*ProtocolError // members
	waiting int                    // requests that were not answered
	answers map[int]inAnswer
	size    int  // of the answers
	sized   bool // the original writes them in another number of bytes
	twice   bool // one was given twice
	differs bool // rpcx alone refuses a member
}

// inAnswer is an answer that is expected, under the limit of its time.
type inAnswer struct {
	json any
	fits bool
}

// checkItems compares what is handed to the handler.
func (r *scriptRunner) checkItems(t *testing.T, step *connectionStep, m *Message) {
	t.Helper()
	message := &inMessage{batch: m.Batch, members: membersOf(step.Message), invalid: map[int]*ProtocolError{}, answers: map[int]inAnswer{}}
	calls, wants := r.take(), step.Expect.Items
	next := 0 // of wants
	for i, item := range m.All() {
		var e vectorEnvelope
		if i < len(message.members) { // an empty batch is one invalid item
			e = readEnvelope(message.members[i])
		}
		switch {
		case item.Kind != KindInvalid:
			next++
			continue
		case e.twice() || e.booleanID():
			message.differs = true
			if plain := plainItem(message.members[i]); len(wants) > len(calls) && next < len(wants) && sameValue(wants[next].Method, plain.Method) {
				wants = slices.Delete(slices.Clone(wants), next, next+1) // the original took it
			}
		}
		message.places = append(message.places, i)
		message.invalid[i] = item.Err.(*ProtocolError)
	}
	if len(calls) != len(wants) {
		t.Fatalf("got %d requests, want %d", len(calls), len(wants))
	}
	for i, want := range wants {
		c := calls[i]
		if c.Method != want.Method || c.IsNotification() != (want.Kind == "notification") {
			t.Errorf("got %+v, want %+v", c.Request, want)
		}
		checkJSON(t, "args", paramsJSON(c.Params), want.Args)
		r.in[want.Ref] = &inItem{call: c, message: message, place: int(c.index)}
		if !c.IsNotification() {
			message.waiting++
		}
	}
}

// checkInvalid compares the replies to what is invalid in a message that is no
// response, and returns the faults in it.
func (r *scriptRunner) checkInvalid(t *testing.T, step *connectionStep, m *Message) (faults []error) {
	t.Helper()
	name := protocolName(r.Protocol())
	var replies []any
	raises := step.Expect.Raises
	members := membersOf(step.Message)
	for i, item := range m.All() {
		if item.Kind != KindInvalid {
			continue
		}
		err := item.Err.(*ProtocolError)
		faults = append(faults, err)
		want := decodeExpect{Kind: "protocol_error"}
		switch {
		case m.Batch && raises != nil: // all are invalid
			want = errorExpect(raises.Reply.JSON.([]any)[i]).decidedItem(name, readEnvelope(members[i]), false, true)
		case !m.Batch && raises != nil:
			want.vectorError = *raises
			want = want.decided(t, name, step.Message)
		case !m.Batch:
			t.Fatalf("got %v, want no error", err)
		default: // with good members: the answers come with theirs, or the original gave none
			want = invalidExpect(err.Code, err.Message, readEnvelope(members[i]).id(name))
		}
		want.check(t, err.Code, err.Message)
		replies = append(replies, want.reply(name, err.Message))
	}
	switch waiting := slices.ContainsFunc(m.Items, func(item Item) bool { return item.Kind == KindRequest }); {
	case waiting || len(replies) == 0:
		r.checkSent(t, nil)
	case m.Batch:
		r.checkSent(t, replies)
	default:
		r.checkSent(t, replies[0])
	}
	return faults
}

// errorExpect reads an error response.
func errorExpect(reply any) (want decodeExpect) {
	e := reply.(map[string]any)["error"].(map[string]any)
	want.Kind = "protocol_error"
	want.Code, want.Message, want.Reply = e["code"], e["message"], &vectorMessage{JSON: reply}
	return want
}

func protocolName(p Protocol) string {
	for name, known := range vectorProtocols {
		if known == p && name != "any" {
			return name
		}
	}
	return ""
}

// answer has a request answered.
func (r *scriptRunner) answer(t *testing.T, step *connectionStep) {
	t.Helper()
	item := r.in[step.Item]
	if item == nil {
		return // rpcx refused it, as checkItems has found
	}
	in := item.message
	p := r.Protocol()
	result := goValue(step.Result)
	encoded, err := p.AppendResult(nil, item.call.ID, result, nil)
	var replyErr error
	if step.Error != nil {
		code, _ := strconv.Atoi(string(step.Error.Code.(json.Number)))
		e := &Error{Code: code, Message: goText(step.Error.Message)}
		encoded, err = p.AppendError(nil, item.call.ID, e, nil)
		replyErr = e
	}
	if err != nil {
		t.Fatal(err)
	}
	lateResults := r.stats.LateResults
	r.requests.finishRequest(item.call, result, replyErr)
	if item.answered {
		// A handler returns once; were it otherwise, the second answer would be dropped.
		in.twice = true
		r.checkSent(t, nil)
		if r.stats.LateResults != lateResults+1 {
			t.Error("the second answer was not counted")
		}
		return
	}
	item.answered = true
	in.waiting--
	in.places = append(in.places, item.place)
	in.sized = in.sized || sized(encoded, item.call.ID)
	in.size += len(encoded)
	if in.batch {
		in.size += 2
	}
	answer := inAnswer{mustDecode(encoded), in.size <= r.limits.Response}
	if !answer.fits {
		text := "response too large (over " + thousands(r.limits.Response) + " bytes)"
		answer.json = errorReply(protocolName(p), json.Number(strconv.Itoa(CodeInvalidRequest)), text, mustDecode(appendID(nil, item.call.ID)))
	}
	in.answers[item.place] = answer

	if in.waiting > 0 {
		r.checkSent(t, nil)
	} else {
		r.checkSent(t, in.reply(protocolName(p)))
	}
	if !in.twice && !in.differs {
		in.checkOriginal(t, protocolName(p), step.Expect.Message)
	}
}

// sized reports whether the original writes an answer in another number of
// bytes: it escapes what is no printable ASCII, and writes an id anew.
func sized(encoded []byte, id ID) bool {
	_, err := strconv.Atoi(string(id))
	integer := err == nil && string(id) != "-0"
	text := id[0] == '"' && !bytes.Contains(id, []byte(`\`))
	return !integer && !text || bytes.ContainsFunc(encoded, func(c rune) bool { return c >= 0x7f })
}

// reply is the reply to a message whose requests were all answered. Those to the
// members of a batch are in the order of the requests.
func (in *inMessage) reply(protocol string) any {
	parts := make([]any, 0, len(in.members))
	for i, raw := range in.members {
		answer, answered := in.answers[i]
		err := in.invalid[i]
		switch {
		case !in.batch:
			return in.answers[0].json
		case answered:
			parts = append(parts, answer.json)
		case err != nil:
			want := invalidExpect(err.Code, nil, readEnvelope(raw).id(protocol))
			parts = append(parts, want.reply(protocol, err.Message))
		}
	}
	return parts
}

// checkOriginal compares what is expected with the original's reply, where the
// errors of a batch come first.
func (in *inMessage) checkOriginal(t *testing.T, protocol string, reply *vectorMessage) {
	t.Helper()
	if (reply == nil) != (in.waiting > 0) {
		t.Fatalf("the original's reply is %v, and %d requests wait", reply, in.waiting)
	}
	if reply == nil {
		return
	}
	parts := []any{reply.JSON}
	if in.batch {
		parts = reply.JSON.([]any)
	}
	for i, part := range parts {
		place := in.places[i]
		answer, answered := in.answers[place]
		if !answered {
			err := in.invalid[place]
			want := errorExpect(part).decidedItem(protocol, readEnvelope(in.members[place]), false, true)
			want.check(t, err.Code, err.Message)
			continue
		}
		e, _ := part.(map[string]any)["error"].(map[string]any)
		text, _ := e["message"].(string)
		switch tooLarge := strings.HasPrefix(text, "response too large (over "); {
		case in.sized && tooLarge != !answer.fits:
			continue // the sizes of what is sent count
		case tooLarge: // the original lacks a parenthesis
			e["message"] = text + ")"
		}
		if !sameValue(answer.json, part) {
			t.Errorf("got answer %v, want %v", answer.json, part)
		}
	}
}
