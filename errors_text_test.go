package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// An error's text may be a hostile peer's, and comes into logs and onto terminals.
func TestErrorTextIsQuotedAndCut(t *testing.T) {
	long := strings.Repeat("x", 480_000)
	cut := long[:512] + "... (480000 bytes)"
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"plain":                  {rpcx.Errorf(1, `no "é" in C:\dir`), `no "é" in C:\dir (code 1)`},
		"control characters":     {rpcx.Errorf(1, "a\nb\x1b[2J\x00"), `a\nb\x1b[2J\x00 (code 1)`},
		"another direction":      {rpcx.Errorf(1, "a\u202eb"), `a\u202eb (code 1)`},
		"long":                   {rpcx.Errorf(-32000, "%s", long), cut + " (code -32000)"},
		"of the protocol":        {&rpcx.ProtocolError{Code: -32600, Message: "a\x1b" + long}, `protocol error: a\x1b` + long[:510] + "... (480002 bytes) (code -32600)"},
		"of the framing":         {&rpcx.FrameError{Message: "\a" + long}, `framing error: \a` + long[:511] + "... (480001 bytes)"},
		"within a batch's":       {&rpcx.BatchError{Errs: []error{nil, rpcx.Errorf(1, "\n%s", long)}}, `1 of 2 batch requests failed, the first, number 2: \n` + long[:511] + "... (480001 bytes) (code 1)"},
		"within a connection's":  {&rpcx.ConnectionError{Err: &rpcx.FrameError{Message: "\n"}}, `connection lost (request not written): framing error: \n`},
		"of an unknown method":   {rpcx.MethodNotFound("a\n" + long), `unknown method "a\n` + long[:62] + `... (480002 bytes)" (code -32601)`},
		"of a method that fits":  {rpcx.MethodNotFound(long[:64]), `unknown method "` + long[:64] + `" (code -32601)`},
		"of a method's argument": {rpcx.InvalidParams("%s", "\r"), `\r (code -32602)`},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%s: got %.100q, want %.100q", name, got, c.want)
		}
	}
}

// What a peer answers a call is whole in the error, and not in its text.
func TestErrorOfAPeerIsWholeInItsMessage(t *testing.T) {
	message := "\x1b]0;evil\a\n" + strings.Repeat("x", 480_000)
	quoted, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		protocol rpcx.Protocol
		reply    string
	}{
		"2.0":                     {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","error":{"code":-32000,"message":` + string(quoted) + `},"id":0}`},
		"1.0":                     {rpcx.JSONRPCv1, `{"result":null,"error":{"code":-32000,"message":` + string(quoted) + `},"id":0}`},
		"1.0, an error of a text": {rpcx.JSONRPCv1, `{"result":null,"error":` + string(quoted) + `,"id":0}`},
		"loose":                   {rpcx.JSONRPCLoose, `{"error":` + string(quoted) + `,"id":0}`},
		"aiomas":                  {rpcx.Aiomas, `[2,0,` + string(quoted) + `]`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: c.protocol, Framer: rpcx.NewlineFramer{}})
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(c.reply)
				if !isDone(f) {
					t.Fatal("the call waits on")
				}
				e, ok := errors.AsType[*rpcx.Error](f.Err())
				if !ok {
					t.Fatalf("got %v", f.Err())
				}
				if e.Message != message {
					t.Errorf("the message has %d bytes, want %d: %.100q", len(e.Message), len(message), e.Message)
				}
				for _, text := range []string{f.Err().Error(), fmt.Sprint(fmt.Errorf("call: %w", f.Err()))} {
					if len(text) > 700 || !strings.Contains(text, `\x1b]0;evil\a\nxxx`) || !strings.Contains(text, "(480010 bytes)") {
						t.Errorf("the text has %d bytes: %.100q", len(text), text)
					}
				}
			})
		})
	}
}

// A result that does not fit repeats what the peer has sent.
func TestErrorOfAResultIsCut(t *testing.T) {
	digits := strings.Repeat("1", 480_000)
	for name, c := range map[string]struct {
		result string
		dest   any
	}{
		"a number": {digits, new(int)},
		"an IP":    {`"` + digits + `"`, new(netip.Addr)},
		"a time":   {`"` + digits + `"`, new(time.Time)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(`{"jsonrpc":"2.0","result":` + c.result + `,"id":0}`)
				synctest.Wait()
				err := f.Decode(c.dest)
				if err == nil || len(err.Error()) > 700 || !strings.HasPrefix(err.Error(), `decode the result of "m": `) {
					t.Errorf("got %.800q", fmt.Sprint(err))
				}
				if errors.Unwrap(err) == nil {
					t.Error("the codec's error is not wrapped")
				}
			})
		})
	}
}

type longQuery struct {
	From  time.Time
	Count *big.Int
	Addr  netip.Addr
	Limit int
}

