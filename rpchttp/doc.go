// Package rpchttp speaks JSON-RPC over HTTP: each POST brings a message, or a batch, and is
// answered with the reply.
//
// # A server
//
// [Handler] is an [http.Handler] for any mux. Its [rpcx.Server] may also serve TCP and
// WebSockets: methods, limits, budgets and counters are the same. The handler keeps nothing
// between two requests.
//
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
//	mux.Handle("/rpc", &rpchttp.Handler{Server: srv})
//	mux.Handle("/ready", rpchttp.Ready(srv))
//	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
//
// The http.Server bounds the header and the URL: on a public port, set ReadHeaderTimeout and
// MaxHeaderBytes. Handler bounds the body, by MaxSize and ReadTimeout, and by Limits.SendTimeout the
// reading of replies by the client.
//
// # Requests
//
// A message is POSTed with the Content-Type application/json, application/json-rpc or
// application/jsonrequest, in UTF-8. The body may be compressed with gzip. Other types are
// refused, so that a page in a browser has to ask before it can POST (CORS). Pages of other hosts
// are refused unless Handler.Origins allows them. If Options.Protocol of the server is
// [rpcx.JSONRPCAutoDetect], each message decides its version alone.
//
// A handler cannot call its client, since there is no connection: the error is
// [rpcx.ErrNoCallback]. With Handler.SSE, a handler can notify.
//
// # Statuses
//
// An answer of JSON-RPC has the status 200, whether result, error or batch, with four
// exceptions: Handler.Status, and
//
//	413  A request body over Handler.MaxSize.
//	429  The budget of the client is used up; see [rpcx.Limits]. Retry-After says when to come back.
//	503  Nothing of the message was started, and it may be sent again: the server is full or
//	     was stopped. Retry-After is set.
//
// If nothing is to be answered, as for a notification, the status is 204, or that of Handler.Empty.
// The other statuses have a text in place of JSON-RPC:
//
//	400  The body is incomplete, or not what its Content-Encoding says.
//	401  Handler.Admit does not let the request in.
//	403  The page has another origin; see Handler.Origins.
//	405  The method is neither POST nor OPTIONS.
//	408  The body was too slow; see Handler.ReadTimeout.
//	415  The Content-Type, charset or Content-Encoding is none of the above.
//	421  The host is not one of the handler's; see Handler.Hosts.
//	500  The exchange has ended without a reply, because a handler has closed the session, for example.
//	504  The context of the request has reached a deadline.
package rpchttp
