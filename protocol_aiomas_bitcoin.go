package rpcx

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/jsonscan"
)

// Aiomas is the protocol of aiomas.rpc with its JSON codec, for use with a
// [LengthFramer]. A message is [type, id, content]. A request has type 0 and the content
// [path, args, kwargs]. A result has type 1, an exception type 2 and a traceback as
// content.
//
// An error is sent as a traceback without a stack: only the error's text, for an error of
// any kind. For [CodeMethodNotFound] the text follows "LookupError: ", for
// [CodeInvalidParams] "TypeError: ". A received exception is an [*Error] with
// [CodeUnavailable]. Its message is the last lines of the traceback, and its Data is the
// whole traceback as a string.
//
// In destinations of any value, whole numbers are decoded to int64.
//
// Aiomas has no notifications and no batches. As in aiomas, a message of another form
// ends the session. Unlike aiomas, a request with ill-formed content is answered with an
// exception.
var Aiomas ServiceProtocol = aiomas{}

type aiomas struct{}

// Message types.
const (
	aiomasRequest = iota
	aiomasResult
	aiomasException
)

// Decode implements [Protocol].
func (aiomas) Decode(m *Message, msg []byte, _ int) {
	item := m.Single()
	item.Kind = KindFatal
	s := jsonscan.Scanner{Data: msg}
	var parts [3]json.RawMessage
	if !scanArray(&s, parts[:]) || !s.AtEnd() || !s.IsUTF8() {
		item.Err = protocolError(CodeParseError, "the message is not [type, id, content]")
		return
	}
	kind, ok := integralValue(parts[0])
	content := parts[2]
	switch {
	case ok && kind == aiomasRequest:
		item.ID = ID(parts[1])
		m.decodeAiomasRequest(item, content)
	case ok && kind == aiomasResult:
		item.Kind, item.ID, item.Result = KindResponse, callID(ID(parts[1])), content
	case ok && kind == aiomasException:
		item.Kind, item.ID = KindResponse, callID(ID(parts[1]))
		traceback := string(content)
		if content[0] == '"' {
			traceback = jsonscan.Unquote(content)
		}
		item.Err = TracebackError(traceback)
	default:
		item.Err = protocolError(CodeInvalidRequest, "invalid message type "+excerpt(parts[0]))
	}
}

// DecodeStart implements [StartDecoder].
func (aiomas) DecodeStart(m *Message, start []byte) {
	item := m.Single()
	item.Kind = KindFatal // an answer without an ID would end the connection
	s := jsonscan.Scanner{Data: start}
	if s.Peek() != '[' {
		return
	}
	var parts [2]json.RawMessage
	for i := range parts {
		s.Pos++ // the bracket or comma
		s.Peek()
		begin := s.Pos
		if !s.ScanValue() {
			return
		}
		parts[i] = start[begin:s.Pos:s.Pos]
		if s.Peek() != ',' {
			return
		}
	}
	if kind, ok := integralValue(parts[0]); ok && kind <= aiomasException && s.IsUTF8() {
		if item.Kind, item.ID = KindRequest, ID(parts[1]); kind != aiomasRequest {
			item.Kind, item.ID = KindResponse, callID(item.ID)
		}
	}
}

// decodeAiomasRequest fills item from the content of a request.
func (m *Message) decodeAiomasRequest(item *Item, content []byte) {
	item.Kind = KindInvalid
	s := jsonscan.Scanner{Data: content}
	var parts [3]json.RawMessage
	switch {
	case !scanArray(&s, parts[:]):
		item.Err = protocolError(CodeInvalidRequest, "the content of a request has to be [path, args, kwargs]")
	case parts[0][0] != '"':
		item.Err = protocolError(CodeInvalidRequest, "the path of a request has to be a string")
	case parts[1][0] != '[':
		item.Err = protocolError(CodeInvalidParams, "the args of a request have to be a list")
	case parts[2][0] != '{':
		item.Err = protocolError(CodeInvalidParams, "the kwargs of a request have to be a dictionary")
	default:
		item.Kind, item.Method = KindRequest, m.methodName(parts[0])
		item.Params = Params{Positional: parts[1], Named: parts[2]}
	}
}

