package rpcx

import (
	"encoding/json"
	"fmt"
	"iter"
	"reflect"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/jsonscan"
)

// ID is the id of a request as it stands in its message, byte for byte: for
// JSON protocols the raw JSON text (a number, a string with its quotes; in
// JSON-RPC 1.0 also an array or an object). It is opaque to the session and is
// echoed as it came. A nil ID is none: that of a notification.
//
// For the calls that this side makes, and so for the responses that it gets,
// an ID is the decimal text of a number.
type ID []byte

// String returns the ID's text.
func (id ID) String() string { return string(id) }

// Params are the arguments of a request, not yet decoded, in the encoding of the
// session's codec (JSON, unless that is a [RawCodec]). JSON-RPC has either
// Positional or Named or neither, aiomas has both, plain-message protocols
// have Raw.
//
// The bytes belong to the request: whoever handles it may keep and change them.
type Params struct {
	Positional json.RawMessage // an array, or nil
	Named      json.RawMessage // an object, or nil
	Raw        []byte          // a payload that is no array or object, or nil

	codec Codec // nil is the built-in one
}

// Bind decodes the params into v: positional ones into what takes an array (a
// slice, an array, *[]any), named ones into what takes an object (a struct, a
// map), by the rules of encoding/json: members that v has no place for are left
// out, and those that are missing leave theirs as it is, as all do if there are no
// params. Raw params go into a *[]byte, or into what Options.Codec makes of them. An
// error is an [*Error] with [CodeInvalidParams], fit to be returned by a handler. But a v
// that is no pointer is no fault of the peer: that error has no code.
func (p Params) Bind(v any) error {
	if r := reflect.ValueOf(v); r.Kind() != reflect.Pointer || r.IsNil() {
		return fmt.Errorf("bind params: %T is no pointer to decode into, or is nil", v)
	}
	data := []byte(p.Positional)
	if data == nil {
		data = p.Named
	}
	if data == nil {
		if raw, ok := v.(*[]byte); ok {
			*raw = p.Raw
			return nil
		}
		if p.Raw == nil {
			return nil
		}
		data = p.Raw
	}
	if err := unmarshalInTurn(codecOr(p.codec), data, v); err != nil {
		return invalidArguments(err)
	}
	return nil
}

// invalidArguments returns the error for params that a codec cannot decode. The codec's
// text may repeat the peer's, such as a number of any length.
func invalidArguments(err error) *Error {
	return InvalidParams("invalid request arguments: %s", bounded.Text(err.Error()))
}

// Kind says what an [Item] is.
type Kind uint8

const (
	// KindInvalid is a message or member that violates the protocol and is no
	// response: it is answered with Item.Err, under Item.ID.
	KindInvalid Kind = iota
	KindRequest
	KindNotification
	// KindResponse is a response, to be matched by its ID to a call of ours.
	KindResponse
	// KindFatal is a message that ends the session, with Item.Err, and is not answered.
	KindFatal
)

func (k Kind) String() string {
	return [...]string{"invalid", "request", "notification", "response", "fatal"}[k]
}

// Item is one decoded request, notification or response: a whole message, or a
// member of a batch. Its byte slices are parts of the message that it was
// decoded from; whoever keeps them longer than the message copies them.
type Item struct {
	Kind   Kind
	ID     ID     // of a request, a response, or to answer an invalid item under; nil for none or null
	Method string // of a request or notification
	Params Params // of a request or notification
	// Result is that of a response, nil if it has an error.
	Result json.RawMessage
	// Err is nil for requests, notifications and successful responses; an
	// [*Error] in a response that is one; a [*ProtocolError] in an invalid item
	// and in a response that is ill-formed.
	Err error
}

// Message is a decoded message: one item, or a batch of them. The zero value
// is ready to be decoded into, any number of times.
type Message struct {
	Items []Item // one item unless Batch is set; never empty
	Batch bool
	// StrictParams is set before decoding, and not changed by it. If set, a request
	// whose params are null is invalid; see Options.StrictParams.
	StrictParams bool

	singleItem        [1]Item // keeps the decoding of single messages free of allocation
	env               envelope
	spare             []Item // for a batch
	lastMethod        string // the last one, which is often the next as well
	allMembersInvalid bool   // a batch was refused for its invalid members, which may be replies
}

// methodName returns the method that raw, a JSON string, names.
func (m *Message) methodName(raw []byte) string {
	inner := raw[1 : len(raw)-1]
	if string(inner) == m.lastMethod {
		return m.lastMethod
	}
	name := jsonscan.Unquote(raw)
	if len(name) <= 64 && len(name) == len(inner) { // it has no escape sequence, nor a backslash
		m.lastMethod = name
	}
	return name
}

// Single makes m one item, which is empty, and returns it: for a Protocol to decode
// a message to that is no batch.
func (m *Message) Single() *Item {
	m.Batch, m.allMembersInvalid = false, false
	m.singleItem[0] = Item{}
	m.Items = m.singleItem[:]
	return &m.Items[0]
}

// setInvalid makes m a single invalid item.
func (m *Message) setInvalid(code int, text string) {
	m.Single().Err = protocolError(code, text)
}

// Len returns the number of items.
func (m *Message) Len() int { return len(m.Items) }

