package rpcx

import (
	"testing"
	"testing/synctest"
)

// The reader hands over each message by itself until the session is admitted, and then as
// many as for a session without Gate.
func TestGateAndMessagesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := Pipe(&Options{Gate: NewRouter()}, nil)
		defer peer.Close()
		defer s.Close()
		call := func() uint64 {
			if err := peer.Call(t.Context(), "m", nil, nil); err == nil {
				t.Error("m is known")
			}
			synctest.Wait()
			return s.reader.maxMessages
		}
		if n := call(); n != 1 {
			t.Errorf("before Admit, %d messages are handed over at once", n)
		}
		s.Admit()
		if n := call(); n != maxDecodedMessages {
			t.Errorf("after Admit, %d messages are handed over at once", n)
		}
	})
}