// scanArray scans an array of exactly len(parts) elements.
func scanArray(s *jsonscan.Scanner, parts []json.RawMessage) bool {
	if s.Peek() != '[' {
		return false
	}
	s.Depth++
	defer func() { s.Depth-- }()
	for i := range parts {
		s.Pos++ // the bracket or comma
		s.Peek()
		start := s.Pos
		if !s.ScanValue() {
			return false
		}
		parts[i] = s.Data[start:s.Pos:s.Pos]
		if c := s.Peek(); c != ',' && i < len(parts)-1 || c != ']' && i == len(parts)-1 {
			return false
		}
	}
	s.Pos++
	return true
}

// AppendRequest implements [Protocol].
func (aiomas) AppendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error) {
	if id == nil {
		return dst, unsentf(CodeInvalidRequest, "a request needs an ID")
	}
	positional, named := params, any(nil)
	switch p := params.(type) {
	case Mixed:
		positional, named = p.Args, p.Named
	case Params: // the params of a forwarded request
		positional, named = p.Positional, p.Named
	}
	out := append(append(append(dst, "[0,"...), id...), ",["...)
	out = append(jsonscan.AppendString(out, method), ',')
	start := len(out)
	out, err := appendCodec(out, c, positional)
	if err != nil {
		return dst, err
	}
	switch {
	case out[start] == 'n':
		out = append(out[:start], "[],"...)
	case out[start] == '[':
		out = append(out, ',')
	case out[start] == '{' && named == nil:
		out = append(slices.Insert(out, start, '[', ']', ','), "]]"...)
		return out, nil
	default:
		return dst, illTypedParams(params)
	}
	start = len(out)
	if out, err = appendCodec(out, c, named); err != nil {
		return dst, err
	}
	switch out[start] {
	case 'n':
		out = append(out[:start], "{}"...)
	case '{':
	default:
		return dst, unsentf(CodeInvalidParams, "named arguments must be a dictionary")
	}
	return append(out, "]]"...), nil
}

// AppendNotification implements [Protocol].
func (aiomas) AppendNotification(dst []byte, _ string, _ any, _ Codec) ([]byte, error) {
	return dst, unsentf(CodeInvalidRequest, "protocol does not permit notifications")
}

// AppendResult implements [Protocol].
func (aiomas) AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error) {
	out := append(appendID(append(dst, "[1,"...), id), ',')
	out, err := appendCodec(out, c, result)
	if err != nil {
		return dst, err
	}
	return append(out, ']'), nil
}

// AppendError implements [Protocol].
func (aiomas) AppendError(dst []byte, id ID, e *Error, _ Codec) ([]byte, error) {
	out := append(appendID(append(dst, "[2,"...), id), ',')
	return append(jsonscan.AppendString(out, Traceback(e)), ']'), nil
}

// AppendBatch implements [Protocol].
func (aiomas) AppendBatch(dst []byte, _ [][]byte) ([]byte, error) {
	return dst, unsentf(CodeInvalidRequest, "protocol does not permit batches")
}

// Codec returns [JSON] with exact whole numbers. In destinations of any value, a whole
// number becomes int64, or json.Number outside the range of int64.
func (aiomas) Codec() Codec { return wholeNumbers{} }

type wholeNumbers struct{ jsonCodec }

// Unmarshal implements [Codec].
func (wholeNumbers) Unmarshal(data []byte, v any) error {
	return unmarshalForm(data, v, integerNumbers)
}

// convertNumber implements [numberCodec].
func (wholeNumbers) convertNumber(n json.Number) (any, error) { return integerOrFloat(n), nil }

