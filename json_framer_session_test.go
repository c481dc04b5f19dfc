package rpcx_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// lightningd ends every message with two newlines, and indents what it sends in some
// releases. Its plugins are programs that it calls, and that notify it.
func TestPluginOfCoreLightning(t *testing.T) {
	for name, c := range map[string]struct {
		framer rpcx.Framer
		indent bool
	}{
		"values":           {rpcx.JSONFramer{}, false},
		"indented values":  {rpcx.JSONFramer{}, true},
		"lines":            {rpcx.NewlineFramer{}, false},
		"lines by default": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("getmanifest", rpcx.Func(func(allowDeprecated bool) map[string]any {
					return map[string]any{"options": []any{}, "rpcmethods": []any{}, "dynamic": true}
				}, "allow-deprecated-apis", "..."))
				router.Handle("init", rpcx.Func(func(options, configuration map[string]any) map[string]any {
					return map[string]any{}
				}, "options", "configuration"))
				var blocks []int
				router.Handle("block_added", rpcx.Func(func(block struct{ Height int }) { blocks = append(blocks, block.Height) }, "block"))
				opts := &rpcx.Options{Role: rpcx.RoleServer, Framer: c.framer, Handler: router, Order: rpcx.Sequential}
				s, w := newWire(t, opts)
				say := func(msg string) {
					if c.indent {
						var value any
						if err := json.Unmarshal([]byte(msg), &value); err != nil {
							t.Fatal(err)
						}
						indented, _ := json.MarshalIndent(value, "", "  ")
						msg = string(indented)
					}
					w.Write([]byte(msg + "\n\n"))
				}
				say(`{"jsonrpc":"2.0","id":"cln:getmanifest#1","method":"getmanifest","params":{"allow-deprecated-apis":false,"more":1}}`)
				w.expect(`{"jsonrpc":"2.0","result":{"dynamic":true,"options":[],"rpcmethods":[]},"id":"cln:getmanifest#1"}`)
				say(`{"jsonrpc":"2.0","id":"cln:init#2","method":"init","params":{"options":{"a":"}\n{"},"configuration":{"rpc-file":"lightning-rpc"}}}`)
				w.expect(`{"jsonrpc":"2.0","result":{},"id":"cln:init#2"}`)
				var want []int
				for height := range 100 {
					want = append(want, height)
					say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"block_added","params":{"block":{"height":%d}}}`, height))
				}
				synctest.Wait()
				if !slices.Equal(blocks, want) {
					t.Errorf("the blocks are %v", blocks)
				}
				if stats := s.Stats(); stats.Errors != 0 || stats.MessagesReceived != 102 {
					t.Errorf("%d errors, %d messages", stats.Errors, stats.MessagesReceived)
				}
			})
		})
	}
}

// A session answers what is no JSON, and goes on with what follows.
func TestSessionOverValuesGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := adding()
		opts.Framer, opts.Limits.CostOff = rpcx.JSONFramer{MaxSize: 100}, true
		s, w := newWire(t, opts)
		bad := `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`
		for _, c := range []struct {
			name, say string
			want      []string
		}{
			{"a message", sumCall, []string{sumReply}},
			{"a text and a message", "Starting\n" + sumCall, []string{bad, sumReply}},
			{"a message that is cut short", "{\"jsonrpc\":\"2.0\"\n" + sumCall, []string{bad, sumReply}},
			{"a message that is too large", `["` + strings.Repeat("[", 200) + `"]` + sumCall, []string{sumReply}},
			{"NaN and a message", `{"a":NaN}` + sumCall, []string{bad, sumReply}},
		} {
			w.Write([]byte(c.say + "\n"))
			heard := slices.DeleteFunc(w.heard(), func(line string) bool { return strings.Contains(line, "-32600") }) // about the size
			if !slices.Equal(heard, c.want) {
				t.Errorf("%s: heard %q, want %q", c.name, heard, c.want)
			}
		}
		w.Write([]byte(sumCall + sumCall))
		w.expect(sumReply, sumReply)
		w.Write([]byte("]"))
		if err := ended(t, s); !strings.Contains(err.Error(), "no newline behind which") {
			t.Errorf("it ended with %v", err)
		}
	})
}
