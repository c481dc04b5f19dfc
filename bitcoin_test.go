package rpcx

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// arrival is what a session gets of a stream: a message, or an error.
type arrival struct {
	command string
	payload []byte
	err     *FrameError
}

func (a arrival) String() string {
	if a.err != nil {
		return fmt.Sprintf("%v (cost %v, recoverable %t)", a.err, a.err.Cost, a.err.Recoverable)
	}
	return fmt.Sprintf("%q %q", a.command, a.payload)
}

// arrive returns what arrives in chunks, one at each Read. After an error it reads on, even if a
// session would not.
func arrive(t *testing.T, f BitcoinFramer, chunks [][]byte) (all []arrival) {
	t.Helper()
	readers := make([]io.Reader, len(chunks))
	for i, chunk := range chunks {
		readers[i] = bytes.NewReader(chunk)
	}
	stream := newStream(readConn{Reader: io.MultiReader(readers...)}, f)
	for {
		msg, err := stream.next(true)
		var frame *FrameError
		switch {
		case errors.As(err, &frame):
			all = append(all, arrival{err: frame})
			continue
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return all
		case err != nil:
			t.Fatal(err)
		}
		var m Message
		BitcoinProtocol.Decode(&m, msg, 0)
		item := m.Items[0]
		if m.Batch || m.Len() != 1 || item.Kind != KindNotification || item.ID != nil || item.Params.Raw == nil {
			t.Fatalf("%x decodes to %+v", msg, m.Items)
		}
		all = append(all, arrival{command: item.Method, payload: bytes.Clone(item.Params.Raw)})
	}
}

