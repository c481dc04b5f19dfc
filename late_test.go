package rpcx_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// The answer to a long batch that was given up is late, and no mistake of the peer's.
func TestLateAnswerToALongBatchIsNoError(t *testing.T) {
	const long = 10_000
	ids := make([]int, long)
	for i := range ids {
		ids[i] = i
	}
	t.Run("in its order", func(t *testing.T) { answerLate(t, ids) })
	slices.Reverse(ids)
	t.Run("backwards", func(t *testing.T) { answerLate(t, ids) })
	rand.New(rand.NewPCG(1, 2)).Shuffle(long, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	t.Run("in any order", func(t *testing.T) { answerLate(t, ids) })
}

// answerLate gives up a batch, and answers it in the order of ids then.
func answerLate(t *testing.T, ids []int) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		long := len(ids)
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
		for i, id := range ids {
			replies[i] = fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id)
		}
		w.heard()
		w.say("[" + strings.Join(replies, ",") + "]")
		synctest.Wait()
		if got := s.Stats(); got.LateReplies != uint64(long) || got.UnexpectedReplies != 0 || got.Errors != 0 {
			t.Errorf("%d late, %d unexpected, %d errors", got.LateReplies, got.UnexpectedReplies, got.Errors)
		}
		w.say("[" + strings.Join(replies, ",") + "]") // once more
		synctest.Wait()
		if got := s.Stats(); got.LateReplies != uint64(long) || got.UnexpectedReplies != uint64(long) || got.Errors != 1 {
			t.Errorf("then %d late, %d unexpected, %d errors", got.LateReplies, got.UnexpectedReplies, got.Errors)
		}
	})
}
