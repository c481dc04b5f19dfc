package rpcx

import (
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"slices"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/jsonscan"
)

// ID is the id of a request, byte for byte as in the message. In a JSON protocol, the ID
// is the raw JSON text: a number, or a string with its quotes. In JSON-RPC 1.0, the ID may
// also be an array or an object. The session does not interpret an ID, and echoes the
// received bytes. The ID of a notification is nil.
//
// In calls of this side, and in the responses to these calls, an ID is the decimal text of
// a number.
type ID []byte

// String returns the ID's text.
func (id ID) String() string { return string(id) }

// Params holds the arguments of a request, not yet decoded. The encoding is that of the
// session's codec: JSON, unless the codec is a [RawCodec]. A request of JSON-RPC has
// Positional, or Named, or neither. A request of aiomas has both, and a plain message has
// Raw.
//
// The bytes belong to the request, and its handler may keep and change the bytes.
type Params struct {
	Positional json.RawMessage // an array, or nil
	Named      json.RawMessage // an object, or nil
	Raw        []byte          // a payload, neither an array nor an object, or nil

	codec Codec // nil for the built-in codec
}

// Bind decodes the params into v, a pointer. Positional params need a destination for an
// array (a slice, an array, *[]any). Named params need a destination for an object (a
// struct, a map). If both are set, Bind decodes Positional and ignores Named.
//
// Decoding follows encoding/json: unknown members are ignored, and a missing member leaves
// its field unchanged. Without params, v is unchanged, except that a *[]byte is set to
// nil. Raw params are stored in a *[]byte, or decoded into v by Options.Codec.
//
// If decoding fails, the error is an [*Error] with [CodeInvalidParams], and a handler may
// return it. If v is nil or not a pointer, the peer is not at fault, and the error has no
// code.
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
	if err := unmarshalInTurn(p.codec, data, v); err != nil {
		return invalidArguments(err)
	}
	return nil
}

// invalidArguments returns the error for params that a codec cannot decode. The text of
// err is shortened, because it may repeat data of the peer, such as a number of any
// length.
func invalidArguments(err error) *Error {
	return InvalidParams("invalid request arguments: %s", bounded.Text(err.Error()))
}

// Kind is the kind of an [Item].
type Kind uint8

const (
	// KindInvalid is a message or member that violates the protocol and is not a response.
	// The session answers with Item.Err, under Item.ID.
	KindInvalid Kind = iota
	KindRequest
	KindNotification
	// KindResponse is a response to a call of this side, matched by its ID.
	KindResponse
	// KindFatal is a message that ends the session with Item.Err, without an answer.
	KindFatal
)

func (k Kind) String() string {
	return [...]string{"invalid", "request", "notification", "response", "fatal"}[k]
}

// Item is a decoded request, notification or response: a whole message, or a member of a
// batch. The byte slices of an Item share memory with the decoded message. Code that keeps
// a slice longer than the message must copy the slice.
type Item struct {
	Kind   Kind
	ID     ID     // of a request or response, or for the answer to an invalid item; nil if null or absent
	Method string // of a request or notification
	Params Params // of a request or notification
	// Result is the result of a response, or nil if the response has an error.
	Result json.RawMessage
	// Err is nil for a request, a notification and a successful response. For an error
	// response, Err is an [*Error]. For an invalid or fatal item and an ill-formed
	// response, Err is a [*ProtocolError].
	Err error
}

// Message is a decoded message: a single item, or a batch. The zero value is ready for
// decoding, any number of times.
type Message struct {
	Items []Item // a single item unless Batch is set; never empty
	Batch bool
	// StrictParams is set before decoding, and decoding does not change it. If
	// StrictParams is set, a request with null params is invalid; see
	// Options.StrictParams.
	StrictParams bool

	singleItem        [1]Item // holds the item of a single message, without allocation
	env               envelope
	spare             []Item   // memory for the items of a batch; items from len(spare) on are zero
	keepsTexts        bool     // set before decoding, for Options.Meta
	texts             [][]byte // of the items as objects, if keepsTexts is set and the protocol is JSON-RPC
	lastMethod        string   // the last method, often the same as the next
	allMembersInvalid bool     // a batch was refused for its invalid members, which may be replies
}

// methodName returns the method in raw, a JSON string.
func (m *Message) methodName(raw []byte) string {
	inner := raw[1 : len(raw)-1]
	if string(inner) == m.lastMethod {
		return m.lastMethod
	}
	name := jsonscan.Unquote(raw)
	if len(name) <= 64 && len(name) == len(inner) { // without escape sequences
		m.lastMethod = name
	}
	return name
}

