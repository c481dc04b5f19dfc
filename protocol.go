package rpcx

import "reflect"

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

// A Codec encodes and decodes what the messages of a [Protocol] carry: params,
// results, the data of errors. It must be safe for concurrent use.
type Codec interface {
	// Append appends the encoding of v to dst and returns the extended slice;
	// on an error it returns dst as it was.
	Append(dst []byte, v any) ([]byte, error)
	// Unmarshal decodes data into v, a pointer. It does not keep data.
	Unmarshal(data []byte, v any) error
}

// A RawCodec is a Codec whose encoding is not JSON.
type RawCodec interface {
	Codec
	// RawType returns the type that is to this codec what [json.RawMessage] is to
	// JSON: a slice of bytes that is encoded as it is, and decoded to the encoding
	// of a value; null may become nil. It has to work as an element of slices, maps
	// and structs. With it, arguments are told apart and objects taken to pieces.
	RawType() reflect.Type
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
