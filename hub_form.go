package rpcx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"example.com/rpcx/internal/jsonscan"
)

// hubForm is the form of the notifications to one subscriber: everything but the value. In
// the usual case a notification is the value between two texts that do not change.
type hubForm struct {
	correlation *Correlation
	method      string
	protocol    Protocol
	codec       Codec
	raw         reflect.Type // of the codec's raw values; nil for JSON
	comparable  bool         // the codec can be compared with other codecs
	args        []any        // without Correlation.ID, the params before the value; raw values
	id          []byte       // with Correlation.ID, encoded by the codec

	// spliced is set if prefix, value and suffix make the notification. If the value is the
	// whole params, the value loses its braces, and prefix ends with the members of the
	// form.
	spliced        bool
	prefix, suffix []byte
}

// maxSubscriptionID is the maximum size of the id of a subscription, and of a topic's name.
const maxSubscriptionID = 4 << 10

// checkForHub returns why c is no form for a Hub, or nil.
func (c *Correlation) checkForHub() error {
	if err := c.check("the Correlation"); err != nil {
		return fmt.Errorf("rpcx: Hub: %w", err)
	}
	n := min(len(c.ID), len(c.Value))
	if n > 0 && slices.Equal(c.ID[:n], c.Value[:n]) {
		return errors.New("rpcx: Hub: the Correlation has ID and Value at one place: the value would replace the id")
	}
	return nil
}

// newHubForm returns the form of notifications to s, by c, for the subscribing request
// req, and the id for the peer.
func newHubForm(s *Session, req *Request, c *Correlation, id any) (f *hubForm, shown any, err error) {
	f = &hubForm{correlation: c, method: c.methodsOf(req.Method)[0], protocol: s.Protocol(), codec: s.codec, raw: rawType(s.codec)}
	f.comparable = reflect.ValueOf(f.codec).Comparable()
	encoded, err := f.encodeID(c, req, id)
	if err != nil {
		return nil, nil, err
	}
	if len(encoded) > maxSubscriptionID {
		return nil, nil, InvalidParams("the id of a subscription is too long: over %s bytes", thousands(maxSubscriptionID))
	}
	if f.id = encoded; c.isByParams() {
		p := Params{Positional: encoded, codec: s.codec}
		list, _, err := p.splitArguments()
		if err != nil {
			return nil, nil, err
		}
		for arg, ok := list.nextElement(); ok; arg, ok = list.nextElement() {
			f.args = append(f.args, f.rawValue(arg))
		}
	}
	if id == nil {
		id = f.rawValue(encoded)
	}
	err = f.splice()
	if refused, ok := errors.AsType[*ProtocolError](err); ok { // of the session, which the peer knows
		err = InvalidRequest("no notification of this subscription can be sent: %s", refused.Message)
	}
	return f, id, err
}

// encodeID returns the encoded id of the subscription.
func (f *hubForm) encodeID(c *Correlation, req *Request, id any) ([]byte, error) {
	switch {
	case id != nil:
		encoded, err := f.encode(nil, id)
		if err == nil && c.isByParams() && f.raw == nil && encoded[0] != '[' {
			err = errors.New("without Correlation.ID, the id must encode to an array: write rpcx.Args{…}, or nil for the params of the request")
		}
		return encoded, err
	case c.CallID:
		return bytes.Clone(req.ID), nil
	}
	encoded, err := idInRequest(c, req)
	return bytes.Clone(encoded), err
}

