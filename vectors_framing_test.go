package rpcx

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

type framingCase struct {
	Name    string
	Op      string
	MaxSize int `json:"max_size"` // 0: unlimited
	Steps   []framingStep
	Message vectorBytes     // of newline_frame
	Expect  json.RawMessage // {"framed": …}, or a list of bitcoinEvents

	// Of bitcoin_frame and bitcoin_parse:
	Magic            string
	Command, Payload vectorBytes
	MaxPayload       int `json:"max_payload_size"`
	MaxBlock         int `json:"max_block_size"`
	Chunks           []vectorBytes
}

type framingStep struct {
	Op     string
	Chunks []vectorBytes
	Expect []framingEvent
}

// framingEvent is what a reader gets: one of the three.
type framingEvent struct {
	Message *vectorBytes
	Dropped string
	Failed  string
}

func TestVectorsFraming(t *testing.T) {
	for _, c := range loadVectors[framingCase](t, "framing.json") {
		t.Run(c.Name, func(t *testing.T) {
			switch c.Op {
			case "newline":
				synctest.Test(t, c.testNewline)
			case "newline_frame":
				var expect struct{ Framed vectorBytes }
				if err := json.Unmarshal(c.Expect, &expect); err != nil {
					t.Fatal(err)
				}
				got, err := NewlineFramer{}.AppendFrame([]byte("before"), c.Message)
				if bytes.Contains(c.Message, []byte("\n")) { // the peer would take it for two messages
					if err == nil {
						t.Errorf("got %q, want an error", got)
					}
					return
				}
				if want := "before" + string(expect.Framed); err != nil || string(got) != want {
					t.Errorf("got %q %v, want %q", got, err, want)
				}
			case "bitcoin_frame":
				c.testBitcoinFrame(t)
			case "bitcoin_parse":
				c.testBitcoinParse(t)
			default:
				t.Fatalf("unknown op %q", c.Op)
			}
		})
	}
}

func (c framingCase) testNewline(t *testing.T) {
	framer := NewlineFramer{MaxSize: c.MaxSize}
	if c.MaxSize == 0 {
		framer.MaxSize = -1
	}
	conn := &chunkConn{chunks: make(chan vectorBytes)}
	stream := newStream(conn, framer)
	var got []framingEvent
	read := func() (more bool) {
		msg, err := stream.next(true)
		var frame *FrameError
		switch {
		case err == nil:
			b := vectorBytes(string(msg))
			got = append(got, framingEvent{Message: &b})
		case errors.As(err, &frame) && frame.Recoverable:
			got = append(got, framingEvent{Dropped: frame.Message})
		default:
			got = append(got, framingEvent{Failed: "ConnectionLost"})
			return false
		}
		return true
	}
	go func() {
		for read() {
		}
	}()
	failed := false
	decided := c.decided()
	for i, step := range c.Steps {
		switch {
		case step.Op == "cancel_receive": // a reader is never cancelled
		case step.Op == "fail":
			failed = true
			close(conn.chunks)
		case failed:
			for range step.Chunks {
				read() // nothing arrives any more
			}
		default:
			for _, chunk := range step.Chunks {
				conn.chunks <- chunk
			}
		}
		synctest.Wait()
		want := step.Expect
		if decided != nil {
			want = decided[i]
		}
		if len(got) != len(want) || len(want) > 0 && !cmp.Equal(got, want) {
			t.Errorf("step %d: %s", i, cmp.Diff(want, got))
		}
		got = nil
	}
	if !failed {
		close(conn.chunks)
	}
}

// chunkConn is a connection that reads the chunks that are sent to it, one at a
// time, until it is closed.
type chunkConn struct {
	chunks chan vectorBytes
	rest   vectorBytes
}

func (c *chunkConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		chunk, ok := <-c.chunks
		if !ok {
			return 0, io.ErrClosedPipe
		}
		c.rest = chunk
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *chunkConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *chunkConn) Close() error                { return nil }

// decided returns what each step yields where rpcx decides differently, nil
// where it does not: the limit holds for every message, even if its newline
// came in the same chunk; each dropped message is one error; a negative limit
// is none; and a reader that is never cancelled loses nothing.
func (c framingCase) decided() (steps [][]framingEvent) {
	differs := c.MaxSize < 0
	var line []byte
	dropping, failed := false, false
	for _, step := range c.Steps {
		failed = failed || step.Op == "fail"
		if failed {
			steps = append(steps, step.Expect)
			continue
		}
		var events []framingEvent
		for _, chunk := range step.Chunks {
			for _, b := range chunk {
				switch {
				case b == '\n' && dropping:
					dropping = false
				case b == '\n':
					message := append(vectorBytes{}, line...)
					events = append(events, framingEvent{Message: &message})
					line = nil
				case !dropping:
					line = append(line, b)
				}
				if c.MaxSize > 0 && len(line) > c.MaxSize {
					events = append(events, framingEvent{Dropped: "dropping message over " + thousands(c.MaxSize) + " bytes and re-synchronizing"})
					line, dropping = nil, true
				}
			}
		}
		steps = append(steps, events)
		overlong := func(e framingEvent) bool { return c.MaxSize > 0 && e.Message != nil && len(*e.Message) > c.MaxSize }
		differs = differs || drops(step.Expect) > drops(events) || slices.ContainsFunc(step.Expect, overlong) ||
			step.Op == "cancel_receive" && len(line) > 0
	}
	if !differs {
		return nil
	}
	return steps
}

// drops counts the messages that were dropped.
func drops(events []framingEvent) (n int) {
	for _, event := range events {
		if event.Dropped != "" {
			n++
		}
	}
	return n
}
