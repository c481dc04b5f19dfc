package rpcx_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// The answer to a long batch that was given up is late, and no mistake of the peer's.
func TestLateAnswerToALongBatchIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		const long = 3000
		var b rpcx.Batch
		for range long {
			b.Call("m", nil, nil)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.SendBatch(ctx, &b); err == nil {
			t.Error("a batch that nobody answers succeeded")
		}
		replies := make([]string, long)
		for i := range replies {
			replies[i] = fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, i)
		}
		w.heard()
		w.say("[" + strings.Join(replies, ",") + "]")
		synctest.Wait()
		if got := s.Stats(); got.LateReplies != long || got.UnexpectedReplies != 0 || got.Errors != 0 {
			t.Errorf("%d late, %d unexpected, %d errors", got.LateReplies, got.UnexpectedReplies, got.Errors)
		}
	})
}
