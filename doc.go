// Package rpcx is bidirectional JSON-RPC over framed connections: TCP, TLS, unix
// sockets, pipes, or anything else that carries bytes or messages.
//
// Both ends of a connection are alike. Each is a [Session], which can call the
// other, be called by it, and do both at once. JSON-RPC 2.0, 1.0, a loose mix of
// the two and auto-detection are built in; framing, protocol and codec can be
// replaced. What a peer can make a session hold is bounded by default (see Limits
// below), so that one can be exposed.
//
// This page is the manual, in the order in which a newcomer needs it. A server
// and a client in full are in the folder examples of the source.
//
// # Sessions
//
// A session is made by [Dial], by a [Server] for each connection that it accepts,
// by [NewSession] on a stream of bytes, by [NewMessageSession] on a connection
// that keeps messages apart, or by [Pipe], two at once, for tests. What it is to
// do is in [Options]; a nil *Options is the zero value, and that is the defaults:
// JSON-RPC 2.0, a message on each line, no methods.
//
// It works from then on, until its connection ends, or [Session.Close] or
// [Session.Shutdown] is called. One of these must be: a session that is merely
// forgotten lives as long as its connection. [Session.Done] tells that it is
// over, and [Session.Err] why.
//
// # Dialling and serving
//
//	s, err := rpcx.Dial(ctx, "tcp://localhost:8888", nil)
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//
// An address is tcp://host:port, tls://host:port (ssl:// is the same) or
// unix:///path (a server takes over a file on which nobody listens any more, see
// [Listen]); for ws:// and wss:// see WebSockets below. [Dialer] has what Dial
// leaves to defaults: a time limit, a TLS configuration, a proxy, and a function to
// make the connection.
//
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
//	err := srv.ListenAndServe(ctx, "tcp://:8888")
//
// ListenAndServe serves until ctx ends, lets what is under way be finished, and returns
// nil, or an error if that took longer than Server.ShutdownTimeout. It may be called for several addresses at once, one for
// TCP and one for TLS, say. [Server.ServeContext] takes a listener, your own or that of
// [Listen], [Server.Serve] does without a context, and [Server.ServeConn] a connection. [Server.OnSession] is called for
// each session before its first request is handled: to log it, to keep it for calls
// to the client, to set a callback for its end with [Session.OnClose], and to give it
// what the program has to know of it with [Session.SetValue], which handlers find in
// their contexts: see the example of Server, State.
//
// [ServiceAddr] and [NetAddress] are addresses that have been checked, for lists of
// peers and configurations: comparable, and texts in JSON. [ParseServiceAddr] and
// [ParseNetAddress] fill in defaults.
//
// # Proxies and Tor
//
//	proxy, err := rpcx.ParseSOCKSProxy("socks5://127.0.0.1:9050")
//	proxy.Auth = rpcx.SOCKSRandomAuth{}
//	d := rpcx.Dialer{SOCKS: proxy}
//	s, err := d.Dial(ctx, "tcp://name-of-a-service.onion:50001", nil)
//
// A [SOCKSProxy] dials through a SOCKS proxy of version 4, 4a or 5. What is dialled
// through it is reached through it or not at all: there is no way round it, and
// the host's name is looked up by the proxy, not here, unless
// SOCKSProxy.ResolveLocally says so. A proxy can be on a unix socket, by the URL
// socks5+unix:///path. Its DialContext also fits http.Transport.
// [Session.SOCKS] tells the proxy, and [Session.RemoteAddr] what it was asked for.
//
// With Tor that is what keeps names out of DNS and makes onion addresses work, so
// use SOCKS5 or SOCKS4a and leave ResolveLocally alone. By default Tor sends streams
// with different credentials over different circuits, so that they cannot be
// linked to each other: [SOCKSRandomAuth] keeps every connection apart from all
// others, [SOCKSDestinationAuth] those to different places, and a [SOCKSUserAuth]
// for each account or purpose whatever you like. Tor takes any.
//
// A refusal is a [*SOCKSError], whose Reply is the proxy's code. If Tor's SocksPort
// has the flag ExtendedErrors, the codes 0xF0 to 0xF7 tell what is wrong with an
// onion service. [DetectSOCKS] and [DetectSOCKSHost] find proxies: Tor's is on port
// 9050, or 9150 with the browser. [SOCKSHandshake] is the protocol alone.
//
// # Calls and futures
//
//	var reply string
//	err := s.Call(ctx, "echo", rpcx.Args{"Howdy"}, &reply)               // by position
//	err := s.Call(ctx, "echo", map[string]any{"message": "hi"}, &reply)  // by name
//	sum, err := rpcx.Call[float64](ctx, s, "sum", rpcx.Args{1, 2})       // typed
//	err := s.Notify(ctx, "log", rpcx.Args{"it rains"})                   // not answered
//
// Params are whatever encodes to a JSON array or object: [Args], a slice, a map,
// a struct, a [json.RawMessage], the [Params] of a request that is passed on. Nil
// and an empty array are left out (in JSON-RPC 1.0 they are []); [EmptyArgs] is sent
// as "params":[], to peers that ask for the member. Anything else fails before it is
// sent. They have been encoded when Call, Go or Notify returns, and may be changed
// then.
//
// The ids of calls are numbers, from 0 on. For a peer that takes 0 for no id,
// Options.FirstID is 1.
//
// [Session.Go] does not wait for the reply. It returns a [Future], so that many
// calls can be under way. Where Limits.Outgoing of them have no reply, it waits for
// one of theirs; a negative value lets any number be under way:
//
//	f := s.Go(ctx, "echo", rpcx.Args{"later"})
//	// …
//	err := f.Wait(ctx, &reply)
//
// A future can also be waited for in a select ([Future.Done], then
// [Future.Decode]), call back ([Future.OnDone]), or be given up
// ([Future.Cancel]). There is no goroutine for a call that is under way.
//
// The context given to a call bounds all of it, from the wait for a slot or for room
// to the reply. When it ends, the call fails with its cause ([context.Cause]), the peer
// is not told (unless Options.Cancellation says how, see Cancellation), and a reply that
// comes later is dropped. The context given to Wait bounds only the waiting; that of
// Notify only the wait for room.
//
// Limits.RequestTimeout, 30 s by default, is for calls whose context has no deadline, and
// for no others. It is NOT an upper limit: a context with a deadline of ten minutes lets
// its call take ten minutes, which is how a long poll is made, if the other side's
// Limits.ProcessingTimeout lets the handler take as long. The shorter of the two does
// not win, since a deadline that somebody has set is a wish, and the default is a guess.
// Who wants a shorter time for one call gives it a context with that. The context of a
// handler has a deadline, too (Limits.ProcessingTimeout): it bounds the calls that are
// made with it.
//
// # Handlers
//
// A [Handler] answers requests. Most are made by [Func] of an ordinary function,
// and put into a [Router] under their method:
//
//	router := rpcx.NewRouter()
//	router.Handle("divide", rpcx.Func(func(ctx context.Context, a, b float64) (float64, error) {
//		if b == 0 {
//			return 0, rpcx.InvalidParams("division by zero")
//		}
//		return a / b, nil
//	}, "a", "b"))
//
// The names at the end allow calls with named arguments; "b?" would make b
// optional. A variadic parameter takes the rest of the positional arguments. An only
// parameter that has no name takes all params: a struct, or a pointer to one, its fields
// by name; a map, whatever is given by name; a slice, all positional arguments.
// Arguments that are missing, too many, unknown, given twice or of the wrong type
// are answered with [CodeInvalidParams] and a message that names them. With "..." as
// the last name those that are unknown are left out: clients of language servers and
// of agents' tools send more than one asks for; Options.IgnoreUnknownParams does so for
// a whole session. The log of this side is told how what was missing or unknown could be
// allowed. What cannot be a handler panics when it is built, and not when it is called,
// with what to write instead.
//
// A handler without a result answers null. One that returns struct{}{} answers {}, which
// peers such as those of MCP expect.
//
// A [HandlerFunc] sees the [Request] as it came, and decodes with [Request.Bind]. Any
// other handler reaches it by [RequestFromContext].
// Options.Middleware is wrapped around Options.Handler, the first outermost: once
// for a session, or once for all sessions of a [Server].
//
// A handler's context ends when the handler returns, when
// Limits.ProcessingTimeout has passed since the request arrived, and when the
// session ends, or the peer cancels the request where there is a [Cancellation];
// [context.Cause] tells which. Over TCP, a client that hangs up does not cancel its
// handlers at once: it may have closed only its half, and wait for replies. They may go
// on for Limits.HalfClose, 5 s, or until a write fails. The context carries no values from outside. A
// handler that goes on after its context has ended keeps its place among the
// Limits.Concurrency that may run, and what it returns is dropped.
//
// A handler that panics is answered [CodeInternalError], logged with its stack,
// and does no harm to the session. (Nothing else is recovered: a panic in
// OnSession, in a callback or in a [Trace] ends the program.) The result of
// [ReplyAndDisconnect] is sent, in a batch when its other replies are there, and
// then the session is closed. A handler of a notification can return it, too.
//
// Examples are those of [Func], [Router], [HandlerFunc] and [ReplyAndDisconnect].
//
// # Cancellation
//
// JSON-RPC has no way to say that a reply is not wanted any more. With one notification
// that both ends know, a [Cancellation], there is one:
//
//	opts := &rpcx.Options{Handler: router, Cancellation: rpcx.RPCCancellation} // at both ends
//
//	router.Handle("search", rpcx.Func(func(ctx context.Context, text string) ([]string, error) {
//		return index.Search(ctx, text) // which returns ctx.Err() when ctx ends
//	}))
//
//	ctx, cancel := context.WithTimeout(ctx, time.Second) // or Future.Cancel, or any other end
//	defer cancel()
//	found, err := rpcx.Call[[]string](ctx, s, "search", rpcx.Args{"gopher"})
//
// The caller gets the cause of its context's end, or [ErrCancelled] by [Future.Cancel], at
// once: it does not wait for the peer. The notification follows if the outbox has room.
// The handler sees its context end, with the cause [ErrPeerCancelled]. If it returns the
// context's error, the request is answered with the dialect's code, which costs nothing;
// if it returns a result all the same, that is sent. (A dialect without a code has neither
// sent.) The caller's session drops what comes, as a late reply. A request that has not begun is answered at once, and never handled. A handler that
// does not look at its context runs on, as it would without cancellation. A caller that
// hangs up cancels nothing by that: over TCP its handlers may go on for Limits.HalfClose,
// 5 s.
//
// The dialects differ in the method, the param and the code:
//
//	RPCCancellation   rpc.cancel               [id]               code -32097
//	LSPCancellation   $/cancelRequest          {"id": id}         code -32800
//	MCPCancellation   notifications/cancelled  {"requestId": id}  not answered
//
// For a protocol of your own take RPCCancellation. Peers that have another dialect have a
// Cancellation of theirs. If the other end has not set the same one of the three, nothing
// breaks: it logs the first notification and what to set, and its handlers go on.
//
// # Batches
//
// A [Batch] is sent in one message, and answered in one:
//
//	var b rpcx.Batch
//	b.Call("echo", rpcx.Args{"one"}, &first)
//	b.Call("sum", rpcx.Args{1, 2}, &sum)
//	b.Notify("log", rpcx.Args{"it rains"})
//	err := s.SendBatch(ctx, &b)
//
// The error is a [*BatchError] if any of the calls failed; the results of the
// others are in their places all the same. If a member cannot be encoded, nothing is
// sent, and the error says which. An empty batch is not sent, and is no error. A Batch
// must not be copied once it was used: its methods panic then, and go vet finds it. Batch.Call returns the future of the
// one call, and [Session.GoBatch] that of the whole, instead of waiting. Results
// are decoded into their destinations by SendBatch, or by Wait on one of the
// futures, on the goroutine that calls it.
//
// A member of a reply is matched by its id, to whatever call has that. A member
// that is left out of a reply fails with [ErrNoResponse]. A peer that answers
// members one by one is understood, too: the batch is over when the last is
// answered. The members of a batch that comes in are handled concurrently, like
// requests that come one by one. Of its invalid members the first 16 are answered; if
// there are more, the whole batch is answered with one error, and none of its members
// is handled. A batch of more calls and notifications than
// Limits.Batch is refused when it comes in, and is not sent. A peer that refuses a
// batch as a whole answers with one error without an id (null). Such an error fails
// the calls that are pending at once if it says that a message could not be read
// (-32700, -32600), and if nothing but that batch, or that one call, was sent since
// the last reply; any other is logged and counted in Stats.UnexpectedReplies. A batch
// is one message: if it is longer than the peer's framer takes (see below) all of its
// calls end with [ErrTimeout]. JSON-RPC 1.0 has no batches.
//
// # Calling back
//
// The handlers of a method may call the peer that called it. [Func] passes the
// session to a function that asks for it, and a Request has it too:
//
//	rpcx.Func(func(ctx context.Context, s *rpcx.Session) (string, error) {
//		name, err := rpcx.Call[string](ctx, s, "name", nil)
//		return "hello, " + name, err
//	})
//
// This cannot deadlock by itself, for replies are never held up by handlers. But
// handlers that call each other back and forth, each waiting for the next, hold
// one place of Limits.Concurrency at each step; where those run out, the timeouts
// end it.
//
// A server calls its clients in the same way at any time: [Server.Sessions]
// ranges over them.
//
// A broadcast must not wait for the slowest. Notify waits for room when Limits.Outbox is
// full, and a client that does not read holds up a loop for up to Limits.SendTimeout; a
// call waits for the client's reply. So give each Notify a context with a short deadline
// and go on when it fails, or give each session a queue and a goroutine that ends with
// <-s.Done(). Session.OnClose removes the session from the list. The example Chat does all
// this. Hold no mutex while you call or notify.
//
// # Services and proxies
//
// Routers make a tree. [Router.Mount] hangs one into another, and a method is called
// by its path, "kitchen/oven/temperature" (or with dots). [Expose] makes a router of
// exactly the methods of an interface, and [ExposeMap] one of a map, nested freely:
//
//	house := rpcx.ExposeMap(map[string]any{
//		"rooms":   func() []string { … },
//		"kitchen": rpcx.Expose[Kitchen](kitchen),
//	})
//
// What was not put into the tree cannot be reached, and asking for it says so. The
// tree may be changed while it serves.
//
// A [Proxy] stands for a service at the other end. [Session.Remote] is its root:
//
//	oven := s.Remote().At("kitchen", "oven")
//	err := oven.Call(ctx, &celsius, "temperature")
//	err := oven.Call(ctx, nil, "heat", 180, rpcx.Named{"minutes": 20})
//
// [BindProxy] fills the functions of a struct, so that calls are typed:
//
//	var oven struct {
//		Temperature func(ctx context.Context) (float64, error)
//	}
//	err := rpcx.BindProxy(s.Remote().At("kitchen", "oven"), &oven)
//	celsius, err := oven.Temperature(ctx)
//
// Proxies send paths with "/". A peer that has dots is called by the whole name,
// "kitchen.oven.temperature", as the method or in the tag of a field.
//
// With Options.Objects a service can be an argument or a result, at any depth: a
// *Router in the tree of the session's handler, or what Expose was given. It
// travels as {"__type__":[0,path]}, and arrives as a *Proxy, which can be called at
// once, also from inside the handler that has received it. So a server calls back
// whoever has registered with it:
//
//	rpcx.Func(func(ctx context.Context, guest *rpcx.Proxy) error {
//		return guest.Call(ctx, nil, "welcome")
//	})
//
// A null arrives as a nil *Proxy, whose calls fail.
//
// A service that hangs elsewhere is refused before anything is sent, and so is a
// proxy: nobody could call it. Options.Types has further types that travel in this
// form; see [NewType].
//
// # Errors
//
// A handler that returns an [*Error], or an error that wraps one, has its code,
// message and data sent:
//
//	return nil, rpcx.Errorf(1, "out of stock").WithData(map[string]any{"item": id})
//
// Of any other error nothing is sent: it is logged, and
// answered [CodeInternalError], "internal server error". (The protocol of aiomas
// sends its text.) Errors that the peer itself has answered, or another program, are
// passed on unless they are wrapped with %v: see [Handler].
//
// Errors of this package repeat at most 64 bytes of a name that the peer has made up,
// and its length. The text of an error, as its method Error returns it, has at most 512
// bytes of a message and no characters that cannot be printed, for it ends up in logs
// and on terminals; Error.Message is what the peer has sent.
//
// A call returns:
//
//	*Error             the peer answered with an error (Error.DecodeData has its data);
//	                   match its code with errors.Is:
//	                   errors.Is(err, rpcx.ErrMethodNotFound)
//	*ProtocolError     the peer's answer was ill-formed, which ends the call at once if
//	                   the answer has its id; or the call could not be expressed and
//	                   was not sent (Unsent); its code matches in the same way
//	*SizeError         the call is larger than the framer takes, and was not sent; or its
//	                   reply was, and was dropped
//	*ConnectionError   the connection ended first; it matches ErrConnectionLost and the
//	                   reason, such as io.EOF or ErrClosed
//	ErrClosed          the session was over before; it matches net.ErrClosed, and the
//	                   reason and ErrConnectionLost if there was another than Close
//	ErrTimeout         Limits.RequestTimeout passed; it matches context.DeadlineExceeded
//	ErrCancelled       Future.Cancel was called; it matches context.Canceled
//	ErrNoResponse      a batch was answered without this member
//	*BatchError        calls of a batch failed; it matches what any of their errors matches
//	the context's cause, if that ended first
//	an error of the codec, if the result cannot be decoded
//
// ConnectionError.Written tells whether the request had been handed to the
// connection when the session ended: if so, the peer may have carried it out.
//
// # Protocols
//
// A [Protocol] is what messages mean. [JSONRPCv2] is the default, strict about
// the version. [JSONRPCv1] has no named arguments and no batches.
// [JSONRPCLoose] reads both and writes 2.0. [JSONRPCAutoDetect] settles on one of
// the three by the first message that arrives: a request without a "jsonrpc"
// member, which may be 1.0 or not, makes it JSONRPCLoose. So serve clients that
// are known to speak 1.0 with JSONRPCv1.
//
// All are stricter than encoding/json about the members that they know: their
// names match in exact case, and one that is given twice makes the message
// invalid, since two programs would read it differently. An id may be any number
// or string (in 1.0 an array or an object as well) and is echoed byte for byte. A
// boolean is no id. A request of 2.0 whose id is null is taken for a notification, as
// in aiorpcX: it is handled, and not answered. Params are an array or an object, or
// left out, or null, which is the same, as editors send it: with Options.StrictParams
// null is answered [CodeInvalidParams], as in aiorpcX. A message is nested 10,000
// levels deep at most, and is UTF-8.
//
// A reply that is nearly right is not left to the timeout. Whatever has the id of a
// pending call and no method ends that call: with a [*ProtocolError] if there is
// neither a result nor an error, if the id is the string of the call's number, if a
// code is no integer, or if the text is no JSON. JSONRPCLoose takes a missing result
// for null, such a string for the number, and -32000.0 or "-32000" for the code.
// JSONRPCv1 and JSONRPCLoose understand a response that has only a result or only an
// error, and an error of any shape, which is kept whole in [Error].Data unless it is
// {code, message} with or without data.
//
// [Aiomas] is the protocol of aiomas.rpc, for Python programs that speak it. Services
// are sent without Options.Objects there, and arguments by place and by name go
// together. It has no notifications and no batches. The package msgpack has the same
// in MessagePack. It is in a module of its own, example.com/rpcx/msgpack.
//
//	opts := &rpcx.Options{Protocol: rpcx.Aiomas, Framer: rpcx.LengthFramer{}}
//
// # Framers and message connections
//
// A [Framer] keeps messages apart in a stream of bytes. [NewlineFramer], the
// default, ends each with a newline. [LengthFramer] has the length of each message
// before it, and [HeaderFramer], as language servers do, headers with one. Both ends
// need the same framer, and a framer of your own is two methods: see ExampleFramer.
//
// No message is larger than MaxSize, a megabyte by default; where larger ones are
// expected both ends set it: Options{Framer: rpcx.NewlineFramer{MaxSize: 10 << 20}}. A message of our own that is larger is not sent, and the
// call, notification or batch fails with a [*SizeError]. A reply is replaced by an error
// with [CodeInvalidRequest]; if it is a batch's, errors first take the place of its
// largest members.
//
// A message that comes in and is larger is dropped and counted, and what follows it is
// read as before. The peer is answered CodeInvalidRequest, under the request's id if that
// stands within the first KiB, as it does if it comes before the params. If the message
// is a reply whose id stands there, or only one call is pending, the call ends with a
// *SizeError. A framer of your own takes part in this as a [SizeLimiter], and by
// FrameError.TooLarge.
//
// [JSONFramer] finds where each JSON value ends, for peers that put nothing between
// messages, as Open vSwitch's database server, or any white space.
//
// A session passes over blank messages, such as the second newline with which Core
// Lightning ends each of its own, and over a byte order mark before the first message.
// If the first that comes in is no message but looks like HTTP, TLS, SSH, UTF-16 or the
// framing of another framer, the session ends with a [*FrameError] that says so, and so
// does the log. The log tells of a message that the end of input cut off. If what has come
// is no message yet and nothing more comes for 5 s, the log says, once, what it looks like
// (JSON that no newline ends, and which framer reads that), as do calls that time out.
//
// A transport that keeps messages apart by itself is a [MessageConn], which
// [NewMessageSession] and [Server.ServeMessageConn] take. It is a [PartReader], too, if
// it drops messages or takes memory for what has not come in whole, a [SizeLimiter] if it
// takes messages up to a size, and a [CloserWithError] if it can tell its peer why the
// session ends.
//
// # WebSockets
//
// The package example.com/rpcx/websocket dials and accepts them, for browsers among
// others. Its sessions are these, with all that they do:
//
//	mux.Handle("/rpc", websocket.Handler(srv)) // srv is a *rpcx.Server
//	err := websocket.ServeContext(ctx, srv, web, l) // web is an *http.Server with mux
//	s, err := websocket.Dial(ctx, "wss://example.com/rpc", nil)
//	r := websocket.Request(s) // in a handler of srv: the HTTP request, with who is there
//
// The codes with which they are closed say why: 1001 at Server.Shutdown, 1008 for
// cost, 1009 for a message that is too large, or one of the program's own.
//
// # Programs and standard input
//
// [Command] starts a program and speaks to it over its standard input and output:
//
//	s, err := rpcx.Command(ctx, exec.Command("gopls"), &rpcx.Options{
//		Framer: rpcx.HeaderFramer{},
//		Logger: slog.Default(), // has what the program writes to its standard error
//	})
//
// When the session ends, the program's input is closed. A program that has not ended
// after 5 seconds is sent SIGTERM, and after another 2 it is killed; Limits.ExitTimeout
// and Limits.KillTimeout set other times. On Unix the program has a process group of its
// own and the signals go to the group, so a wrapper such as npx or sh leaves nothing behind.
// In a terminal, Ctrl-C then reaches the program that has called Command alone, which has
// to close the session: see [Command] for how to change that. Done says that the program
// and its group have ended, and cmd.ProcessState how; if the program has failed by
// itself, Err and the error of calls that were pending most often do, too: see there. The
// program's side is
//
//	s := rpcx.NewSession(rpcx.Stdio(), opts)
//	<-s.Done()
//
// and must not print anything else. If the other program is gone, the session ends, with
// OnClose and Done, even while it sends: on Unix, Stdio writes to a duplicate of descriptor
// 1. A write to os.Stdout or os.Stderr itself still ends the program by SIGPIPE then,
// unless the program has called signal.Ignore(syscall.SIGPIPE). A read of standard input
// cannot be ended, so one goroutine can outlive such a session. [Join] makes a connection of any other
// reader and writer of that kind.
//
// Programs are held to [Limits] as any peer is. Who trusts one, and cannot do without
// any of its notifications, sets Limits.Queue, Limits.QueueBytes and
// Limits.ProcessingTimeout, which bounds how long they wait, to -1.
//
// # Plain messages
//
// The nodes of Bitcoin and of networks like it send each other messages that are
// a command with a payload of bytes, and have no answers. With
//
//	rpcx.Options{
//		Protocol: rpcx.BitcoinProtocol,
//		Framer:   rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet},
//		Handler:  router,
//	}
//
// each is a notification, whose method is the command. Func(func(payload []byte))
// handles it, and s.Notify(ctx, "ping", payload) sends one. Calls and batches fail.
// All else is as in any other session. So messages are handled concurrently, unless
// Options.Order is [Sequential]; and a [Router] counts a command that it does not
// know as an error of the peer's.
//
// A message with a wrong checksum is dropped and counted. The magic of another
// network, and a payload over the limit, end the session with a [*FrameError]; a
// payload of our own over the limit is a [*SizeError], and is not sent. A
// block may be larger than Limits.QueueBytes: then reading pauses while it waits for a
// handler. Where reading has to go on it is dropped if other messages wait, so where
// large ones are expected that limit has to be raised as well.
//
// # Codecs
//
// A [Codec] encodes and decodes params, results and the data of errors. The
// built-in [JSON] is encoding/json without HTML escaping, and faster for common
// types. It writes the same bytes with every version of Go, and decodes any value
// to the same: numbers to float64, the last of two equal keys. What any other codec
// puts out is checked to be one JSON value in UTF-8, and loses its white space, so
// that it cannot break out of its message. A codec of another encoding than JSON,
// for a protocol of that, is a [RawCodec].
//
// # Concurrency and ordering
//
// The methods of [Session], [Server], [Router] and [Future] may be called from any
// goroutine, handlers and callbacks included. But a handler, and a callback given
// to OnClose, must not wait for the end of their own session, by Done or by a
// Shutdown, for the session waits for them (see [ErrInHandler]). A [Batch] is for one goroutine until
// it is sent. Handlers, protocols, framers and codecs are shared by all the
// sessions that were given them, and must be safe for concurrent use. Options are
// copied when a session is made, or when a Server begins to serve, and may be used
// for many.
//
// Sending. If Go, Notify or GoBatch has returned before another of them, or Call
// or SendBatch, is called, its message leaves first. Of those that are called at
// the same time, any may be first. A reply leaves when its handler has returned: what
// the handler sent before leaves before, and replies to different requests leave
// in the order in which the handlers return, which need not be that of the
// requests. What another goroutine sends is in no order with a reply: the first news
// for a subscriber can leave before the reply to its subscription, and be newer than
// what that says. Number them, or let the client keep the higher one. Or begin to send in
// Trace.ReplySent, when the reply has been queued: see the example of Trace, ReplySent.
//
// Receiving. Requests and notifications are taken up in the order in which they
// arrive, the members of a batch in their order. Then up to Limits.Concurrency of
// them are handled at the same time, so the effect of a later one can come first:
// a peer that depends on the order must wait for a reply before it goes on, or
// Options.Order says otherwise. With [NotificationsFirst], what follows a
// notification waits until that has been handled. This is what a language server wants,
// whose requests are about the text that notifications have changed. With [Sequential] a
// request is
// taken up when the one before has been handled, and effects are in order; but
// then a handler that calls back cannot be called while it waits. Sequential is also what
// lets a handler say that another request must come first, such as a login: see the
// example of Server, Login.
//
// Replies to this side's calls are not held up by handlers, unless reading pauses (see
// Bursts). So a reply can
// overtake a notification: that the call has returned does not mean that what the
// peer sent before has been handled. And a notification that is BEHIND a reply on the
// wire can be handled before Call returns: the reader has completed the call by then, but
// the goroutine that waits in Call has to be run as well, beside the handler. So the first
// news can be handled before its subscriber knows the subscription's number. What works is
// to call by Go, and to have the handler wait for the future, which is done by then:
//
//	subscribed := make(chan *rpcx.Future, 1)
//	router.Handle("news", rpcx.Func(func(ctx context.Context, number int, text string) error {
//		f := <-subscribed
//		subscribed <- f // for the next
//		var own int
//		if err := f.Wait(ctx, &own); err != nil || number != own {
//			return err
//		}
//		…
//	}))
//	subscribed <- s.Go(ctx, "subscribe", nil)
//
// With [Sequential] notifications are then handled in their order. The replies to a batch are one message, in
// the order of its requests, sent when the last of them has been handled. The
// futures of a batch are done together, save those that are cancelled by
// themselves. Callbacks of futures are called in no particular order.
//
// Bytes. What a request carries belongs to its handler, which may keep and change
// it. A json.RawMessage that was decoded into is a copy. Only the items of a
// [Message] share the bytes that they were decoded from.
package rpcx
