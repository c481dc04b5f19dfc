package rpcx

import "testing"

// TestDecidedReplies plays conversations as TestDecided does, about what may be a reply
// and is none by the letter.
func TestDecidedReplies(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"if it has the id of a call it is a reply, and bad", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","res":1,"id":0}
			0 ! response contains neither "result" nor "error"
			1 ?
			unexpected 0`},
		{"however its id is written", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","id":0.0}
			--> {"id":"1","jsonrpc":"2.0","params":[]}
			0 ! response contains neither "result" nor "error"
			1 ! the id of the response is the string "1", not the number 1
			unexpected 0`},
		{"if its call was given up it is late, and not answered", JSONRPCv2, `
			call a
			cancel 0
			--> {"jsonrpc":"2.0","id":0}
			late 1
			unexpected 0
			--> {"jsonrpc":"2.0","id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}`},
		{"with the id of no call it is answered, though calls are pending", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","res":1,"id":7}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":7}
			--> {"jsonrpc":"2.0","res":1,"id":"x"}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":"x"}
			0 ?`},
		{"a bad request with the id of a call is a request", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","method":"a","params":5,"id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: 5"},"id":0}
			--> {"jsonrpc":"2.0","m\u0065thod":5,"id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}
			0 ?`},
		{"in JSON-RPC 1.0 it ends its call too", JSONRPCv1, `
			call a
			call b
			--> {"id":0}
			--> {"id":1,"error":null}
			0 ! response must contain both "result" and "error"
			1 ! response must contain both "result" and "error"`},
		{"where the protocol is loose the result is null", JSONRPCLoose, `
			call a
			call b
			call c
			--> {"id":0}
			--> {"jsonrpc":"2.0","id":1,"error":null}
			--> {"id":"2","more":[1,{"id":7}]}
			0 = null
			1 = null
			2 = null
			unexpected 0`},
		{"a member of a reply that has neither fails its own call", JSONRPCv2, `
			batch a b c
			--> [{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","id":1},{"jsonrpc":"2.0","result":3,"id":2}]
			0 = 1
			1 ! response contains neither "result" nor "error"
			2 = 3`},
		{"or has a null result", JSONRPCLoose, `
			batch a b c
			--> [{"id":0},{"id":"1"},{"result":3,"id":2}]
			0 = null
			1 = null
			2 = 3`},
		{"what else is in such a reply is answered", JSONRPCv2, `
			batch a b
			--> [{"jsonrpc":"2.0","result":1,"id":0},5,{"jsonrpc":"2.0","id":9}]
			<-- [{"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}, {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":9}]
			0 = 1
			1 ! rpcx: no response to this member of the batch`},
		{"a batch with a request in it is one of requests", JSONRPCv2, `
			call a
			--> [{"jsonrpc":"2.0","id":0},{"jsonrpc":"2.0","method":"a","id":1}]
			<-- [{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}, {"jsonrpc":"2.0","result":[],"id":1}]
			0 ?`},
		{"a reply that is no JSON fails the call whose id it has", JSONRPCv2, `
			call a
			call b
			call c
			call d
			--> {"jsonrpc":"2.0","result":[1,NaN],"id":0}
			0 ! protocol error: invalid JSON (ID: 0) (code -32700)
			1 ?
			--> {"jsonrpc":"2.0","id":"1","result":{"a":"}","b":[Infinity]}}
			1 ! the id of the response is the string "1", not the number 1
			--> {"jsonrpc":"2.0","id":2,"error":{"code":1,"message":
			2 ! protocol error: invalid JSON (ID: 2) (code -32700)
			--> {"jsonrpc":"2.0","result":"` + "\xff" + `","id":3}
			3 ! protocol error: messages must be encoded in UTF-8 (ID: 3) (code -32700)
			unexpected 0`},
		{"so does each member of a batch", JSONRPCv2, `
			batch a b c
			--> [{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","result":NaN,"id":1}]
			0 ! protocol error: invalid JSON (ID: 0) (code -32700)
			1 ! protocol error: invalid JSON (ID: 1) (code -32700)
			2 ! rpcx: no response to this member of the batch`},
		{"what is no JSON and may be no reply is answered", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","method":"a","result":NaN,"id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","id":0,"params":NaN}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":{"id":0,"x":NaN}}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":NaN,"id":7}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":NaN,"id":0
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":NaN,"id":0,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			0 ?`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}