// bitcoinFrame returns a message as it is on the wire.
func bitcoinFrame(t testing.TB, f BitcoinFramer, command string, payload []byte) []byte {
	t.Helper()
	msg, err := BitcoinProtocol.AppendNotification(nil, command, payload, nil)
	if err == nil {
		msg, err = f.AppendFrame(nil, msg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// Any chunking gives the same messages and errors, those that a look at the
// whole stream finds, and none that is over its limit.
func FuzzBitcoinFramer(f *testing.F) {
	f.Add([]byte("one|b two|"), []byte{0}, uint16(0), byte(0), 5, 5)
	f.Add([]byte("one|b a block|three"), []byte{23, 3}, uint16(24), byte(1), 5, 9)
	f.Add([]byte("|12345|123456"), []byte{}, uint16(16), byte(7), 5, 0)
	f.Add([]byte("a|b"), []byte{100, 0, 0}, uint16(2), byte(255), -1, -1)
	f.Fuzz(func(t *testing.T, payloads, cuts []byte, at uint16, damage byte, maxPayload, maxBlock int) {
		framer := BitcoinFramer{BitcoinMainnet, maxPayload, maxBlock}
		var stream []byte
		for payload := range bytes.SplitSeq(payloads, []byte("|")) {
			command := "tx"
			if bytes.HasPrefix(payload, []byte("b")) {
				command = "block"
			}
			stream = append(stream, bitcoinFrame(t, BitcoinFramer{framer.Magic, -1, -1}, command, payload)...)
		}
		stream[int(at)%len(stream)] ^= damage

		var chunks [][]byte
		for i, rest := 0, stream; len(rest) > 0; i++ {
			n := len(rest)
			if len(cuts) > 0 {
				n = min(n, int(cuts[i%len(cuts)])+1)
			}
			chunks, rest = append(chunks, rest[:n]), rest[n:]
		}
		got, want := arrive(t, framer, chunks), wholeBitcoin(framer, stream)
		if !slices.EqualFunc(got, want, func(a, b arrival) bool {
			if a.err == nil || b.err == nil {
				return a.err == b.err && a.String() == b.String()
			}
			return a.err.Cost == b.err.Cost && a.err.Recoverable == b.err.Recoverable
		}) {
			t.Errorf("%x in chunks of %v gives\n%v, want\n%v", stream, cuts, got, want)
		}
	})
}

// wholeBitcoin finds what is in a stream that is there as a whole.
func wholeBitcoin(f BitcoinFramer, stream []byte) (all []arrival) {
	for len(stream) >= 24 {
		header := stream[:24]
		stream = stream[24:]
		command := strings.TrimRight(string(header[4:16]), "\x00")
		size := int64(binary.LittleEndian.Uint32(header[16:20]))
		fits := func(limit int, byDefault int64) bool {
			return limit < 0 || limit == 0 && size <= byDefault || limit > 0 && size <= int64(limit)
		}
		switch {
		case string(header[:4]) != string(f.Magic[:]):
			all = append(all, arrival{err: &FrameError{Cost: 1000}})
			continue
		case !fits(f.MaxPayload, 2_000_000) && !(command == "block" && fits(f.MaxBlock, 128_000_000)):
			all = append(all, arrival{err: &FrameError{Cost: 500}})
			continue
		case int64(len(stream)) < size:
			return all
		}
		payload := stream[:size]
		stream = stream[size:]
		if sum := bitcoinChecksum(payload); string(sum[:]) != string(header[20:]) {
			all = append(all, arrival{err: &FrameError{Cost: 100, Recoverable: true}})
		} else {
			all = append(all, arrival{command: command, payload: payload})
		}
	}
	return all
}

// What has come in is a part of what was read.
func TestBitcoinMessagesAreNotCopied(t *testing.T) {
	stream := bitcoinFrame(t, BitcoinFramer{}, "block", make([]byte, 1000))
	split := BitcoinFramer{}.NewSplitter()
	var m Message
	var item *Item
	read := func() {
		_, msg, err := split(stream, false)
		if err != nil {
			t.Fatal(err)
		}
		BitcoinProtocol.Decode(&m, msg, 0)
		item = &m.Items[0]
	}
	read()
	if &item.Params.Raw[0] != &stream[bitcoinHeader] || len(item.Params.Raw) != 1000 || cap(item.Params.Raw) != 1000 {
		t.Error("the payload is not that of the stream")
	}
	if n := testing.AllocsPerRun(100, read); n > 1 {
		t.Errorf("a message takes %v allocations, want one for its command", n)
	}
}

func TestWhatIsNoPlainMessage(t *testing.T) {
	before := []byte("before")
	p := BitcoinProtocol
	for name, appendTo := range map[string]func() ([]byte, error){
		"a call":                    func() ([]byte, error) { return p.AppendRequest(before, ID("1"), "ping", nil, nil) },
		"a result":                  func() ([]byte, error) { return p.AppendResult(before, ID("1"), []byte("pong"), nil) },
		"an error":                  func() ([]byte, error) { return p.AppendError(before, nil, InternalError(), nil) },
		"a batch":                   func() ([]byte, error) { return p.AppendBatch(before, [][]byte{make([]byte, 20)}) },
		"a command of 13 bytes":     func() ([]byte, error) { return p.AppendNotification(before, "thirteen byte", nil, nil) },
		"a payload of text":         func() ([]byte, error) { return p.AppendNotification(before, "ping", "text", nil) },
		"arguments":                 func() ([]byte, error) { return p.AppendNotification(before, "ping", Args{1}, nil) },
		"the arguments of JSON-RPC": func() ([]byte, error) { return p.AppendNotification(before, "ping", Params{Named: []byte("{}")}, nil) },
	} {
		out, err := appendTo()
		var perr *ProtocolError
		if string(out) != "before" || !errors.As(err, &perr) {
			t.Errorf("%s gives %q, %v", name, out, err)
		}
	}
	for _, size := range []int{0, bitcoinHead - 1} {
		if out, err := (BitcoinFramer{}).AppendFrame(before, make([]byte, size)); string(out) != "before" || err == nil {
			t.Errorf("%d bytes are framed to %q, %v", size, out, err)
		}
		var m Message
		p.Decode(&m, make([]byte, size), 0)
		var perr *ProtocolError
		if m.Len() != 1 || m.Kind() != KindInvalid || !errors.As(m.Items[0].Err, &perr) {
			t.Errorf("%d bytes decode to %+v", size, m.Items)
		}
	}
}

func TestPayloads(t *testing.T) {
	const head = "ping\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	for name, c := range map[string]struct {
		params any
		codec  Codec
		want   string
	}{
		"bytes are a payload":             {[]byte("{\n\x00"), nil, "{\n\x00"},
		"so are none":                     {[]byte{}, nil, ""},
		"nil is an empty one":             {nil, nil, ""},
		"nil bytes are, too":              {[]byte(nil), nil, ""},
		"a payload can be passed on":      {Params{Raw: []byte("hi")}, nil, "hi"},
		"an empty one can be, too":        {Params{}, nil, ""},
		"a codec encodes what it can":     {Args{1}, JSON, "[1]"},
		"but nil is not for it to encode": {nil, JSON, ""},
	} {
		msg, err := BitcoinProtocol.AppendNotification([]byte("before"), "ping", c.params, c.codec)
		if want := "before" + head + c.want; err != nil || string(msg) != want {
			t.Errorf("%s: %q %v, want %q", name, msg, err, want)
		}
	}

	var m Message
	BitcoinProtocol.Decode(&m, []byte(head+"[1]"), 0)
	params := m.Items[0].Params
	var payload []byte
	if err := params.Bind(&payload); err != nil || string(payload) != "[1]" {
		t.Errorf("bound to bytes it is %q, %v", payload, err)
	}
	var list []int
	if err := params.Bind(&list); !errors.Is(err, ErrInvalidParams) {
		t.Errorf("bound to a list it is %v, %v", list, err)
	}
	params.codec = JSON
	if err := params.Bind(&list); err != nil || !slices.Equal(list, []int{1}) {
		t.Errorf("with a codec for it, it is %v, %v", list, err)
	}

	codec := BitcoinProtocol.Codec()
	if err := codec.Unmarshal([]byte("abc"), &payload); err != nil || string(payload) != "abc" {
		t.Errorf("decoded into bytes it is %q, %v", payload, err)
	}
	if err := codec.Unmarshal([]byte("abc"), &list); err == nil {
		t.Error("a payload was decoded into a list")
	}
}
