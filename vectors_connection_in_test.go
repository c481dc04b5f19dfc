package rpcx

import (
	"bytes"
	"encoding/json"
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
