// Package rpchttp speaks JSON-RPC over HTTP: each POST brings a message, or a batch, and
// is answered with the reply.
//
// # A server
//
// [Handler] is an [http.Handler] for any mux. Its [rpcx.Server] may also serve TCP and
// WebSockets: methods, limits, budgets and counters are the same. The handler keeps
// nothing between two requests.
//
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
//	mux.Handle("/rpc", &rpchttp.Handler{Server: srv})
//	mux.Handle("/ready", rpchttp.Ready(srv))
//	web := &http.Server{Handler: mux, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
//
// The http.Server bounds the header, the URL, and the bodies for other handlers of the mux.
// On a public port, set ReadTimeout and IdleTimeout, and MaxHeaderBytes to 32 KiB, say; the
// default is a megabyte. Do not set WriteTimeout: in HTTP/2 it ends a handler that takes
// longer.
//
// Handler bounds the body, by MaxSize and ReadTimeout. A client must read a reply within
// Limits.SendTimeout: 16 KiB each 20 s by default. While the bodies and the unread replies
// of a handler hold more than half of Server.MaxQueuedBytes, that is the time for the whole
// reply.
//
// # Requests
//
// A message has the Content-Type application/json, application/json-rpc or
// application/jsonrequest, and is UTF-8. The body may be compressed with gzip. Other types
// are refused, so that a page in a browser has to ask before it can POST (CORS). Pages of
// other hosts are refused, unless Handler.Origins allows the hosts. If Options.Protocol of
// the server is [rpcx.JSONRPCAutoDetect], each message decides its version alone.
//
// A handler cannot call its client, because HTTP has no calls of the server: the error is
// [rpcx.ErrNoCallback]. With Handler.SSE, a handler can notify. [Request] returns the HTTP
// request of a session. The context of a handler derives from the context of the request,
// and ends when the client goes away.
//
// # Budgets
//
// Each client has a budget, as in other sessions of the server, for all its connections
// together; see [rpcx.Limits]. Behind a proxy, set Handler.Client to [XForwardedFor].
// Otherwise all clients of the proxy share one budget. Server.MaxGroup bounds how many
// requests of a client run at once; more are answered 503.
//
// # Statuses
//
// An answer of JSON-RPC has the status 200, whether result, error or batch. The exceptions
// are Handler.Status, and
//
//	400  The body is not what its Content-Encoding says.
//	413  The body is over Handler.MaxSize.
//	429  The budget of the client is used up. Retry-After has the time to wait.
//	503  Nothing of the message was started, and the client may send the message again: the
//	     server is full or was stopped. Retry-After has the time to wait.
//
// If nothing is to be answered, as for a notification, the status is 204, or the status of
// Handler.Empty. The other statuses have a text in place of JSON-RPC:
//
//	400  The body is incomplete.
//	401  Handler.Admit does not let the request in.
//	403  The page has another origin; see Handler.Origins.
//	405  The method is neither POST nor OPTIONS.
//	408  The body was too slow; see Handler.ReadTimeout.
//	415  The Content-Type, charset or Content-Encoding is none of the above.
//	421  The host is not one of the handler's; see Handler.Hosts.
//	500  The exchange has no reply: for example, a handler has closed the session.
//	504  The context of the request has reached a deadline.
//
// The reasons are in the log of the server. The client gets no text of an error of Go.
//
// # The end
//
// [rpcx.Server.Shutdown] waits for the requests under way, and further requests are
// answered 503. [http.Server.Shutdown] closes the listener and waits, too. Call the first
// one first, and set [rpcx.Server].ShutdownNotice, so that balancers see the 503 of Ready in
// time. ListenAndServe of package websocket does both at the end of a context.
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
