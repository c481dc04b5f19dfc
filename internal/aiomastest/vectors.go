// Package aiomastest runs the vectors about aiomas.rpc against a codec of aiomas. So the
// package of each codec can test its own codec.
package aiomastest

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// Wire is a codec of aiomas.
type Wire struct {
	Codec    string // the vectors' name of the codec; cases of another codec are skipped
	Protocol rpcx.Protocol
	// Decode decodes the body of a frame. Missing or extra bytes are an error.
	Decode func(body []byte) (any, error)
	// Result returns the body of a result with an encoded content.
	Result func(id int, content []byte) []byte
}

type vector struct {
	Name    string
	Op      string
	Codec   string
	Note    string
	Python  bool `json:"python_specific"`
	Request struct{ Path string }
	Steps   []struct {
		Send   []string
		Expect []frame
	}
	After string `json:"connection_after"`

	Calls         []vectorCall
	Sent          []frame          `json:"expect_sent"`
	PeerSends     []string         `json:"peer_sends"`
	PeerCloses    any              `json:"peer_closes"`
	Outcomes      []map[string]any `json:"expect_outcomes"`
	SentAfter     []frame          `json:"expect_sent_afterwards"`
	CallsAfter    []vectorCall     `json:"calls_after"`
	OutcomesAfter []map[string]any `json:"expect_outcomes_after"`
	ClientService string           `json:"client_service"`
	ResetCallback []string         `json:"connection_reset_callback"`

	Object      string
	Action      string
	Serializers []string `json:"serializers_in_order"`
	Value       any
	Expect      map[string]any
}

type vectorCall struct {
	Path   []string
	Args   []any
	Kwargs map[string]any
}

// skips is the list of rules for skipping cases.
var skips = []struct {
	reason  string
	applies func(w Wire, c *vector) bool
}{
	{"tested in the package of its codec", func(w Wire, c *vector) bool {
		return cmp.Or(c.Codec, "json") != w.Codec
	}},
	{"bytes have a form in Go's JSON: text in base64", func(w Wire, c *vector) bool {
		return c.Python && c.Codec == "json" && c.Request.Path == "bytes_result"
	}},
	{"a type error of Python's that the compiler finds in Go", func(_ Wire, c *vector) bool {
		return c.Op == "client_error" && c.Expect["raises"] == "ValueError"
	}},
	{"what is looked up by attribute in Python is not there in Go", func(_ Wire, c *vector) bool {
		return c.Op == "router" && c.Python
	}},
}

// Run runs the vectors in the folder RPCX_VECTORS, or in folder if RPCX_VECTORS is empty.
func Run(t *testing.T, folder string, w Wire) {
	data, err := os.ReadFile(filepath.Join(cmp.Or(os.Getenv("RPCX_VECTORS"), folder), "aiomas_wire.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []*vector }
	if err := decodeExactly(data, &file); err != nil || len(file.Cases) == 0 {
		t.Fatalf("%d cases, error %v", len(file.Cases), err)
	}
	trees := newTrees()
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			for _, rule := range skips {
				if rule.applies(w, c) {
					t.Skip(rule.reason)
				}
			}
			run := map[string]func(*testing.T){
				"serve":           func(t *testing.T) { w.runServeCase(t, c) },
				"call":            func(t *testing.T) { w.runCallCase(t, c) },
				"codec":           func(t *testing.T) { w.runCodecCase(t, c) },
				"router":          func(t *testing.T) { trees.runRouterCase(t, c) },
				"client_error":    func(t *testing.T) { w.runClientErrorCase(t, c) },
				"invalid_service": func(t *testing.T) { runInvalidServiceCase(t, c) },
			}[c.Op]
			if run == nil {
				t.Fatalf("an unknown kind of case: %q", c.Op)
			}
			synctest.Test(t, run)
		})
	}
}

// decodeMessages decodes the complete messages of a step.
func (w Wire) decodeMessages(t *testing.T, chunks []string) (messages []any) {
	stream, err := hex.DecodeString(strings.Join(chunks, ""))
	if err != nil {
		t.Fatal(err)
	}
	split := rpcx.LengthFramer{MaxSize: -1}.NewSplitter()
	for {
		n, body, err := split(stream, false)
		if n == 0 || err != nil {
			return messages
		}
		if v, err := w.decodeBody(body); err == nil {
			messages = append(messages, v)
		}
		stream = stream[n:]
	}
}

// runServeCase plays a client of the service.
func (w Wire) runServeCase(t *testing.T, c *vector) {
	s, far := w.connectSession(t, &rpcx.Options{Handler: newRoot().router})
	after := c.After
	asked := 0 // requests of the session, which the peer may answer
	for i, step := range c.Steps {
		expect := step.Expect
		for _, message := range w.decodeMessages(t, step.Send) {
			kind, id, content, ok := messageParts(message)
			switch {
			case !ok:
			case kind == exactNumber("0") && (isIllFormed(content) || hasBadObject(content)):
				// Such a request is answered here, and the session continues.
				expect = append(withoutReplies(expect, id), frame{Type: "exception", ID: id})
				after = "open"
			case (kind == exactNumber("1") || kind == exactNumber("2")) && asked == 0:
				after = "open" // an unexpected reply is dropped and counted
				defer func() {
					if s.Stats().UnexpectedReplies == 0 {
						t.Error("the reply was not counted")
					}
				}()
			}
		}
		for _, chunk := range step.Send {
			far.writeHex(chunk)
		}
		got := far.takeReceived()
		far.compareMessages(fmt.Sprintf("step %d", i), got, expect, c)
		for _, f := range expect {
			if f.Type == "request" {
				asked++
			}
		}
	}
	if over := hasEnded(s); over != (after == "closed") {
		t.Errorf("the session is over: %v (%v), want the connection %s", over, s.Err(), after)
	}
}

// withoutReplies returns the frames with an ID other than id.
func withoutReplies(frames []frame, id any) (left []frame) {
	for _, f := range frames {
		if normalForm(f.ID) != id {
			left = append(left, f)
		}
	}
	return left
}
