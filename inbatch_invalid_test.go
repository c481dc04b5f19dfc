package rpcx_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// refusedBatch is the answer to a batch with more than 16 invalid members.
const refusedBatch = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"batch has over 16 invalid members"},"id":null}`

// membersOf returns a batch of n members that are alike, and of others behind them.
func membersOf(n int, member string, others ...string) string {
	members := append(strings.Split(strings.Repeat(member+"\n", n), "\n")[:n], others...)
	return "[" + strings.Join(members, ",") + "]"
}

// A batch of invalid members is one error and gets one answer.
func TestBatchOfInvalidMembersIsRefusedAsAWhole(t *testing.T) {
	const (
		good = `{"jsonrpc":"2.0","method":"count","id":1}`
		note = `{"jsonrpc":"2.0","method":"count"}`
	)
	for name, c := range map[string]struct {
		protocol rpcx.Protocol
		say      string
	}{
		"zeros":                              {rpcx.JSONRPCv2, membersOf(10_000, "0")},
		"one too many":                       {rpcx.JSONRPCv2, membersOf(17, "0")},
		"null":                               {rpcx.JSONRPCv2, membersOf(17, "null")},
		"strings":                            {rpcx.JSONRPCv2, membersOf(17, `""`)},
		"empty batches":                      {rpcx.JSONRPCv2, membersOf(100, "[]")},
		"objects":                            {rpcx.JSONRPCv2, membersOf(3_000, "{}")},
		"requests of no version":             {rpcx.JSONRPCv2, membersOf(17, `{"method":"count","id":1}`)},
		"requests without a method":          {rpcx.JSONRPCv2, membersOf(17, `{"jsonrpc":"2.0","id":"x"}`)},
		"requests with an id that is none":   {rpcx.JSONRPCv2, membersOf(17, `{"jsonrpc":"2.0","method":"count","id":{}}`)},
		"requests with params that are none": {rpcx.JSONRPCLoose, membersOf(17, `{"method":"count","params":1,"id":1}`)},
		"responses beside a request":         {rpcx.JSONRPCv2, membersOf(17, `{"jsonrpc":"2.0","result":1,"id":1}`, good)},
		"behind requests":                    {rpcx.JSONRPCv2, "[" + strings.Repeat(good+","+note+",", 100) + membersOf(17, "0")[1:]},
		"before requests":                    {rpcx.JSONRPCv2, membersOf(17, "0", good, note)},
		"between requests":                   {rpcx.JSONRPCv2, membersOf(17, "0,"+good)},
		"loose":                              {rpcx.JSONRPCLoose, membersOf(17, "0", good)},
		"the first message of any version":   {rpcx.JSONRPCAutoDetect, membersOf(17, "0", good)},
		"before what is not even looked at":  {rpcx.JSONRPCv2, "[" + strings.Repeat("0,", 17) + "\xff\x00}}]" + good},
		"before a member that never ends":    {rpcx.JSONRPCv2, "[" + strings.Repeat("0,", 17) + `{"a`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handled := 0
				opts := handling(methods{"count": func(context.Context, *rpcx.Request) (any, error) { handled++; return nil, nil }})
				opts.Protocol = c.protocol
				opts.Role = rpcx.RoleServer
				s, w := newWire(t, opts)
				w.say(c.say)
				w.expect(refusedBatch)
				if handled > 0 {
					t.Errorf("%d members were handled", handled)
				}
				stats := s.Stats()
				if stats.Errors != 1 || stats.MessagesReceived != 1 || stats.RequestsReceived != 0 || stats.MessagesSent != 1 {
					t.Errorf("stats are %+v", stats)
				}
				// One error, and at most a hundredth for the bytes.
				if stats.Cost < 100 || stats.Cost > 101 {
					t.Errorf("the cost is %v", stats.Cost)
				}
				live(t, s)
			})
		})
	}
}

// Up to 16 invalid members are answered each for itself, and the others are handled.
func TestFewInvalidMembersOfABatchAreAnsweredEach(t *testing.T) {
	const bad = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}`
	const good = `{"jsonrpc":"2.0","result":null,"id":7}`
	for name, c := range map[string]struct {
		say  string
		want string
	}{
		"alone":              {membersOf(16, "0"), strings.Repeat(bad+", ", 15) + bad},
		"before a request":   {membersOf(16, "0", ask("reply", 7)), strings.Repeat(bad+", ", 16) + good},
		"among many of them": {membersOf(16, "0,"+ask("reply", 7)), strings.Repeat(bad+", "+good+", ", 15) + bad + ", " + good},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, handling(methods{"reply": reply}))
				w.say(c.say)
				w.expect("[" + c.want + "]")
				if stats := s.Stats(); stats.Errors != 1 {
					t.Errorf("stats are %+v", stats)
				}
			})
		})
	}
}

// What an answer to 20 kB of zeros takes up does not depend on how many they are.
func TestAnswerToABatchOfZerosIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, nil)
		batch := membersOf(10_000, "0")
		for range 10 {
			w.say(batch)
		}
		sent := 0
		for _, line := range w.heard() {
			sent += len(line) + 1
		}
		if sent*100 > 10*len(batch) {
			t.Errorf("%d bytes were sent for %d", sent, 10*len(batch))
		}
	})
}

// Members without a method that have the ids of our calls are their replies, however
// ill-formed, and however many.
func TestManyIllFormedRepliesEndTheirCalls(t *testing.T) {
	for name, member := range map[string]string{
		"without a result": `{"jsonrpc":"2.0","id":%d}`,
		"of no version":    `{"id":%d,"value":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				var b rpcx.Batch
				var calls []*rpcx.Future
				var replies []string
				for i := range 40 {
					calls = append(calls, b.Call("m", nil, nil))
					replies = append(replies, fmt.Sprintf(member, i))
				}
				whole := s.GoBatch(t.Context(), &b)
				w.heard()
				w.say("[" + strings.Join(replies, ",") + "]")
				if !isDone(whole) {
					t.Fatal("the batch waits on")
				}
				for i, f := range calls {
					if err := f.Err(); err == nil {
						t.Errorf("call %d has no error", i)
					} else {
						matches(t, err, rpcx.ErrInvalidRequest)
					}
				}
				w.expectNothing()
			})
		})
	}
}

// BenchmarkBatchOfZeros answers 20 kB of zeros, and echoes as many bytes for comparison.
// On an AMD EPYC the zeros take half as long as the echo. When each of them was answered
// they took 92 times as long.
func BenchmarkBatchOfZeros(b *testing.B) {
	zeros := membersOf(10_000, "0") + "\n"
	echo := `{"jsonrpc":"2.0","method":"reply","params":["` + strings.Repeat("x", len(zeros)-60) + `"],"id":1}` + "\n"
	for name, message := range map[string]string{"zeros": zeros, "echo": echo} {
		b.Run(name, func(b *testing.B) {
			opts := handling(methods{"reply": reply})
			opts.Limits.CostOff = true
			near, far := net.Pipe()
			s := rpcx.NewSession(near, opts)
			defer func() { s.Close(); <-s.Done() }()
			answers := bufio.NewReaderSize(far, 2<<20)
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				go io.WriteString(far, message)
				if _, err := answers.ReadSlice('\n'); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