// integerOrFloat returns an int64 for a whole number, and a float64 for a number with a
// fraction or an exponent. For a number out of range, integerOrFloat returns n.
func integerOrFloat(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	if f, err := n.Float64(); err == nil && strings.ContainsAny(string(n), ".eE") {
		return f
	}
	return n
}

// Exception implements [ServiceProtocol]. The peer gets the text of err.
func (aiomas) Exception(err error) *Error {
	return &Error{Code: CodeInternalError, Message: err.Error()}
}

// tracebackStart is the first line of every traceback.
const tracebackStart = "Traceback (most recent call last):\n"

// Traceback returns the text that [Aiomas] sends for e.
func Traceback(e *Error) string {
	class := ""
	switch e.Code {
	case CodeMethodNotFound:
		class = "LookupError: "
	case CodeInvalidParams:
		class = "TypeError: "
	}
	return tracebackStart + class + e.Message + "\n"
}

// TracebackError returns the error that [Aiomas] makes of a received traceback. Its
// message is the text after the stack, whose lines are indented.
func TracebackError(traceback string) *Error {
	lines := strings.Split(strings.TrimRight(strings.TrimPrefix(traceback, tracebackStart), "\n"), "\n")
	for i, line := range slices.Backward(lines) {
		if strings.HasPrefix(line, " ") && i+1 < len(lines) {
			lines = lines[i+1:]
			break
		}
	}
	return &Error{Code: CodeUnavailable, Message: strings.Join(lines, "\n"), Data: traceback}
}

// Plain messages of the nodes of Bitcoin and related networks have this form on the wire,
// with all numbers little-endian:
//
//	magic      4 bytes, the number of the network
//	command   12 bytes, padded with NULs
//	length     4 bytes, of the payload
//	checksum   4 bytes, the first of SHA-256(SHA-256(payload))
//	payload
//
// Between framer and protocol, a message has no magic, but has room for length and
// checksum. So a received message is passed on without a copy. Only the framer reads and
// writes length and checksum.
const (
	bitcoinMagic   = 4
	bitcoinCommand = 12
	bitcoinHead    = bitcoinCommand + 4 + 4 // size of a message before its payload
	bitcoinHeader  = bitcoinMagic + bitcoinHead

	defaultMaxPayload = 2_000_000
	defaultMaxBlock   = 128_000_000
)

// BitcoinMainnet, BitcoinTestnet and BitcoinCash are magics for [BitcoinFramer]. The
// default of aiorpcX is BitcoinCash.
var (
	BitcoinMainnet = [4]byte{0xf9, 0xbe, 0xb4, 0xd9}
	BitcoinTestnet = [4]byte{0x0b, 0x11, 0x09, 0x07} // the third test network
	BitcoinCash    = [4]byte{0xe3, 0xe1, 0xf3, 0xe8}
)

// BitcoinFramer frames messages as the nodes of Bitcoin do. Its only protocol in this
// package is [BitcoinProtocol]. Sizes, costs, and the errors that end a session are as in
// aiorpcX.
//
// BitcoinFramer reports each violation as a [*FrameError]. A magic of another network
// ends the session, at a cost of 1000. A payload over the limit ends the session, at a
// cost of 500. A message with a wrong checksum is dropped, at a cost of 100.
type BitcoinFramer struct {
	// Magic is the beginning of every message. There is no default: four zeros are a
	// magic too.
	Magic [4]byte
	// MaxPayload is the size of the largest payload to be received or sent, in bytes. 0
	// means 2,000,000. A negative value means the maximum of a 32-bit length.
	MaxPayload int
	// MaxBlock is the limit for the command "block", in bytes, if larger than the limit
	// of MaxPayload. 0 means 128,000,000.
	MaxBlock int
}

