package rpcx

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// bitcoinEvent is what a reader gets: a message, or an error with its details.
type bitcoinEvent struct {
	Command, Payload *vectorBytes

	Error           string
	Cost            float64
	Got, Expected   string // of bad_magic
	Actual, Claimed string // of bad_checksum
	Length          uint32 `json:"payload_len"` // of oversized, with Command
}

func (c framingCase) bitcoinFramer(t *testing.T) BitcoinFramer {
	t.Helper()
	magic, err := hex.DecodeString(c.Magic)
	if err != nil || len(magic) != bitcoinMagic {
		t.Fatalf("magic %q", c.Magic)
	}
	return BitcoinFramer{Magic: [4]byte(magic), MaxPayload: c.MaxPayload, MaxBlock: c.MaxBlock}
}

func (c framingCase) testBitcoinFrame(t *testing.T) {
	var expect struct {
		Framed  vectorBytes
		Error   string
		Message string `json:"message_suffix"`
	}
	if err := json.Unmarshal(c.Expect, &expect); err != nil {
		t.Fatal(err)
	}
	msg, err := BitcoinProtocol.AppendNotification(nil, string(c.Command), []byte(c.Payload), nil)
	if expect.Error != "" {
		var perr *ProtocolError
		if !errors.As(err, &perr) || !strings.HasSuffix(perr.Message, expect.Message) {
			t.Errorf("the error is %v, want one that ends with %q", err, expect.Message)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.bitcoinFramer(t).AppendFrame([]byte("before"), msg)
	if want := "before" + string(expect.Framed); err != nil || string(got) != want {
		t.Errorf("got %x %v, want %x", got, err, want)
	}
}

func (c framingCase) testBitcoinParse(t *testing.T) {
	var expect []bitcoinEvent
	if err := json.Unmarshal(c.Expect, &expect); err != nil {
		t.Fatal(err)
	}
	chunks := make([][]byte, len(c.Chunks))
	for i, chunk := range c.Chunks {
		chunks[i] = chunk
	}
	got := arrive(t, c.bitcoinFramer(t), chunks)
	for i := range max(len(got), len(expect)) {
		switch {
		case i >= len(expect):
			t.Errorf("event %d is %v, want none", i, got[i])
		case i >= len(got):
			t.Errorf("there is no event %d, want %+v", i, expect[i])
		case expect[i].Error == "":
			if want := fmt.Sprintf("%q %q", *expect[i].Command, *expect[i].Payload); got[i].err != nil || got[i].String() != want {
				t.Errorf("event %d is %v, want %.100s", i, got[i], want)
			}
		default:
			expect[i].compare(t, i, got[i].err)
		}
	}
}

// compare checks an error: its kind, its cost, and that it tells the details.
func (e bitcoinEvent) compare(t *testing.T, i int, got *FrameError) {
	t.Helper()
	want := FrameError{Cost: e.Cost, Recoverable: e.Error == "bad_checksum"}
	var details []string
	switch e.Error {
	case "bad_magic":
		details = []string{"magic", e.Got, e.Expected}
	case "bad_checksum":
		details = []string{"checksum", e.Actual, e.Claimed}
	case "oversized":
		details = []string{fmt.Sprintf("%d bytes", e.Length), fmt.Sprintf("%q", *e.Command)}
	default:
		t.Fatalf("unknown error %q", e.Error)
	}
	if got == nil || got.Cost != want.Cost || got.Recoverable != want.Recoverable {
		t.Errorf("event %d is %+v, want %s at a cost of %v", i, got, e.Error, e.Cost)
		return
	}
	for _, detail := range details {
		if !strings.Contains(got.Message, detail) {
			t.Errorf("event %d: %q does not tell %s", i, got.Message, detail)
		}
	}
}
