package conformance

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"example.com/rpcx"
)

// packed is a wire that has nothing to do with JSON: a protocol and a codec of
// binary messages. A message is its kind, its id, and then
//
//	'q'  request       method, params
//	'n'  notification  (without an id) method, params
//	'r'  result        value
//	'e'  error         code, message, data
//	'b'  batch         (without an id) messages
//
// where each part has its length before it.
type packed struct{}

func part(dst, data []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(data))), data...)
}

var errPacked = &rpcx.ProtocolError{Code: rpcx.CodeParseError, Message: "not packed"}

// unpart takes one part off data.
func unpart(data []byte) (first, rest []byte, err error) {
	size, n := binary.Uvarint(data)
	if n <= 0 || size > uint64(len(data)-n) {
		return nil, nil, errPacked
	}
	return data[n : n+int(size) : n+int(size)], data[n+int(size):], nil
}

func parts(data []byte) (all [][]byte, err error) {
	for len(data) > 0 && err == nil {
		var first []byte
		if first, data, err = unpart(data); err == nil {
			all = append(all, first)
		}
	}
	return all, err
}

func (packed) Decode(m *rpcx.Message, msg []byte, maxBatch int) {
	m.Batch, m.Items = false, m.Items[:0]
	if len(msg) == 0 || msg[0] != 'b' {
		m.Items = append(m.Items, unpack(msg))
		return
	}
	members, err := parts(msg[1:])
	switch {
	case err != nil || len(members) == 0:
		m.Items = append(m.Items, rpcx.Item{Err: errPacked})
	case maxBatch > 0 && len(members) > maxBatch:
		m.Items = append(m.Items, rpcx.Item{Err: &rpcx.ProtocolError{Code: rpcx.CodeInvalidRequest, Message: "batch too long"}})
	default:
		m.Batch = true
		for _, member := range members {
			m.Items = append(m.Items, unpack(member))
		}
	}
}

func unpack(msg []byte) rpcx.Item {
	if len(msg) == 0 {
		return rpcx.Item{Err: errPacked}
	}
	p, err := parts(msg[1:])
	switch {
	case err != nil:
	case msg[0] == 'q' && len(p) == 3:
		return rpcx.Item{Kind: rpcx.KindRequest, ID: p[0], Method: string(p[1]), Params: rpcx.Params{Positional: p[2]}}
	case msg[0] == 'n' && len(p) == 2:
		return rpcx.Item{Kind: rpcx.KindNotification, Method: string(p[0]), Params: rpcx.Params{Positional: p[1]}}
	case msg[0] == 'r' && len(p) == 2:
		return rpcx.Item{Kind: rpcx.KindResponse, ID: p[0], Result: p[1]}
	case msg[0] == 'e' && len(p) == 4:
		code, _ := binary.Varint(p[1])
		return rpcx.Item{Kind: rpcx.KindResponse, ID: p[0], Err: &rpcx.Error{Code: int(code), Message: string(p[2]), Data: json.RawMessage(string(p[3]))}}
	}
	return rpcx.Item{Err: errPacked}
}

func (packed) AppendRequest(dst []byte, id rpcx.ID, method string, params any, c rpcx.Codec) ([]byte, error) {
	encoded, err := c.Append(nil, params)
	if err != nil {
		return dst, err
	}
	return part(part(part(append(dst, 'q'), id), []byte(method)), encoded), nil
}

func (packed) AppendNotification(dst []byte, method string, params any, c rpcx.Codec) ([]byte, error) {
	encoded, err := c.Append(nil, params)
	if err != nil {
		return dst, err
	}
	return part(part(append(dst, 'n'), []byte(method)), encoded), nil
}

func (packed) AppendResult(dst []byte, id rpcx.ID, result any, c rpcx.Codec) ([]byte, error) {
	encoded, err := c.Append(nil, result)
	if err != nil {
		return dst, err
	}
	return part(part(append(dst, 'r'), id), encoded), nil
}

func (packed) AppendError(dst []byte, id rpcx.ID, e *rpcx.Error, c rpcx.Codec) ([]byte, error) {
	encoded, err := c.Append(nil, e.Data)
	if err != nil {
		return dst, err
	}
	return part(part(part(part(append(dst, 'e'), id), binary.AppendVarint(nil, int64(e.Code))), []byte(e.Message)), encoded), nil
}

func (packed) AppendBatch(dst []byte, messages [][]byte) ([]byte, error) {
	if len(messages) == 0 {
		return dst, errors.New("an empty batch")
	}
	dst = append(dst, 'b')
	for _, msg := range messages {
		dst = part(dst, msg)
	}
	return dst, nil
}

func (packed) Codec() rpcx.Codec { return packedCodec{} }

// packedCodec encodes nil as 0, a number as 1, a text as 2, and a list as 3.
type packedCodec struct{}

func (c packedCodec) Append(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, 0), nil
	case int:
		return binary.AppendVarint(append(dst, 1), int64(v)), nil
	case string:
		return append(append(dst, 2), v...), nil
	case rpcx.Args:
		out := append(dst, 3)
		for _, element := range v {
			encoded, err := c.Append(nil, element)
			if err != nil {
				return dst, err
			}
			out = part(out, encoded)
		}
		return out, nil
	}
	return dst, fmt.Errorf("a %T cannot be packed", v)
}

func (c packedCodec) Unmarshal(data []byte, v any) error {
	if len(data) == 0 {
		return errPacked
	}
	switch kind, rest := data[0], data[1:]; target := v.(type) {
	case *int:
		n, size := binary.Varint(rest)
		if kind != 1 || size != len(rest) {
			return errPacked
		}
		*target = int(n)
		return nil
	case *string:
		if kind != 2 {
			return errPacked
		}
		*target = string(rest)
		return nil
	case *[]string:
		elements, err := parts(rest)
		if err != nil || kind != 3 {
			return errPacked
		}
		*target = make([]string, len(elements))
		for i, element := range elements {
			if err := c.Unmarshal(element, &(*target)[i]); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("nothing unpacks into a %T", v)
}