// What a peer sends comes back in no error but for a short excerpt, and its id.
func TestErrorsRepeatLittleOfAMessage(t *testing.T) {
	x := strings.Repeat("x", 480_000)
	digits := strings.Repeat("1", 480_000)
	keys := func(n int, key string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"%s%d":0,`, key, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	router := rpcx.NewRouter()
	router.Handle("query", rpcx.Func(func(context.Context, longQuery) {}))
	router.Handle("bind", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		var n []int
		return nil, req.Bind(&n)
	}))
	router.Handle("number", rpcx.Func(func(context.Context, int) error { return nil }, "n"))
	router.Handle("numbers", rpcx.Func(func(context.Context, ...int) (int, error) { return 0, nil }))
	router.Handle("map", rpcx.Func(func(context.Context, map[string]int) error { return nil }))
	router.Handle("none", rpcx.Func(func() {}))
	sub := rpcx.NewRouter()
	sub.Handle("m", rpcx.Func(func() {}))
	if err := router.Mount("sub", sub); err != nil {
		t.Fatal(err)
	}
	any1 := rpcx.Func(func(context.Context, int) error { return nil }, "n") // of any method
	call := func(method, params string) string {
		return `{"jsonrpc":"2.0","method":"` + method + `","params":` + params + `,"id":1}`
	}
	for name, c := range map[string]struct {
		handler  rpcx.Handler
		protocol rpcx.Protocol
		say      string
	}{
		"an unknown method":                     {router, nil, call(x, "[]")},
		"an unknown service":                    {router, nil, call(x+"/m", "[]")},
		"an unknown name in a service":          {router, nil, call("sub."+x, "[]")},
		"an unknown name in a method":           {router, nil, call("sub/m/"+x, "[]")},
		"many separators":                       {router, nil, call(strings.Repeat("sub/", 100_000), "[]")},
		"an aiomas name":                        {router, rpcx.Aiomas, `[0,1,["sub/` + x + `",[],{}]]`},
		"characters that are quoted":            {router, nil, call(strings.Repeat("\u2028", 100_000), "[]")},
		"an unknown parameter":                  {router, nil, call("query", `{"`+x+`":1}`)},
		"beside all that are required":          {router, nil, call("number", `{"n":1,"`+x+`":1}`)},
		"many unknown parameters":               {router, nil, call("number", `{"n":1,`+keys(50_000, "")+`}`)},
		"many long unknown parameters":          {router, nil, call("number", `{"n":1,`+keys(500, x[:1000])+`}`)},
		"unknown parameters in escapes":         {router, nil, call("number", `{"n":1,`+keys(500, strings.Repeat(`\u0000`, 200))+`}`)},
		"a number that is too large":            {router, nil, call("number", `[`+digits+`]`)},
		"one of several":                        {router, nil, call("numbers", `[1,2,3,`+digits+`]`)},
		"a number in a field":                   {router, nil, call("query", `{"From":"2020-01-01T00:00:00Z","Count":1,"Addr":"::1","Limit":`+digits+`}`)},
		"a text that is no time":                {router, nil, call("query", `{"From":"`+x+`","Count":1,"Addr":"::1","Limit":1}`)},
		"a text that is no number":              {router, nil, call("query", `{"From":"2020-01-01T00:00:00Z","Count":"`+x+`","Addr":"::1","Limit":1}`)},
		"a text that is no address":             {router, nil, call("query", `{"From":"2020-01-01T00:00:00Z","Count":1,"Addr":"`+x+`","Limit":1}`)},
		"a number for Bind":                     {router, nil, call("bind", `[`+digits+`]`)},
		"a long method of a Func":               {any1, nil, call(x, `["no"]`)},
		"and too many arguments":                {any1, nil, call(x, `[1,2]`)},
		"and too few":                           {any1, nil, call(x, `[]`)},
		"and an unknown parameter":              {any1, nil, call(x, `{"n":1,"m":1}`)},
		"and a parameter that is given twice":   {any1, nil, call(x, `{"n":1,"n":1}`)},
		"and no name":                           {router, nil, call("numbers", `{"`+x+`":1}`)},
		"a long key of a map, twice":            {router, nil, call("map", `{"`+x+`":1,"`+x+`":1}`)},
		"a number in a map":                     {router, nil, call("map", `{"`+x+`":`+digits+`}`)},
		"a parameter of a Func that takes none": {router, nil, call("none", `{"`+x+`":1}`)},
		"params that are none":                  {router, nil, call("query", `"`+x+`"`)},
		"an id that is none":                    {router, nil, `{"jsonrpc":"2.0","method":"m","id":["` + x + `"]}`},
		"a version that is none":                {router, nil, `{"jsonrpc":"` + x + `","method":"m","id":1}`},
		"no JSON":                               {router, nil, x},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, w := newWire(t, &rpcx.Options{Handler: c.handler, Protocol: c.protocol, Framer: rpcx.NewlineFramer{}})
				w.say(c.say)
				got := w.heard()
				if len(got) != 1 || !strings.Contains(got[0], "-32") && c.protocol != rpcx.Aiomas {
					t.Fatalf("heard %.1000q", got)
				}
				if len(got[0]) > 2500 {
					t.Errorf("%d bytes were answered to %d: %.1000s", len(got[0]), len(c.say), got[0])
				}
			})
		})
	}
}

// What is not named is counted.
func TestFuncNamesSomeUnknownParameters(t *testing.T) {
	h := rpcx.Func(func(int) {}, "n")
	params := func(n int) rpcx.Params {
		keys := []string{`"n":1`}
		for i := range n {
			keys = append(keys, fmt.Sprintf(`"k%02d":0`, i))
		}
		return rpcx.Params{Named: json.RawMessage("{" + strings.Join(keys, ",") + "}")}
	}
	const sixteen = `"k00", "k01", "k02", "k03", "k04", "k05", "k06", "k07", "k08", "k09", "k10", "k11", "k12", "k13", "k14", "k15"`
	for n, want := range map[int]string{
		1:     `parameter "k00"`,
		2:     `parameters "k00", "k01"`,
		16:    `parameters ` + sixteen,
		17:    `parameters ` + sixteen + ` and 1 more`,
		10016: `parameters ` + sixteen + ` and 10000 more`,
	} {
		_, err := h.ServeRPC(t.Context(), &rpcx.Request{Method: "m", Params: params(n)})
		e, ok := errors.AsType[*rpcx.Error](err)
		if want = `method "m" does not take ` + want; !ok || e.Message != want {
			t.Errorf("%d: got %v, want %s", n, err, want)
		}
	}
}