// NewSplitter implements [Framer]. After an error, the splitter can continue. After a
// wrong checksum, it continues at the next message. After any different error, it
// continues behind the header, most likely out of step.
func (f BitcoinFramer) NewSplitter() bufio.SplitFunc {
	return func(data []byte, _ bool) (int, []byte, error) {
		if len(data) < bitcoinHeader {
			return 0, nil, nil
		}
		if [bitcoinMagic]byte(data) != f.Magic {
			return bitcoinHeader, nil, &FrameError{
				Message: fmt.Sprintf("bad magic %x, want %x", data[:bitcoinMagic], f.Magic),
				Cost:    1000,
			}
		}
		command := bitcoinCommandName(data[bitcoinMagic:])
		length := binary.LittleEndian.Uint32(data[bitcoinMagic+bitcoinCommand:])
		limit, field := f.payloadLimit(command)
		if uint64(length) > uint64(limit) {
			return bitcoinHeader, nil, &FrameError{
				Message:  fmt.Sprintf("a payload of %d bytes for %q, %s", length, command, overLimitText(limit, "bytes", field)),
				Cost:     500,
				TooLarge: &SizeError{Size: int(min(uint64(length), math.MaxInt)), Limit: limit, Field: field},
			}
		}
		size := int(length)
		if len(data)-bitcoinHeader < size {
			return 0, nil, nil // the payload is incomplete, and not read yet
		}
		end := bitcoinHeader + size
		actual, claimed := bitcoinChecksum(data[bitcoinHeader:end]), data[bitcoinHeader-4:bitcoinHeader]
		if !bytes.Equal(actual[:], claimed) {
			return end, nil, &FrameError{
				Message:     fmt.Sprintf("checksum mismatch in %q: %x, claimed %x", command, actual, claimed),
				Recoverable: true,
				Cost:        100,
			}
		}
		return end, data[bitcoinMagic:end:end], nil
	}
}

// payloadLimit returns the size of the largest payload of command, and the field that
// sets this limit.
func (f BitcoinFramer) payloadLimit(command []byte) (limit int, field string) {
	limit, field = bounded.LimitOr(f.MaxPayload, defaultMaxPayload), "BitcoinFramer.MaxPayload"
	if string(command) == "block" {
		if block := bounded.LimitOr(f.MaxBlock, defaultMaxBlock); block > limit {
			return block, "BitcoinFramer.MaxBlock"
		}
	}
	return limit, field
}

// MaxMessage implements [SizeLimiter], with the limit of the command "block". AppendFrame
// applies the limit of each command.
func (f BitcoinFramer) MaxMessage() int {
	limit, _ := f.payloadLimit([]byte("block"))
	return bitcoinHead + min(limit, math.MaxInt-bitcoinHead)
}

// MaxMessageField returns the name of the field that sets the limit of MaxMessage.
func (f BitcoinFramer) MaxMessageField() string {
	_, field := f.payloadLimit([]byte("block"))
	return field
}

// checkSize returns an error if the payload of msg is over the limit of its command.
func (f BitcoinFramer) checkSize(msg []byte) error {
	size := len(msg) - bitcoinHead
	if limit, field := f.payloadLimit(bitcoinCommandName(msg)); size > limit {
		return &SizeError{Size: size, Limit: limit, Field: field}
	}
	return nil
}

