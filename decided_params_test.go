package rpcx

import "testing"

// TestDecidedParams plays conversations as TestDecided does, about params that are null.
func TestDecidedParams(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"params that are null are none", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}
			--> [{"jsonrpc":"2.0","method":"a","params": null ,"id":1},{"jsonrpc":"2.0","method":"a","params":null}]
			<-- [{"jsonrpc":"2.0","result":[],"id":1}]`},
		{"in JSON-RPC 1.0 too, which asks for them", JSONRPCv1, `
			--> {"method":"a","params":null,"id":1}
			<-- {"result":[],"error":null,"id":1}
			--> {"method":"a","id":2}
			<-- {"result":[],"error":null,"id":2}`},
		{"and where the protocol is loose", JSONRPCLoose, `
			--> {"method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}`},
		{"and where it is found out", JSONRPCAutoDetect, `
			--> {"method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}`},
		{"other params that are no list or dictionary are still bad", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":false,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: false"},"id":1}
			--> {"jsonrpc":"2.0","method":"a","params":"null","id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: \"null\""},"id":1}`},
		{"if params are strict, null is bad", JSONRPCv2, `
			strict params
			--> {"jsonrpc":"2.0","method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: null"},"id":1}
			--> {"jsonrpc":"2.0","method":"a","id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}`},
		{"if they are strict, JSON-RPC 1.0 asks for them", JSONRPCv1, `
			strict params
			--> {"method":"a","id":2}
			<-- {"result":null,"error":{"code":-32602,"message":"invalid request arguments: none"},"id":2}`},
		{"a request whose id is null is a notification", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","id":null}`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}
