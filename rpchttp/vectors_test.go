package rpchttp_test

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// vector is a recorded case with messages to receive. testdata/vectors/README.md has the
// form.
type vector struct {
	Name, Protocol string
	Message        vectorBytes
	Steps          []struct{ Message vectorBytes }
}

// messages returns the messages of a case.
func (v *vector) messages() []string {
	messages := []string{}
	if v.Message != "" {
		messages = append(messages, string(v.Message))
	}
	for _, step := range v.Steps {
		if step.Message != "" {
			messages = append(messages, string(step.Message))
		}
	}
	return messages
}

// vectorBytes is a message: a string, {"hex": "00ff"}, or {"repeat": [[text, count], …]}.
// Other values, which are no messages to receive, become "".
type vectorBytes string

func (b *vectorBytes) UnmarshalJSON(data []byte) error {
	var form struct {
		Hex    string
		Repeat [][2]any
	}
	switch data[0] {
	case '"':
		return json.Unmarshal(data, (*string)(b))
	case '{':
		if err := json.Unmarshal(data, &form); err != nil {
			return nil
		}
	}
	text, err := hex.DecodeString(form.Hex)
	for _, part := range form.Repeat {
		text = append(text, strings.Repeat(part[0].(string), int(part[1].(float64)))...)
	}
	*b = vectorBytes(text)
	return err
}

// memoryConn is a connection that brings a message and keeps the replies.
type memoryConn struct {
	msg    []byte
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	replies []string
}

func (c *memoryConn) ReadMessage() ([]byte, error) {
	if msg := c.msg; msg != nil {
		c.msg = nil
		return msg, nil
	}
	<-c.closed
	return nil, io.EOF
}

func (c *memoryConn) WriteMessages(msgs [][]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, msg := range msgs {
		c.replies = append(c.replies, string(msg))
	}
	return nil
}

func (c *memoryConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// Each recorded message has the same answer over a connection and over HTTP. The tests of
// package rpcx compare the answers over a connection with the recorded ones.
func TestVectors(t *testing.T) {
	protocols := map[string]rpcx.Protocol{"v1": rpcx.JSONRPCv1, "v2": rpcx.JSONRPCv2, "loose": rpcx.JSONRPCLoose, "auto": rpcx.JSONRPCAutoDetect}
	seen := 0
	for _, file := range []string{"jsonrpc_decode.json", "autodetect.json", "session.json", "connection.json"} {
		data, err := os.ReadFile(filepath.Join(cmp.Or(os.Getenv("RPCX_VECTORS"), "../testdata/vectors"), file))
		if err != nil {
			t.Fatal(err)
		}
		var content struct{ Cases []vector }
		if err := json.Unmarshal(data, &content); err != nil {
			t.Fatal(err)
		}
		for _, c := range content.Cases {
			protocol := protocols[c.Protocol]
			if protocol == nil {
				protocol = rpcx.JSONRPCAutoDetect
			}
			for _, msg := range c.messages() {
				seen++
				t.Run(c.Name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { comparePost(t, protocol, msg) })
				})
			}
		}
	}
	if seen < 1500 {
		t.Errorf("only %d messages were found", seen)
	}
}

// comparePost says that msg has the same answer by POST as over a connection.
func comparePost(t *testing.T, protocol rpcx.Protocol, msg string) {
	srv := newServer(nil)
	srv.Options.Protocol, srv.Options.Order = protocol, rpcx.Sequential
	conn := &memoryConn{msg: []byte(msg), closed: make(chan struct{})}
	s := srv.ServeMessageConn(conn)
	synctest.Wait()
	conn.mu.Lock()
	want := strings.Join(conn.replies, "\n")
	conn.mu.Unlock()
	s.Close()
	<-s.Done()
	status := 200
	switch {
	case strings.Trim(msg, " \t\r\n") == "": // which a connection passes over
		answering(t, &rpchttp.Handler{Server: srv}, post(msg), status, "")
		return
	case want == "":
		status = 204
	}
	w := serve(&rpchttp.Handler{Server: srv}, post(msg))
	if got := w.Body.String(); w.Code != status || got != want {
		t.Errorf("%.200q is answered\n%d %s, and over a connection\n%s", msg, w.Code, got, want)
	}
}
