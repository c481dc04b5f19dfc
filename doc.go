// Package rpcx is bidirectional JSON-RPC over framed connections: TCP, TLS, unix sockets,
// pipes, WebSockets, or any other carrier of bytes or messages.
//
// Both ends of a connection are alike. Each end is a [Session], which calls its peer and
// answers the peer's calls, at the same time. JSON-RPC 2.0 is the default; 1.0, a loose mix
// of both, and auto-detection are built in. Framing, protocol and codec can be replaced. By
// default a peer cannot make a session use unlimited memory, goroutines or time.
//
// This page is for the first hour. "Where to read on" has the way to the details. Complete
// programs are in the folder examples, and shorter examples in the files example*_test.go.
//
// # Quick start
//
// A server with a method "sum":
//
//	router := rpcx.NewRouter()
//	router.Handle("sum", rpcx.Func(func(ctx context.Context, a, b float64) (float64, error) {
//		return a + b, nil
//	}, "a", "b"))
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
//	err := srv.ListenAndServe(ctx, "tcp://:8888") // until ctx ends
//
// A client:
//
//	s, err := rpcx.Dial(ctx, "tcp://localhost:8888", nil)
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	sum, err := rpcx.Call[float64](ctx, s, "sum", rpcx.Args{1, 2})
//
// # Start here: twelve names
//
//   - [Session]: one end of a connection
//   - [Options]: the settings of a session; nil means the defaults
//   - [Dial]: connects to a server and returns a session
//   - [Server]: accepts connections, with a session for each
//   - [Router]: finds the handler of a method
//   - [Func]: makes a handler of a Go function
//   - [Session.Call]: calls a method of the peer and waits for the reply
//   - [Session.Go]: calls a method and returns a [Future]
//   - [Session.Notify]: sends a notification, which has no reply
//   - [Batch]: calls and notifications in one message
//   - [Error]: an error with a code, for the peer or from the peer
//   - [Session.Shutdown]: finishes the work of a session and closes it
//
// # Calls
//
//	var reply string
//	err := s.Call(ctx, "echo", rpcx.Args{"Howdy"}, &reply)               // by position
//	err := s.Call(ctx, "echo", map[string]any{"message": "hi"}, &reply)  // by name
//	sum, err := rpcx.Call[float64](ctx, s, "sum", rpcx.Args{1, 2})       // typed
//
// Params are any value that encodes to a JSON array or object. A call whose context has no
// deadline ends after Limits.RequestTimeout, 30 s. [Session.Go] does not wait for the reply,
// so that many calls can be pending:
//
//	f := s.Go(ctx, "echo", rpcx.Args{"later"})
//	// …
//	err := f.Wait(ctx, &reply)
//
// # Notifications and batches
//
// [Session.Notify] returns when the message is queued. A [Batch] is one message with many
// calls and notifications; the results arrive in their destinations:
//
//	err := s.Notify(ctx, "log", rpcx.Args{"it rains"})
//
//	var b rpcx.Batch
//	b.Call("echo", rpcx.Args{"one"}, &first)
//	b.Call("sum", rpcx.Args{1, 2}, &sum)
//	b.Notify("log", rpcx.Args{"it rains"})
//	err := s.SendBatch(ctx, &b)
//
// # Handlers
//
// A [Handler] answers requests and notifications. [Func] makes a handler of a function,
// with names for named arguments, and a [Router] finds handlers by method:
//
//	router.Handle("divide", rpcx.Func(func(ctx context.Context, a, b float64) (float64, error) {
//		if b == 0 {
//			return 0, rpcx.InvalidParams("division by zero")
//		}
//		return a / b, nil
//	}, "a", "b"))
//
// A function with a parameter of type *Session can call the peer back:
//
//	router.Handle("greet", rpcx.Func(func(ctx context.Context, s *rpcx.Session) (string, error) {
//		name, err := rpcx.Call[string](ctx, s, "name", nil)
//		return "hello, " + name, err
//	}))
//
// Handlers run concurrently, up to Limits.Concurrency of a session; [Options].Order changes
// this. [Options].Gate handles what must come first, such as a login, until
// [Session.Admit]. The context of a handler ends with the session, and after Limits.ProcessingTimeout,
// 30 s. If a handler panics, its request is answered with an error, and the session goes on.
//
// # Subscriptions and progress
//
// [Subscribe] makes a subscribing call, and returns a [Stream] of the values. A [Correlation]
// says how notifications belong to the subscription: [EthSubscription], [ElectrumScriptHash]
// and others. No value is missed between the reply and the first Next, and none comes early:
//
//	heads, err := rpcx.Subscribe[Header](ctx, s, rpcx.Subscription{
//		Method: "eth_subscribe", Params: rpcx.Args{"newHeads"},
//	})
//	if err != nil {
//		return err
//	}
//	defer heads.Close() // unsubscribes
//	for head := range heads.Values() {
//		// …
//	}
//	return heads.Err()
//
// [CallProgress] is a call that reports progress, or partial results, until its reply. The
// handler reports them by [Progress], for the token that came with the request. For tokens
// that the peer has made, see [StreamOf]:
//
//	n, err := rpcx.CallProgress[int](ctx, s, rpcx.MCPProgress, "tools/call", params, func(p Step) {
//		fmt.Println(p.Progress, "of", p.Total)
//	})
//
// # Errors
//
// If a handler returns an [*Error], its code, message and data are sent. The text of any
// other error is logged, and the peer receives [CodeInternalError]:
//
//	return nil, rpcx.Errorf(1, "out of stock").WithData(map[string]any{"item": id})
//
// A call returns one of these errors, or the cause of its context:
//
//	*Error             an error from the peer; match the code with errors.Is:
//	                   errors.Is(err, rpcx.ErrMethodNotFound)
//	*ProtocolError     the reply is ill-formed, or the call cannot be expressed
//	*SizeError         the call or the reply is larger than the framer takes
//	*ConnectionError   the connection ended first; matches ErrConnectionLost and the reason
//	ErrClosed          the session was over before
//	ErrNoCallback      the peer of Server.ServeMessage cannot be called
//	ErrNotConnected    a Client has no session
//	ErrTimeout         Limits.RequestTimeout passed; matches context.DeadlineExceeded
//	ErrCancelled       Future.Cancel was called; matches context.Canceled
//	ErrNoResponse      the reply to a batch has no response to this call
//	*BatchError        calls of a batch failed
//
// # Servers
//
// [Server.ListenAndServe] takes tcp://host:port, tls://host:port and unix:///path, and may be
// called for several addresses. [Server.ServeContext] takes a listener, and
// [Server.ServeConn] a connection. [Server.OnSession] is called for each new session;
// [Server.Sessions] ranges over the live sessions, to call or notify clients. Behind a proxy,
// a Preamble of the server reads the header with the address of the client.
//
// A server counts the cost of each session, in bytes and errors. A client that costs too
// much is first delayed, then disconnected: see [Limits].
//
// # A client that reconnects
//
// A [Client] is a [Caller] over sessions that come and go. It connects in the background,
// after a random backoff, logs in on each session, subscribes again, and repeats the calls
// that were not written, that were refused as not started, or that are idempotent:
//
//	c := rpcx.NewClient(&rpcx.ClientOptions{
//		Addrs: []string{"tls://one.example:50002", "tls://two.example:50002"},
//		OnConnect: func(ctx context.Context, s *rpcx.Session) error {
//			return s.Call(ctx, "login", rpcx.Args{"gopher"}, nil)
//		},
//		Idempotent: func(method string) bool { return method == "sum" },
//	})
//	defer c.Close()
//	sum, err := rpcx.Call[float64](ctx, c, "sum", rpcx.Args{1, 2}) // waits for a session
//
// If the peer may have carried out a call that is not idempotent, the error is a
// [*ConnectionError] with Written set. Set Limits.KeepAliveMethod to a method of the peer
// that does nothing: TCP alone does not notice a peer that hangs, or a proxy that has lost
// the peer.
//
// # Publishing
//
// A [Hub] sends what is published under a topic to the sessions that have subscribed, after
// the reply to the subscribing request. A [Correlation] names the form of the notifications:
//
//	hub := new(rpcx.Hub)
//	subscribe, unsubscribe := hub.Handlers(rpcx.EthSubscription, topicOf, nil)
//	router.Handle("eth_subscribe", subscribe)
//	router.Handle("eth_unsubscribe", unsubscribe)
//	…
//	err := hub.Publish(ctx, "newHeads", head) // encodes once, and waits for no session
//
// If a peer reads too slowly, Hub.Overflow decides which values it misses, or whether the
// subscription or the session ends. A [Broker] connects the hubs of several processes.
//
// # Stopping
//
// When main returns, unsent and unfinished work is lost. So a program ends with Shutdown,
// and its context bounds the wait. [Session.Close] does not wait for the peer:
//
//	defer s.Close() // for the other ways out
//	…
//	return s.Shutdown(ctx) // waits until calls are answered and messages are written
//
// A server stops when the context of ListenAndServe ends, and lets handlers finish:
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
//	if err := srv.ListenAndServe(ctx, "tcp://:8888"); err != nil {
//		log.Fatal(err)
//	}
//
// A handler must not wait for the end of its own session or server. A handler ends its
// session by [ReplyAndDisconnect]. [Session.Done] and [Session.Err] report the end.
//
// # Testing and logging
//
// [Pipe] joins two sessions in memory, also in a bubble of [testing/synctest]. Set
// [Options].Logger while you try something out: the default logger is silent.
//
// # Where to read on
//
// The comments on types have the rules: shapes, units, defaults, errors. In the source,
// docs/behaviour.md describes behaviour by topic, and docs/limits.md limits, bursts and cost.
// docs/cookbook.md has recipes: logins, rate limits, files, restarts, proxies, tests.
//
//   - order of messages: [Order], [AfterReply]; limits and cost: [Limits]; bursts: docs/limits.md
//   - end of a session or program: [Session], [Server], docs/behaviour.md
//   - requests that are cancelled: [Cancellation]
//   - services that are passed around and called back: [Proxy], [Expose], [BindProxy]
//   - a client that reconnects: [Client], [ClientOptions], docs/behaviour.md
//   - HTTP: the package example.com/rpcx/rpchttp, docs/behaviour.md
//   - calls without a session: [Caller]; over a queue, for example: [NewExchange], [RoundTripper]
//   - messages of a queue, for example, answered: [Server.ServeMessage]
//   - subscriptions and their queues: [Subscription], [Stream], Options.Correlations
//   - forms of subscriptions: [Correlation], [Hub.Subscribe]; slow subscribers: [Hub]
//   - functions around calls, data about requests: [OutgoingCall], [Meta]
//   - values in handlers' contexts: Options.Context; a login first: Options.Gate
//   - how a request came: [Request.Seq], [Request.Arrived]
//   - news to many sessions: [Session.TryNotify], [Hub]
//   - descriptions of methods: [SignatureOf], [Documented], docs/describing.md
//   - dialects of JSON-RPC, other protocols: [Protocol], [Aiomas], [BitcoinProtocol]
//   - framing of bytes: [Framer]; transports with messages: [MessageConn]; encodings: [Codec]
//   - WebSockets: the package example.com/rpcx/websocket
//   - programs on standard input and output: [Command], [Stdio]
//   - SOCKS proxies and Tor: [SOCKSProxy]; proxies in front of a server: docs/limits.md
//   - events and counters: [Trace], [Session.Stats], [Server.Stats]
//   - metrics and traces: the modules prometheus and otel, docs/observing.md
//   - task groups and deadlines, which need no session: [TaskGroup], [TimeoutAfter]
//   - messages without a session: [Protocol], [Batch.Append]
package rpcx