// idInRequest returns the id of a subscription in the subscribing or unsubscribing request.
// The result shares memory with req.
func idInRequest(c *Correlation, req *Request) ([]byte, error) {
	p := &req.Params
	switch {
	case len(c.Token) > 0:
		token := memberAt(p, c.Token)
		if m := req.session.requests.meta; token == nil && m != nil && len(c.Token) > 1 && c.Token[0] == m.Param { // no longer in the params
			token = findPath(req.Meta(c.Token[1]), c.Token[2:])
		}
		if token == nil || rawType(p.codec) == nil && !isStreamID(token) {
			return nil, InvalidParams("a subscription needs the param %s, a string or a number", strings.Join(c.Token, "."))
		}
		return token, nil
	case !c.isByParams():
		list, named, err := p.splitArguments()
		if err != nil {
			return nil, err
		}
		id, ok := list.nextElement()
		if !ok {
			_, id, ok = named.nextKeyValue()
		}
		switch {
		case !ok:
			return nil, InvalidParams("the id of the subscription is missing")
		case rawType(p.codec) == nil && !isStreamID(id):
			return nil, InvalidParams("the id of a subscription is a string or a number")
		}
		return id, nil
	case p.Named != nil:
		return nil, InvalidParams("a subscription whose params are its id needs positional params: send an array")
	case p.Positional != nil:
		return p.Positional, nil
	}
	return codecOr(p.codec).Append(nil, []any{})
}

// memberAt returns the value at path in named params, or nil.
func memberAt(p *Params, path []string) []byte {
	if rawType(p.codec) == nil {
		return findPath(p.Named, path)
	}
	at := Params{Named: p.Named, codec: p.codec}
	for _, name := range path {
		_, named, err := at.splitArguments()
		at.Named = nil
		for key, value, ok := named.nextKeyValue(); err == nil && ok; key, value, ok = named.nextKeyValue() {
			if jsonscan.EqualString(key, name) {
				at.Named = value
			}
		}
		if at.Named == nil {
			return nil
		}
	}
	return at.Named
}

// encode appends the encoding of v.
func (f *hubForm) encode(dst []byte, v any) ([]byte, error) {
	return appendValue(dst, f.codec, f.raw, v)
}

// appendValue appends the encoding of v by a codec. raw is the type of the codec's raw
// values, or nil for JSON.
func appendValue(dst []byte, c Codec, raw reflect.Type, v any) ([]byte, error) {
	if raw == nil {
		return appendCodec(dst, c, v)
	}
	return c.Append(dst, v)
}

// rawValue returns an encoded value as a value that the codec encodes unchanged.
func (f *hubForm) rawValue(encoded []byte) any {
	if f.raw == nil {
		return json.RawMessage(encoded)
	}
	return reflect.ValueOf(encoded).Convert(f.raw).Interface()
}

// isWhole reports whether the value is the params as a whole, with the id among its
// members.
func (f *hubForm) isWhole() bool { return !f.correlation.isByParams() && len(f.correlation.Value) == 0 }

// params returns the params of a notification with an encoded value at path.
func (f *hubForm) params(path []string, value []byte) (any, error) {
	c := f.correlation
	switch {
	case c.isByParams():
		return Args(append(slices.Clip(f.args), f.rawValue(value))), nil
	case f.raw != nil:
		object := make(map[string]any)
		if len(path) == 0 {
			if err := f.codec.Unmarshal(value, &object); err != nil {
				return nil, errNotObject
			}
			if object == nil {
				object = make(map[string]any)
			}
			setMember(object, c.ID, f.rawValue(f.id))
			return object, nil
		}
		setMember(object, c.ID, f.rawValue(f.id))
		setMember(object, path, f.rawValue(value))
		return object, nil
	case len(path) == 0:
		if jsonscan.IsNull(value) {
			value = []byte("{}")
		}
		if value[0] != '{' {
			return nil, errNotObject
		}
		object, err := setPath(value, c.ID, f.id)
		return json.RawMessage(object), err
	}
	object, err := setPath([]byte("{}"), c.ID, f.id)
	if err == nil {
		object, err = setPath(object, path, value)
	}
	return json.RawMessage(object), err
}

// check returns an error if an encoded value does not fit the form.
func (f *hubForm) check(value []byte) error {
	if f.isWhole() && f.raw == nil && value[0] != '{' && !jsonscan.IsNull(value) {
		return errNotObject
	}
	return nil
}

var errNotObject = errors.New("the notifications of a Correlation without Value take an object: a map or a struct")

// setMember sets the member of object at path, and makes the objects on the way.
func setMember(object map[string]any, path []string, value any) {
	for ; len(path) > 1; path = path[1:] {
		next, _ := object[path[0]].(map[string]any)
		if next == nil {
			next = make(map[string]any)
			object[path[0]] = next
		}
		object = next
	}
	object[path[0]] = value
}