// Single resets m to a single empty item, and returns the item. A Protocol decodes a
// message into the item, unless the message is a batch.
func (m *Message) Single() *Item {
	m.Batch, m.allMembersInvalid = false, false
	m.singleItem[0] = Item{}
	m.Items = m.singleItem[:]
	return &m.Items[0]
}

// maxPooledItems is the maximum capacity of pooled items: those of a batch with as many
// members as Limits.Batch allows, and of somewhat more.
const maxPooledItems = 16 << 10

// keepItems keeps the memory of the items of a batch, for the next batch.
func (m *Message) keepItems() {
	if cap(m.Items) > len(m.singleItem) {
		m.spare = m.Items[:max(len(m.Items), len(m.spare))] // earlier batches may have been longer
	}
}

// growItems makes room for another item of a batch, and for as many as the unread part of
// the message probably has. done is the number of bytes that were read, for at least one
// item; left is the number of unread bytes.
func (m *Message) growItems(done, left, maxBatch int) {
	n := len(m.Items)
	more := min(left/max(1, done/n)+1, 3*n) // a message must not begin with small members to get much memory
	if maxBatch > 0 {
		more = min(more, maxBatch-n)
	}
	m.Items = slices.Grow(m.Items, more)
}

// keepText keeps the text of the last item, if m keeps texts.
func (m *Message) keepText(text []byte) {
	if m.keepsTexts {
		m.texts = append(m.texts, text)
	}
}

// textOf returns the text of item i, an object, or nil.
func (m *Message) textOf(i int) []byte {
	if i < len(m.texts) {
		return m.texts[i]
	}
	return nil
}

// setInvalid resets m to a single invalid item.
func (m *Message) setInvalid(code int, text string) {
	m.Single().Err = protocolError(code, text)
}

// Len returns the number of items.
func (m *Message) Len() int { return len(m.Items) }

// All iterates over the items with their indexes.
func (m *Message) All() iter.Seq2[int, *Item] {
	return func(yield func(int, *Item) bool) {
		for i := range m.Items {
			if !yield(i, &m.Items[i]) {
				return
			}
		}
	}
}

// Requests iterates over the requests and notifications.
func (m *Message) Requests() iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		for _, item := range m.All() {
			if (item.Kind == KindRequest || item.Kind == KindNotification) && !yield(item) {
				return
			}
		}
	}
}

// IDs returns the IDs of the items in order, with nil for an item without an ID.
func (m *Message) IDs() []ID {
	ids := make([]ID, len(m.Items))
	for i := range m.Items {
		ids[i] = m.Items[i].ID
	}
	return ids
}

// Kind returns the kind of m. A single message has the kind of its item. The kind of a
// batch is [KindResponse] if the members are responses, and [KindRequest] otherwise. A
// batch with both counts as requests, as in aiorpcX, and the responses are invalid.
func (m *Message) Kind() Kind {
	if !m.Batch {
		return m.Items[0].Kind
	}
	if m.Items[0].Kind == KindResponse {
		return KindResponse
	}
	return KindRequest
}

// A Protocol converts messages to items, and items to messages. The values of this package
// are [JSONRPCv1], [JSONRPCv2], [JSONRPCLoose], [JSONRPCAutoDetect], [Aiomas] and
// [BitcoinProtocol]. Other packages may define more.
//
// A Protocol is immutable, and many sessions may use it at once. No method needs a
// session, so a program can build a message:
//
//	msg, err := rpcx.JSONRPCv2.AppendRequest(nil, rpcx.ID("7"), "echo", rpcx.Args{"hi"}, nil)
//
// The Append methods append a message without framing to dst, and return the extended
// slice. On an error, the result is dst unchanged. If the Codec is nil, the protocol uses
// its own codec.
//
// The session does not interpret IDs: AppendResult and AppendError receive an ID as found
// by Decode. The session numbers its own calls from Options.FirstID, and passes each
// number as decimal text. If the ID of a response is a number, Decode returns the ID in
// the same form.
//
// The JSON protocols match the names of members in exact case, and refuse a member that is
// given twice. An ID is a number or a string (in 1.0 also an array or an object). Params are
// an array, an object or null. Messages are UTF-8, with at most 10,000 levels. A message with
// the ID of a pending call and no method ends the call, with a [*ProtocolError] if ill-formed.
type Protocol interface {
	// Decode interprets msg and stores the contents in m, in place of the previous
	// contents. The items share memory with msg. A message that is invalid as a whole
	// becomes a single [KindInvalid] item. A batch also becomes a single [KindInvalid]
	// item if it has more than maxBatch members (if maxBatch is positive), or more than 16
	// invalid members. Decode then does not read the remaining members. m.StrictParams is
	// for protocols whose messages have params.
	Decode(m *Message, msg []byte, maxBatch int)

	AppendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error)
	AppendNotification(dst []byte, method string, params any, c Codec) ([]byte, error)
	AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error)
	// AppendError appends the response with error e. If id is nil, the response has the id
	// null.
	AppendError(dst []byte, id ID, e *Error, c Codec) ([]byte, error)
	// AppendBatch joins messages that the other Append methods have built. AppendBatch
	// fails if parts is empty, or if the protocol has no batches.
	AppendBatch(dst []byte, parts [][]byte) ([]byte, error)

	// Codec returns the codec for params and results if Options.Codec is nil.
	Codec() Codec
}

