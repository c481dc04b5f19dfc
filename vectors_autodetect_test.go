package rpcx

import (
	"encoding/json"
	"testing"
)

type autodetectCase struct {
	Name    string
	Message vectorBytes
	Expect  struct {
		Protocol        string
		Error           *vectorError
		PythonException string `json:"python_exception"`
	}
}

func TestVectorsAutodetect(t *testing.T) {
	for _, c := range loadVectors[autodetectCase](t, "autodetect.json") {
		t.Run(c.Name, func(t *testing.T) {
			c = c.decided()
			found := JSONRPCAutoDetect.(Detector).Detect(c.Message, 0)
			if c.Expect.Error == nil {
				if found == nil || found != vectorProtocols[c.Expect.Protocol] {
					t.Errorf("got %v, want %s", found, c.Expect.Protocol)
				}
				return
			}
			if found != nil {
				t.Errorf("got %v from a message that decides nothing", found)
			}
			m := Message{StrictParams: true}
			JSONRPCAutoDetect.Decode(&m, c.Message, 0)
			err, ok := m.Items[0].Err.(*ProtocolError)
			if m.Batch || !ok {
				t.Fatalf("got %v %v, want %v", m.Kind(), m.Items[0].Err, c.Expect.Error.Message)
			}
			c.Expect.Error.check(t, err.Code, err.Message)
			reply, replyErr := JSONRPCAutoDetect.AppendError(nil, m.Items[0].ID, wireError(err), nil)
			if replyErr != nil {
				t.Fatal(replyErr)
			}
			if c.Expect.Error.Reply != nil {
				checkJSON(t, "reply", reply, c.Expect.Error.Reply.JSON)
			}
		})
	}
}

// decided returns the case with what is expected of rpcx, where that differs.
func (c autodetectCase) decided() autodetectCase {
	switch {
	case c.Expect.Error != nil:
	case !json.Valid(c.Message): // nested too deep, NaN, Infinity
		want := invalidExpect(CodeParseError, textNotJSON, nil)
		c.Expect.Error = &want.vectorError
	case readEnvelope(c.Message).twice(): // it is refused, so it decides nothing
		want := invalidExpect(CodeInvalidRequest, nil, nil)
		c.Expect.Error = &want.vectorError
	case c.Expect.PythonException != "":
		// Too deep, or a number of too many digits, for the original only.
		c.Expect.Protocol = readEnvelope(c.Message).protocol()
	}
	return c
}

// protocol returns the name of the protocol that a single message shows.
func (e vectorEnvelope) protocol() string {
	switch version := string(e.get("jsonrpc")); {
	case version == `"2.0"`:
		return "v2"
	case version == `"1.0"`, e.has("result") && e.has("error"):
		return "v1"
	}
	return "loose"
}