// splice finds out whether all notifications consist of a prefix, the value and a suffix,
// by composing two notifications with values of different lengths.
func (f *hubForm) splice() error {
	first, err := f.spliceAt("rpcx value")
	if err != nil {
		return err
	}
	second, err := f.spliceAt("rpcx value " + strings.Repeat("x", 300))
	if err != nil {
		return err
	}
	f.spliced = first != nil && second != nil && bytes.Equal(first[0], second[0]) && bytes.Equal(first[1], second[1])
	if f.spliced {
		f.prefix, f.suffix = first[0], first[1]
	}
	return nil
}

// spliceAt composes a notification with the value text, and returns the parts before and
// after the value; nil if the value is not found, or found twice.
func (f *hubForm) spliceAt(text string) ([][]byte, error) {
	value, err := f.encode(nil, text)
	if err != nil {
		return nil, err
	}
	if f.isWhole() {
		if f.raw != nil {
			return nil, nil
		}
		value = slices.Concat([]byte(`{`), value, []byte(`:0}`))
	}
	msg, err := f.compose(nil, f.correlation.Value, value)
	if err != nil {
		return nil, err
	}
	if f.isWhole() {
		value = value[1 : len(value)-1]
	}
	parts := bytes.Split(msg, value)
	if len(parts) != 2 {
		return nil, nil
	}
	return parts, nil
}

// compose appends the notification with an encoded value at path.
func (f *hubForm) compose(dst []byte, path []string, value []byte) ([]byte, error) {
	params, err := f.params(path, value)
	if err != nil {
		return dst, err
	}
	return f.protocol.AppendNotification(dst, f.method, params, f.codec)
}

// size returns the approximate number of bytes of a notification with v, exactly if the
// notification is spliced.
func (f *hubForm) size(v *hubValue) int { return len(f.prefix) + len(v.encoded) + len(f.suffix) }

// appendNotification appends the notification with v.
func (f *hubForm) appendNotification(dst []byte, v *hubValue) ([]byte, error) {
	if v.isEnd {
		reason, err := f.encode(nil, trimPrefix(ErrSlowReader))
		if err != nil {
			return dst, err
		}
		return f.compose(dst, f.correlation.Error, reason)
	}
	value := v.encoded
	switch {
	case !f.spliced:
		return f.compose(dst, f.correlation.Value, value)
	case !f.isWhole():
		return append(append(append(dst, f.prefix...), value...), f.suffix...), nil
	}
	return f.appendWhole(dst, value)
}

// appendWhole appends the notification whose params are value, an object, with the id.
func (f *hubForm) appendWhole(dst, value []byte) ([]byte, error) {
	if jsonscan.IsNull(value) {
		value = []byte("{}")
	}
	if value[0] != '{' {
		return dst, errNotObject
	}
	if findPath(value, f.correlation.ID[:1]) != nil {
		return f.compose(dst, nil, value) // the id has to go into the member
	}
	// The sample of splice has a member before the id, which the empty value lacks.
	inner, suffix := value[1:len(value)-1], f.suffix
	if len(inner) == 0 {
		suffix = bytes.TrimPrefix(suffix, []byte(","))
	}
	return append(append(append(dst, f.prefix...), inner...), suffix...), nil
}

// subscriptionKey identifies a subscription in a session. id has the same text for equal
// ids.
type subscriptionKey struct{ method, id string }

// maxIDNesting is the maximum number of arrays and objects in an id that is compared as a
// JSON value. The time for more would grow with the square of their number.
const maxIDNesting = 32

// canonicalID returns a text that is the same for equal ids. Ids with over maxIDNesting
// arrays and objects are equal only if their bytes are.
func canonicalID(c Codec, id []byte) string {
	if rawType(c) == nil {
		if bytes.Count(id, []byte("["))+bytes.Count(id, []byte("{")) > maxIDNesting {
			return string(id)
		}
		return string(appendCanonical(nil, id))
	}
	var v any
	if err := c.Unmarshal(id, &v); err != nil {
		return string(id)
	}
	text, err := JSON.Append(nil, v)
	if err != nil {
		return string(id)
	}
	return string(text)
}