// A Detector is a Protocol that is replaced by another Protocol after the first received
// message. Until then the Detector encodes the messages.
type Detector interface {
	Protocol
	// Detect returns the protocol of the sender of msg, or nil if msg shows no protocol.
	// Detect reads at most maxBatch members of a batch.
	Detect(msg []byte, maxBatch int) Protocol
}

// A StartDecoder is a Protocol that can identify a message by its beginning. A session
// uses a StartDecoder for messages dropped because of their size. All protocols of this
// package are StartDecoders, except [BitcoinProtocol], whose messages are not answered.
type StartDecoder interface {
	Protocol
	// DecodeStart resets m to a single item with only a Kind and an ID. start is the
	// beginning of a message, at most [StartSize] bytes. The ID may share memory with
	// start. The Kind is
	//
	//	KindRequest       if start shows a request and its ID
	//	KindResponse      if start shows a response; the ID is nil if start does not
	//	                  have the ID. If m.Batch is set, the ID is from the first member.
	//	KindNotification  if start shows that the message has no ID, or null
	//	KindFatal         if an answer is impossible
	//	KindInvalid       otherwise. A KindInvalid or KindRequest item is answered
	DecodeStart(m *Message, start []byte)
}

// A ServiceProtocol is a Protocol for services, such as [Aiomas]. Its sessions send and
// receive services and other objects without Options.Objects. In a path, only "/"
// separates names. The texts of errors are sent.
type ServiceProtocol interface {
	Protocol
	// Exception returns the error to send for a handler's err that is not an [*Error].
	Exception(err error) *Error
}

// Args holds positional arguments: Args{1, "two"} encodes to [1,"two"].
type Args []any

// EmptyArgs stands for no params, and is sent as an empty array. JSON-RPC 2.0 omits
// "params" for nil and for Args{}. For EmptyArgs, "params":[] is sent, as some peers
// require. EmptyArgs is for Call, Go and Notify of a Session, and for a Batch. Among the
// arguments of a [Proxy], EmptyArgs is a single argument, an empty array.
var EmptyArgs any = emptyArgs{}

// emptyArgs is a list, so that any codec encodes an empty array.
type emptyArgs []any

// Mixed holds positional and named arguments together, for protocols that can carry both.
// JSON-RPC cannot carry both, so Args must be empty or Named must be nil.
type Mixed struct {
	Args  Args
	Named any // a map or a struct, or nil
}

// sharedBytes returns the number of bytes that the item shares with its message.
func (item *Item) sharedBytes() int { return len(item.ID) + item.Params.sharedBytes() }

func (p *Params) sharedBytes() int { return len(p.Positional) + len(p.Named) + len(p.Raw) }

// detachInto moves the shared bytes of the item to a, which should have room: otherwise a
// moves to a larger allocation.
func (item *Item) detachInto(a *byteArena) {
	p := &item.Params
	item.ID, p.Positional, p.Named, p.Raw = a.appendCopy(item.ID), a.appendCopy(p.Positional), a.appendCopy(p.Named), a.appendCopy(p.Raw)
}

// byteArena is memory shared by small values that arrived together.
type byteArena []byte

// maxSharedArena is the maximum size of an arena for small values. A user who keeps a
// small value keeps the whole arena.
const maxSharedArena = 512

// appendCopy returns a copy of b in the arena, which should have room. Earlier copies stay
// where they are if the arena moves.
func (a *byteArena) appendCopy(b []byte) []byte {
	if b == nil {
		return nil
	}
	start := len(*a)
	*a = append(*a, b...)
	return (*a)[start:len(*a):len(*a)]
}

// grow makes room for n bytes. A new arena has twice the old size (at most
// maxSharedArena, at least n), so that later values share the allocation.
func (a *byteArena) grow(n int) {
	if n > cap(*a)-len(*a) {
		*a = make(byteArena, 0, max(n, min(2*cap(*a), maxSharedArena)))
	}
}