// TestDecidedRepliesByVersion plays some about what one version of JSON-RPC takes for a
// good reply and another does not.
func TestDecidedRepliesByVersion(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"an id that is the string of a call's number fails the call", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","result":1,"id":"0"}
			0 ! protocol error: the id of the response is the string "0", not the number 0 (code -32600)
			unexpected 0
			--> {"jsonrpc":"2.0","result":1,"id":"0"}
			unexpected 1`},
		{"in JSON-RPC 1.0 too", JSONRPCv1, `
			call a
			--> {"result":1,"error":null,"id":"0"}
			0 ! the id of the response is the string "0", not the number 0`},
		{"where the protocol is loose it is the call's id", JSONRPCLoose, `
			next id 9007199254740993
			call a
			call b
			call c
			call d
			--> {"result":"a","id":"9007199254740993"}
			--> {"result":"b","id":"9007199254740994.0"}
			--> {"error":{"code":5,"message":"no"},"id":"\u0039007199254740995"}
			--> {"result":"d","id":" 9007199254740996"}
			--> {"result":"d","id":"9007199254740996x"}
			--> {"result":"d","id":"09007199254740996"}
			--> {"result":"d","id":["9007199254740996"]}
			0 = "a"
			1 = "b"
			2 ! no (code 5)
			3 ?
			unexpected 4`},
		{"if the call was given up, its reply is late", JSONRPCLoose, `
			call a
			cancel 0
			--> {"result":1,"id":"0"}
			late 1
			unexpected 0`},
		{"codes keep their value where the protocol is loose", JSONRPCLoose, `
			call a
			call b
			call c
			call d
			call e
			call f
			--> {"error":{"code":-32000.0,"message":"m"},"id":0}
			--> {"error":{"code":"-32000","message":"m"},"id":1}
			--> {"error":{"code":-3.2e4,"message":"m"},"id":2}
			--> {"error":{"code":"7.0","message":"m"},"id":3}
			--> {"error":{"code":-32000.5,"message":"m"},"id":4}
			--> {"error":{"code":1e99,"message":"m"},"id":5}
			0 ! m (code -32000)
			1 ! m (code -32000)
			2 ! m (code -32000)
			3 ! m (code 7)
			4 ! m (code -100)
			5 ! m (code -100)`},
		{"elsewhere they fail the call, with its id", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32000.0,"message":"m"},"id":0}
			--> {"jsonrpc":"2.0","error":{"code":"-32000","message":"m"},"id":1}
			0 ! ill-formed response error object: {"code":-32000.0,"message":"m"} (ID: 0)
			1 ! ill-formed response error object: {"code":"-32000","message":"m"} (ID: 1)`},
		{"in JSON-RPC 1.0 half of a response will do", JSONRPCv1, `
			call a
			call b
			call c
			call d
			--> {"result":1,"id":0}
			--> {"error":{"code":5,"message":"no"},"id":1}
			--> {"result":null,"id":2}
			--> {"id":3,"error":{"error":"unknown database","details":"x"},"result":null}
			0 = 1
			1 ! no (code 5)
			2 = null
			3 ! no error message provided (code -100)`},
		{"a result and an error together are still bad", JSONRPCv1, `
			call a
			--> {"result":1,"error":"x","id":0}
			0 ! response has a "result" and an "error"`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}

// TestDecidedRefusals plays some about errors whose id is null.
func TestDecidedRefusals(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"an error without an id is for the only message that was sent", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"what?"},"id":null}
			0 ! what? (code -32700)
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			1 ! no (code -32600)
			unexpected 0`},
		{"if that is a batch, for all of its calls", JSONRPCv2, `
			batch a /b c
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"batch too long"},"id":null}
			0 ! batch too long (code -32600)
			1 ! batch too long (code -32600)
			unexpected 0`},
		{"after a reply, for what was sent since", JSONRPCv2, `
			call a
			call b
			note c
			--> {"jsonrpc":"2.0","result":0,"id":1}
			--> {"jsonrpc":"2.0","result":0,"id":0}
			batch d e
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			2 ! no (code -32600)
			3 ! no (code -32600)
			unexpected 0`},
		{"after a late reply too", JSONRPCv2, `
			call a
			cancel 0
			--> {"jsonrpc":"2.0","result":0,"id":0}
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			1 ! no (code -32600)`},
		{"in an array as well, unless that answers anything", JSONRPCv2, `
			batch a b
			--> [{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}]
			0 ! no (code -32600)
			1 ! no (code -32600)
			unexpected 0
			batch c d
			--> [{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null},{"jsonrpc":"2.0","result":3,"id":3}]
			2 ! rpcx: no response to this member of the batch
			3 = 3
			unexpected 1`},
		{"in JSON-RPC 1.0 and loose too", JSONRPCLoose, `
			call a
			--> {"result":null,"error":{"code":"-32600","message":"no"},"id":null}
			0 ! no (code -32600)`},
		{"any other code is for nobody", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","error":{"code":-32603,"message":"no"},"id":null}
			--> {"jsonrpc":"2.0","error":{"code":-32000,"message":"no"},"id":null}
			--> {"jsonrpc":"2.0","error":{"code":"-32600","message":"no"},"id":null}
			--> {"jsonrpc":"2.0","result":1,"id":null}
			0 ?
			unexpected 4`},
		{"so is an error after two calls", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			0 ?
			1 ?
			unexpected 1`},
		{"or after a notification", JSONRPCv2, `
			note a
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			unexpected 1`},
		{"or before one", JSONRPCv2, `
			call a
			note b
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			unexpected 1`},
		{"or after a reply of ours", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","method":"b","id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			unexpected 1`},
		{"or while an older call is pending", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","result":1,"id":1}
			call c
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			2 ?
			unexpected 1`},
		{"or after a call was given up", JSONRPCv2, `
			call a
			cancel 0
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			1 ?
			unexpected 1`},
		{"or when a part of the batch was answered", JSONRPCv2, `
			batch a b
			--> {"jsonrpc":"2.0","result":1,"id":0}
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			1 ?
			unexpected 1`},
		{"or when nothing is pending", JSONRPCv2, `
			note a
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			unexpected 1`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}
