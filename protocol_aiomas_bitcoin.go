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

	"example.com/rpcx/internal/jsonscan"
)

// Aiomas is the protocol of aiomas.rpc with its JSON codec; it goes together with
// a [LengthFramer]. A message is [type, id, content]: a request has type 0 and the
// content [path, args, kwargs], a result type 1, an exception type 2 and a traceback.
//
// An error is sent as a traceback without stack: its text, whatever the error
// is, behind "LookupError: " or "TypeError: " if its code is [CodeMethodNotFound]
// or [CodeInvalidParams]. An exception that is received is an [*Error] with
// [CodeUnavailable], the last lines as its message, and the whole traceback, a
// string, as its Data.
//
// Where any value is expected, whole numbers are decoded to int64.
//
// There are neither notifications nor batches. As in aiomas, a message that is not
// of this form ends the session. Other than there, a request whose content is not
// is answered with an exception.
var Aiomas ServiceProtocol = aiomas{}

type aiomas struct{}

// The types of messages.
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

// decodeAiomasRequest makes item of the content of a request.
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

// scanArray scans an array of just as many elements as parts has.
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
	case Params: // those of a request that is passed on
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

// Codec returns [JSON], save that where any value is expected whole numbers become
// int64 (json.Number beyond that), so that they are not rounded.
func (aiomas) Codec() Codec { return wholeNumbers{} }

type wholeNumbers struct{ jsonCodec }

// Unmarshal implements [Codec].
func (wholeNumbers) Unmarshal(data []byte, v any) error {
	return unmarshalForm(data, v, integerNumbers)
}

// convertNumber implements [numberCodec].
func (wholeNumbers) convertNumber(n json.Number) (any, error) { return integerOrFloat(n), nil }

// integerOrFloat returns an int64 if n is a whole number, a float64 if n has a
// fraction or an exponent, and n itself beyond their ranges.
func integerOrFloat(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	if f, err := n.Float64(); err == nil && strings.ContainsAny(string(n), ".eE") {
		return f
	}
	return n
}

// Exception implements [ServiceProtocol]: the text of err is sent.
func (aiomas) Exception(err error) *Error {
	return &Error{Code: CodeInternalError, Message: err.Error()}
}

// tracebackStart is the first line of every traceback.
const tracebackStart = "Traceback (most recent call last):\n"

// Traceback returns the text as which [Aiomas] sends e.
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

// TracebackError returns the error that [Aiomas] makes of a traceback: the message
// is what stands behind the stack, whose lines are indented.
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

// Plain messages as the nodes of Bitcoin and its relatives exchange them. On the
// wire one is, with all numbers little-endian:
//
//	magic      4 bytes, which say what network it is of
//	command   12 bytes, filled up with NULs
//	length     4 bytes, of the payload
//	checksum   4 bytes, the first of SHA-256(SHA-256(payload))
//	payload
//
// Between framer and protocol it goes without the magic, but with places for
// length and checksum: so what has come in is passed on without a copy. Only the
// framer looks at these two, and fills them in.
const (
	bitcoinMagic   = 4
	bitcoinCommand = 12
	bitcoinHead    = bitcoinCommand + 4 + 4 // what is before the payload of a message
	bitcoinHeader  = bitcoinMagic + bitcoinHead

	defaultMaxPayload = 2_000_000
	defaultMaxBlock   = 128_000_000
)

// The magics of some networks, for [BitcoinFramer]. The original's default is
// that of Bitcoin Cash.
var (
	BitcoinMainnet = [4]byte{0xf9, 0xbe, 0xb4, 0xd9}
	BitcoinTestnet = [4]byte{0x0b, 0x11, 0x09, 0x07} // the third
	BitcoinCash    = [4]byte{0xe3, 0xe1, 0xf3, 0xe8}
)

// BitcoinFramer frames messages as the nodes of Bitcoin do. It goes with
// [BitcoinProtocol], and with no other protocol of this package. Sizes, costs,
// and what ends a session, are as in aiorpcX.
//
// Its errors are [*FrameError]s. A magic of another network and a payload over
// the limit end the session, at a cost of 1000 and 500; a message with a wrong
// checksum is dropped, at a cost of 100.
type BitcoinFramer struct {
	// Magic is what every message begins with. It has no default: four zeros are
	// a magic too.
	Magic [4]byte
	// MaxPayload is the size of the largest payload to be received or sent, in
	// bytes; 0 means 2,000,000, a negative value no limit but that of the length's
	// 32 bits.
	MaxPayload int
	// MaxBlock is the same for the command "block", where it allows more than
	// MaxPayload does; 0 means 128,000,000.
	MaxBlock int
}

// NewSplitter implements [Framer]. Called again after an error, the splitter
// goes on: after a wrong checksum behind the message, else behind its header,
// and then hardly in step.
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
			return 0, nil, nil // what is there of the payload is not looked at yet
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

// payloadLimit returns the size of the largest payload for command, and the field that sets it.
func (f BitcoinFramer) payloadLimit(command []byte) (limit int, field string) {
	limit, field = limitOr(f.MaxPayload, defaultMaxPayload), "BitcoinFramer.MaxPayload"
	if string(command) == "block" {
		if block := limitOr(f.MaxBlock, defaultMaxBlock); block > limit {
			return block, "BitcoinFramer.MaxBlock"
		}
	}
	return limit, field
}

// MaxMessage implements [SizeLimiter], with the limit of the command "block".
// AppendFrame has that of each command.
func (f BitcoinFramer) MaxMessage() int {
	limit, _ := f.payloadLimit([]byte("block"))
	return bitcoinHead + min(limit, math.MaxInt-bitcoinHead)
}

// MaxMessageField returns the name of the field that sets the limit.
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

// AppendFrame implements [Framer]. It fails for what cannot be a message of
// [BitcoinProtocol], and with a [*SizeError] for a payload over the limit, which a
// peer with the same limits would end the session for.
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

// bitcoinCommandName returns the command that msg begins with.
func bitcoinCommandName(msg []byte) []byte { return bytes.TrimRight(msg[:bitcoinCommand], "\x00") }

// BitcoinProtocol makes a notification of each plain message, to be framed by a
// [BitcoinFramer]: Method is the command, without the NULs that fill it up, and
// Params.Raw the payload, empty and not nil if there is none.
//
// To send one is [Session.Notify]. The params are the payload, a []byte that
// may be nil; or the [Params] of a message that is passed on; or, if
// Options.Codec is set, what that encodes. A command has at most 12 bytes.
// There are no answers, so all else is a [*ProtocolError]: calls, results,
// errors, batches.
var BitcoinProtocol Protocol = bitcoin{}

type bitcoin struct{}

// Decode interprets a message; see [Protocol].
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

// Codec returns a codec that takes a []byte as it is, and decodes into one.
func (bitcoin) Codec() Codec { return payloadCodec{} }

// payloadCodec is the codec of payloads that are bytes, and mean nothing here.
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