// AppendFrame implements [Framer]. AppendFrame fails for a msg of under 20 bytes,
// which cannot be a message of [BitcoinProtocol], and for a payload of 4 GiB or more. For
// a payload over the limit, AppendFrame fails with a [*SizeError]: a peer with the same
// limits would end the session.
func (f BitcoinFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	if len(msg) < bitcoinHead {
		return dst, errors.New("rpcx: a message without a command cannot be framed by BitcoinFramer")
	}
	payload := msg[bitcoinHead:]
	if err := f.checkSize(msg); err != nil {
		return dst, err
	}
	if uint64(len(payload)) > math.MaxUint32 {
		return dst, errors.New("rpcx: a payload of 4 GiB or more cannot be framed by BitcoinFramer")
	}
	checksum := bitcoinChecksum(payload)
	dst = append(append(dst, f.Magic[:]...), msg[:bitcoinCommand]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	return append(append(dst, checksum[:]...), payload...), nil
}

func bitcoinChecksum(payload []byte) [4]byte {
	first := sha256.Sum256(payload)
	second := sha256.Sum256(first[:])
	return [4]byte(second[:])
}

// bitcoinCommandName returns the command at the beginning of msg.
func bitcoinCommandName(msg []byte) []byte { return bytes.TrimRight(msg[:bitcoinCommand], "\x00") }

// BitcoinProtocol reads each plain message as a notification, and needs a
// [BitcoinFramer]. Method is the command, without its padding of NULs. Params.Raw is the
// payload; an empty payload is not nil.
//
// [Session.Notify] sends a message. The params are the payload: a []byte, which may be
// nil, or the [Params] of a forwarded message. If Options.Codec is set, the params may be
// any value of that codec. A command has at most 12 bytes. The protocol has no answers.
// So calls, results, errors and batches fail with a [*ProtocolError].
var BitcoinProtocol Protocol = bitcoin{}

type bitcoin struct{}

// Decode implements [Protocol].
func (bitcoin) Decode(m *Message, msg []byte, _ int) {
	if len(msg) < bitcoinHead {
		m.setInvalid(CodeInvalidRequest, fmt.Sprintf("a message of %d bytes has no command", len(msg)))
		return
	}
	*m.Single() = Item{
		Kind:   KindNotification,
		Method: string(bitcoinCommandName(msg)),
		Params: Params{Raw: msg[bitcoinHead:len(msg):len(msg)], codec: payloadCodec{}},
	}
}

func (bitcoin) AppendNotification(dst []byte, method string, params any, c Codec) ([]byte, error) {
	if len(method) > bitcoinCommand {
		return dst, unsentf(CodeInvalidRequest, "a command of %d bytes, over %d, is too long", len(method), bitcoinCommand)
	}
	if p, ok := params.(Params); ok && p.Positional == nil && p.Named == nil {
		params = p.Raw
	}
	if c == nil {
		c = payloadCodec{}
	}
	var head [bitcoinHead]byte
	copy(head[:], method)
	out := append(dst, head[:]...)
	if params == nil {
		return out, nil
	}
	out, err := c.Append(out, params)
	if err != nil {
		return dst, unsentf(CodeInvalidParams, "payload encoding error: %v", err)
	}
	return out, nil
}

func (bitcoin) AppendRequest(dst []byte, _ ID, _ string, _ any, _ Codec) ([]byte, error) {
	return dst, notPlain("calls")
}

func (bitcoin) AppendResult(dst []byte, _ ID, _ any, _ Codec) ([]byte, error) {
	return dst, notPlain("results")
}

func (bitcoin) AppendError(dst []byte, _ ID, _ *Error, _ Codec) ([]byte, error) {
	return dst, notPlain("errors")
}

func (bitcoin) AppendBatch(dst []byte, _ [][]byte) ([]byte, error) {
	return dst, notPlain("batches")
}

func notPlain(what string) error {
	return protocolErrorf(CodeInvalidRequest, "BitcoinProtocol has no %s, only notifications", what)
}

// Codec returns a codec that copies a []byte unchanged, and decodes into a *[]byte.
func (bitcoin) Codec() Codec { return payloadCodec{} }

// payloadCodec is the codec of opaque payloads.
type payloadCodec struct{}

func (payloadCodec) Append(dst []byte, v any) ([]byte, error) {
	payload, ok := v.([]byte)
	if !ok {
		return dst, fmt.Errorf("a payload is a []byte, not %T", v)
	}
	return append(dst, payload...), nil
}

func (payloadCodec) Unmarshal(data []byte, v any) error {
	payload, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a payload is decoded into a *[]byte, not %T", v)
	}
	*payload = bytes.Clone(data)
	return nil
}
