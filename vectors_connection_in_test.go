package rpcx

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// inItem is a request from the peer.
type inItem struct {
	call     *call
	message  *inMessage
	place    int // among the members of a batch
	answered bool
}

// inMessage is the message that a request came in.
type inMessage struct {
	batch   bool
	members []json.RawMessage
	places  []int // of the members in the original's reply: the invalid ones, then the others as they are answered
	answers map[int]inAnswer
	size    int  // of the answers
	wide    bool // they are not all ASCII
	twice   bool // one was given twice
}

// inAnswer is an answer, without regard to the limit, and whether that lets it pass.
type inAnswer struct {
	message []byte
	fits    bool
}

// checkItems compares what is handed to the handler.
func (r *scriptRunner) checkItems(t *testing.T, step *connectionStep, m *Message) {
	t.Helper()
	message := &inMessage{batch: m.Batch, members: membersOf(step.Message), answers: map[int]inAnswer{}}
	for i, item := range m.All() {
		if item.Kind == KindInvalid {
			message.places = append(message.places, i)
		}
	}
	calls := r.take()
	if len(calls) != len(step.Expect.Items) {
		t.Fatalf("got %d requests, want %d", len(calls), len(step.Expect.Items))
	}
	for i, want := range step.Expect.Items {
		c := calls[i]
		if c.Method != want.Method || c.IsNotification() != (want.Kind == "notification") {
			t.Errorf("got %+v, want %+v", c.Request, want)
		}
		checkJSON(t, "args", paramsJSON(c.Params), want.Args)
		r.in[want.Ref] = &inItem{call: c, message: message, place: c.index}
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
	if item == nil && r.differs {
		return // its request was refused
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
	r.reply(item.call, result, replyErr)
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
	in.places = append(in.places, item.place)
	in.size += len(encoded)
	if in.batch {
		in.size += 2
	}
	in.answers[item.place] = inAnswer{encoded, in.size <= r.limits.Response}
	in.wide = in.wide || bytes.ContainsFunc(encoded, func(c rune) bool { return c > 0x7f })

	switch want := step.Expect.Message; {
	case in.twice:
		r.sent() // the original's answer is another
	case want == nil:
		r.checkSent(t, nil)
	case !in.batch:
		r.checkSent(t, in.decided(want.JSON, item.place))
	default:
		// The original's errors come first; here all replies are in the order of the requests.
		parts := map[int]any{}
		for i, part := range want.JSON.([]any) {
			place := in.places[i]
			if _, answered := in.answers[place]; answered {
				parts[place] = in.decided(part, place)
				continue
			}
			e := errorExpect(part).decidedItem(protocolName(p), readEnvelope(in.members[place]), false, true)
			parts[place] = e.reply(protocolName(p), e.Message.(string))
		}
		var ordered []any
		for _, place := range slices.Sorted(maps.Keys(parts)) {
			ordered = append(ordered, parts[place])
		}
		r.checkSent(t, ordered)
	}
}

// decided returns the answer that is expected where the original gave want: its
// text lacks a parenthesis, and it counted the escapes of what is not ASCII.
func (in *inMessage) decided(want any, place int) any {
	e, _ := want.(map[string]any)["error"].(map[string]any)
	text, _ := e["message"].(string)
	switch {
	case !strings.HasPrefix(text, "response too large (over "):
		return want
	case in.wide && in.answers[place].fits:
		return mustDecode(in.answers[place].message)
	}
	want = maps.Clone(want.(map[string]any))
	want.(map[string]any)["error"] = map[string]any{"code": e["code"], "message": text + ")"}
	return want
}