// All ranges over the items with their places.
func (m *Message) All() iter.Seq2[int, *Item] {
	return func(yield func(int, *Item) bool) {
		for i := range m.Items {
			if !yield(i, &m.Items[i]) {
				return
			}
		}
	}
}

// Requests ranges over the items that are requests or notifications.
func (m *Message) Requests() iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		for _, item := range m.All() {
			if (item.Kind == KindRequest || item.Kind == KindNotification) && !yield(item) {
				return
			}
		}
	}
}

// IDs returns the items' IDs in order, nil where an item has none.
func (m *Message) IDs() []ID {
	ids := make([]ID, len(m.Items))
	for i := range m.Items {
		ids[i] = m.Items[i].ID
	}
	return ids
}

// Kind returns the kind of a message's one item. A batch is [KindResponse] if
// its members are responses, [KindRequest] if they are not; a batch that mixes
// them is taken for requests, as aiorpcX does, and its responses are invalid.
func (m *Message) Kind() Kind {
	if !m.Batch {
		return m.Items[0].Kind
	}
	if m.Items[0].Kind == KindResponse {
		return KindResponse
	}
	return KindRequest
}

// A Protocol turns messages into items and items into messages. The values of
// this package are [JSONRPCv1], [JSONRPCv2], [JSONRPCLoose],
// [JSONRPCAutoDetect] and [Aiomas]; other packages may bring their own.
//
// A Protocol is immutable, and may be used by many sessions at once. Its
// methods need no session: a message can be built with
//
//	msg, err := rpcx.JSONRPCv2.AppendRequest(nil, rpcx.ID("7"), "echo", rpcx.Args{"hi"}, nil)
//
// The Append methods append one message without framing to dst and return the
// extended slice; on an error they return dst as it was. A nil Codec is the
// protocol's own. IDs are opaque to the session: it gives AppendResult and
// AppendError an ID as Decode found it. Its own calls it numbers from
// Options.FirstID, and passes their numbers as decimal text; Decode gives the IDs of responses in
// the same form if they are numbers.
type Protocol interface {
	// Decode interprets msg and stores what it holds in m, replacing what was
	// there. The items share msg's memory. A message that is invalid as a whole
	// is one [KindInvalid] item; so is a batch of more than maxBatch members (if
	// maxBatch is positive), or with more than 16 invalid ones, which is not read
	// further. m.StrictParams is for
	// protocols whose messages have params.
	Decode(m *Message, msg []byte, maxBatch int)

	AppendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error)
	AppendNotification(dst []byte, method string, params any, c Codec) ([]byte, error)
	AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error)
	// AppendError builds the response that carries e; a nil id is null.
	AppendError(dst []byte, id ID, e *Error, c Codec) ([]byte, error)
	// AppendBatch joins messages that were built with the other methods. It
	// fails if there are none, or if the protocol has no batches.
	AppendBatch(dst []byte, parts [][]byte) ([]byte, error)

	// Codec is what encodes params and results where Options.Codec is nil.
	Codec() Codec
}

// A Detector is a Protocol that settles on another one when the first message
// has been received. Until then it encodes for itself.
type Detector interface {
	Protocol
	// Detect returns the protocol that msg shows its sender to speak, or nil if
	// it shows none. It reads no batch beyond maxBatch members.
	Detect(msg []byte, maxBatch int) Protocol
}

// A StartDecoder is a Protocol that can tell what a message is from the beginning of it,
// for messages that were dropped because they are too large. All protocols of this
// package are StartDecoders, except [BitcoinProtocol], whose messages are not answered.
type StartDecoder interface {
	Protocol
	// DecodeStart makes m one item that has a Kind and an ID only. start is the
	// beginning of a message, no longer than [StartSize] bytes; the ID may share its
	// memory. The Kind is
	//
	//	KindRequest       if it shows a request and its ID
	//	KindResponse      if it shows a response; the ID is nil if start does not have
	//	                  it. If m.Batch is set, it is that of the first of a batch
	//	KindNotification  if it shows that the message has no ID, or null
	//	KindFatal         if there is nothing that could be answered
	//	KindInvalid       otherwise; this and a KindRequest are answered
	DecodeStart(m *Message, start []byte)
}

// A ServiceProtocol is a Protocol that was made for services, as [Aiomas] was. On
// its sessions services and other objects are sent and received without
// Options.Objects, the names in a path have only "/" between them, and the texts
// of errors are sent.
type ServiceProtocol interface {
	Protocol
	// Exception returns as what a handler's err is sent that is no [*Error].
	Exception(err error) *Error
}

// Args are positional arguments: Args{1, "two"} encodes to [1,"two"].
type Args []any

// EmptyArgs are params that are an empty array and are sent as one. JSON-RPC 2.0
// leaves "params" out for nil and for Args{}; with EmptyArgs it sends "params":[],
// for peers that ask for the member. It is for a Session's Call and Go, Notify and a Batch:
// among the arguments of a [Proxy] it is one of them, an empty array.
var EmptyArgs any = emptyArgs{}

// emptyArgs is a list, so that any codec encodes it as an empty one.
type emptyArgs []any

// Mixed are positional and named arguments together, for protocols that can
// carry both. JSON-RPC cannot: there one of the two has to be empty.
type Mixed struct {
	Args  Args
	Named any // a map or a struct, or nil
}
