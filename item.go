package rpcx

import (
	"encoding/json"
	"fmt"
	"iter"
	"reflect"

	"example.com/rpcx/internal/jsonscan"

	"example.com/rpcx/internal/bounded"
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

	scratch [1]Item // keeps the decoding of single messages free of allocation
	env     envelope
	spare   []Item // for a batch
	method  string // the last one, which is often the next as well
	replies bool   // a batch was refused for its invalid members, which may be replies
}

// methodName returns the method that raw, a JSON string, names.
func (m *Message) methodName(raw []byte) string {
	inner := raw[1 : len(raw)-1]
	if string(inner) == m.method {
		return m.method
	}
	name := jsonscan.Unquote(raw)
	if len(name) <= 64 && len(name) == len(inner) { // it has no escape sequence, nor a backslash
		m.method = name
	}
	return name
}

// Single makes m one item, which is empty, and returns it: for a Protocol to decode
// a message to that is no batch.
func (m *Message) Single() *Item {
	m.Batch, m.replies = false, false
	m.scratch[0] = Item{}
	m.Items = m.scratch[:]
	return &m.Items[0]
}

// invalid makes m a single invalid item.
func (m *Message) invalid(code int, text string) {
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
