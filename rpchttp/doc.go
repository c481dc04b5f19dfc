// Package rpchttp runs JSON-RPC over HTTP: each message is the body of a POST, and the body
// of the response is the reply.
//
// # A client
//
// [Dial] returns a [Client], whose calls are those of a session, except that the server
// cannot call back:
//
//	client, err := rpchttp.Dial("https://example.com/rpc", nil)
//	defer client.Close()
//	sum, err := rpcx.Call[int](ctx, client, "sum", rpcx.Args{1, 2})
//
// A [Dialer] has credentials, TLS, proxies and limits. If the server answers with something
// other than JSON-RPC, the error is a [*StatusError]. The Client sends again what the server
// has not received, or not started. Calls that the server may have carried out are repeated
// only if Dialer.Idempotent allows it.
package rpchttp
