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
//
// # Limits
//
// [Limits] bound what one session may use, and what is not worth a table is said
// at their fields. Zero is the default; a negative value switches a limit off. A duration
// between 0 and a millisecond, here or in a Server or Dialer, is refused, since it lacks
// its unit: RequestTimeout: 30 is 30 nanoseconds. Dial, Serve and the like return the
// error; NewSession, NewMessageSession, Pipe and ServeConn, which have none, panic with it.
// Errors and records name what was exceeded: "over 1,000 bytes (NewlineFramer.MaxSize)".
//
//	Limits              default  unit       when it is met
//	Concurrency              20  handlers   requests wait
//	Queue                 4,096  messages   reading pauses, mostly long before; where it has to
//	                                        go on, requests are answered CodeServerBusy and
//	                                        notifications dropped; a batch counts as one
//	QueueBytes            8 MiB  bytes      the same; one message always has room, and each
//	                                        member of a batch counts 256 bytes more
//	Outbox                4 MiB  bytes      callers and handlers wait; one message always has
//	                                        room. The session's own replies may go 256 KiB
//	                                        beyond, then it ends with ErrSlowPeer
//	Batch                10,000  members    the batch is answered with one CodeInvalidRequest
//	Response           MaxSize,  bytes      the reply is replaced by a CodeInvalidRequest; it, or
//	                   see below            Outbox, bounds all that waits in unfinished batches
//	RequestTimeout         30 s  a call     it fails with ErrTimeout, the wait for a slot and
//	                                        for room included; NOT if its context has a
//	                                        deadline, which counts instead, longer or not.
//	                                        If the peer's ProcessingTimeout is 30 s as well,
//	                                        either may come first
//	ProcessingTimeout      30 s  a request  it is answered CodeServerBusy, waiting included, and
//	                                        its handler's context ends
//	SendTimeout            20 s  a write    the session ends with ErrSlowPeer; for streams it is
//	                                        the time for each 16 KiB (see below); also for
//	                                        those of a large message that comes in, if memory
//	                                        is short
//	CloseTimeout           30 s  a close    what is unsent at ReplyAndDisconnect, or at the end
//	                                        for CostHard, is dropped
//	HalfClose         see there  a session  it ends, when the peer has finished sending: after
//	                                        5 s over TCP and TLS, ProcessingTimeout and 1 s
//	                                        over unix sockets, pipes of the system and
//	                                        programs; a Pipe ends at once
//	Outgoing                 50  calls      calls wait for a slot; between a fifth of it and
//	                                        OutgoingMax, as ResponseTime has it
//	OutgoingMax             250  calls      Outgoing is raised no further
//	ResponseTime            3 s  a reply    Outgoing is raised below; above, it is lowered if the
//	                                        number of calls has made replies slow
//	IdleTimeout            none  a silence  the session ends with ErrIdle
//	KeepAlive              60 s  a silence  a notification KeepAliveMethod is sent; without one,
//	                                        TCP's probes, after 15 s. After three times KeepAlive
//	                                        without an answer the session ends with
//	                                        ErrUnreachable (over TCP)
//	CostSoft              2,000  cost       requests are delayed, and fewer handled at once
//	CostHard             10,000  cost       requests are answered CodeExcessiveResourceUsage, and
//	                                        the session ends with a *CostError (CostOff: not)
//	CostDelay               2 s  a request  it is delayed so long next to CostHard, less below
//	CostDecay         CostHard   a second   the cost falls
//	                   / 3,600
//	CostPerByte       1/100,000  a byte     the cost rises, sent or received
//	CostError               100  an error   the cost rises, if it was the peer's; for what is
//	                                        no JSON eleven times so
//	CostHandlerError          0  an error   the cost rises, if it was the handler's
//	PeerErrors           10,000  errors a   the session ends with ErrFaultyPeer; over 10 s, and
//	                             second     for clients only
//
// Limits that have their place elsewhere:
//
//	NewlineFramer.MaxSize    1,000,000  bytes       a message received is dropped, counted, and
//	                                                answered CodeInvalidRequest; a message of
//	                                                our own fails with a SizeError
//	LengthFramer.MaxSize     1,000,000  bytes       the same
//	JSONFramer.MaxSize       1,000,000  bytes       the same
//	HeaderFramer.MaxSize     1,000,000  bytes       the same
//	websocket.Config.MaxSize 1,000,000  bytes       the same; if the message shows no id, the
//	                                                session ends with close code 1009
//	websocket.Config
//	  .ControlFrames               100  frames      the same, by code 1008; a second, over 10 s
//	websocket.Acceptor
//	  .MaxHeaderFields             100  fields      a request is answered 431; with those of its URL
//	  .MaxHeaderBytes           16,384  bytes       the same; header and URL
//	BitcoinFramer.MaxPayload 2,000,000  bytes       the session ends with a FrameError; a message
//	                                                of our own fails with a SizeError
//	BitcoinFramer.MaxBlock 128,000,000  bytes       the same; of the command "block"
//	Dialer.Timeout                30 s  dialling    Dial fails, TLS handshake included
//	Server.MaxSessions          10,000  sessions    a connection is closed at once (HTTP: 503)
//	Server.CrowdedIdle-          1 min  a silence   from nine tenths of MaxSessions on, those
//	  Timeout                                       that have been idle longest end: without a
//	                                                message. None by default if MaxSessions is
//	                                                less than 10
//	Server.MaxGroup               none  sessions    the same; of one Limits.Group
//	Server.MaxHandshakes           256  handshakes  one of the address with the most is
//	                                                closed; TLS, and headers that tell the
//	                                                client's address
//	Server.HandshakeTimeout       10 s  a hand-     the connection is closed
//	                                    shake
//	Server.ShutdownTimeout        30 s  the drain   at the end of a context, sessions that are
//	                                                left are closed, and an error says so
//	Server.MaxQueuedBytes      256 MiB  bytes       on sessions that hold more than their share:
//	                                                reading pauses, as for Limits.Queue, callers
//	                                                and handlers wait, and the session ends if a
//	                                                message of over 64 KiB comes in. The oldest
//	                                                messages that are not complete, and replies
//	                                                that are not read, make room for it first:
//	                                                their sessions end. From
//	                                                three quarters on, each session has one
//	                                                handler at a time. At one and a half
//	                                                times the limit nothing more is held:
//	                                                sessions end whose peers do not read
//	Server.MaxHandledBytes      16 MiB  bytes       of requests that are being handled, of 1 KiB
//	                                                and more: those of sessions that have more
//	                                                than their share wait for others
//
// How fast a peer has to read. On Linux, a write makes progress when the peer's system
// has acknowledged bytes (of a unix socket, when the peer has read them), also under TLS
// and WebSockets. TCP acknowledges in steps: a system that has run out of buffer takes
// more when about a sixteenth of it is free. So a peer has to read one step within
// SendTimeout. With 20 s, and Linux at the other end, that is 7 kB/s over TCP. It is
// 30 kB/s where the peer's buffer has grown to several megabytes, because the peer read
// fast before, and 3 kB/s over a unix socket. On other systems a write makes progress when
// this side's system has room for 16 KiB more. Some say so only when a good part of their
// buffer has been sent: with a third of 4 MB the peer has to read 70 kB/s. For peers that
// are slower, raise SendTimeout.
//
// And some are fixed: Close goes on writing for a second; DetectSOCKS waits 5 s
// for each version; a message is nested 10,000 levels deep, and objects within
// objects 32; HeaderFramer takes 4,096 bytes of headers; of more than 100 blank messages
// in succession, one in 101 is a bad message, and the others cost nothing; the last 1,024 calls
// and batches that were given up are remembered, to tell late replies from wrong ones. Params
// of 64 KiB and more are decoded by fewer goroutines of the program at once than it has
// processors (or by one), so that small requests do not wait for them: an UnmarshalJSON must
// not wait for another request.
//
// # Bursts
//
// A peer may send any number of requests in one go and read the replies as they come:
// all are answered, in bounded memory. When more wait than can be handled in time,
// reading pauses, and the peer's connection fills up; when there is room, reading goes
// on. Requests that wait are too many when there are more than handlers have returned
// in the last quarter of ProcessingTimeout, two for each worker at least (and 64, with
// Options.Cancellation: in a pause no cancellation is heard, nor is a reply).
//
// Reading pauses only while somebody can make room: a handler that runs and does not
// itself wait for this session, in a call to the peer with its own context. So two sides
// that flood each other and call each other's handlers do not wait for ever. A handler
// that waits for the peer in another way is not recognised. Therefore reading also goes
// on when no handler has returned for 5 s (or a quarter of SendTimeout, or half of what
// KeepAlive allows, if that is less), or for a second while handlers of other sessions
// call this one. Then Queue and QueueBytes count, and what finds no room is refused.
//
// Such a refusal costs the peer nothing, and says that the request was not begun:
// [Error.NotStarted]. One at ProcessingTimeout says whether it was. Only what was not
// begun may be sent again without a second thought.
//
// Stats.Pauses and Stats.Paused count pauses, Trace.Paused and Trace.Resumed tell of each,
// and one of more than a second is logged. A peer with a SendTimeout of its own, as
// every session has, ends the session if it gets rid of less than 16 KiB in that time.
//
// # Cost
//
// What a server's sessions use has a cost: 1 for 100,000 bytes sent or received,
// 100 for an error of the peer's (1,100 for a message that is no JSON), and what
// [Session.BumpCost] and Options.ExtraCost say. An error that a handler returns costs
// what its own Cost says, unless its code is one of the peer's errors: -32700, -32600,
// -32601 or -32602. What a limit refuses, a reply that is too large, and what times out
// costs nothing. Limits.CostHandlerError, 0 by default, is added to an error of the
// handler's, to a reply that is too large, and to what times out. The cost decays by 10,000 in an
// hour. Above CostSoft each request is delayed, by up to 2 seconds, and fewer handlers run
// at once. At CostHard the session ends, after Options.OnExcessiveCost was called. So a peer that errs now and then never notices, and one that does nothing
// else is gone after some ninety errors. The numbers are aiorpcX's.
//
// Clients are not held to cost, unless their Limits set CostHard: what a server may send
// is for the client to know. But one whose messages are wrong is not listened to for ever.
// Limits.PeerErrors ends a client's session with [ErrFaultyPeer] at more than 10,000 errors
// a second for ten seconds, or 100,000 at once: what is no message, and replies to nothing
// that was asked, with each 10,000 bytes of them once more. A request or notification that no method is there for, or whose arguments
// do not fit, is a tenth of an error. What is handled is free, and so are late replies.
//
// Limits.CostOff switches cost off, and Limits.Exempt for some sessions. With Limits.Group,
// made by [GroupBySubnet] for example, sessions of a [Server] share one budget,
// which outlives them, and is overdrawn by no more than an hour's decay. One member
// could use it up for all: so a session that has not used more than CostSoft itself is
// held to its own cost alone, and goes on. One that begins when the group is over
// CostHard is answered CodeExcessiveResourceUsage and ends, until the group's cost has
// decayed. Set [Server.MaxGroup], too: a group may use CostHard, and CostSoft for each
// of its sessions.
//
// [Session.Stats], Trace.CostChanged and the log show what goes on; the first
// session that a server ends for its cost is logged with level Warn.
//
// # Who could lock others out
//
// What is bounded for all can be used up by some. For each of these limits there is
// something that has them make room:
//
//	Server.MaxSessions     idle connections: CrowdedIdleTimeout ends those that have been
//	                       idle longest. One client's: set MaxGroup and Limits.Group
//	Server.MaxHandshakes   silent connections: one of the subnet with the most goes
//	Server.MaxQueuedBytes  messages without an end, and replies that are not read: for a
//	                       large message, and at one and a half times the limit, the
//	                       session goes whose message or write began first. When half of
//	                       the limit is in use, a message of more than 64 KiB has to go on
//	                       (Limits.SendTimeout)
//	the log                bad messages: errors of handlers, and what ends sessions, have
//	                       budgets of their own. All sessions of a server have 256 KiB for
//	                       each of the three, and 8 KiB a second, beside a byte for each
//	                       byte received; ServerStats.LogRecordsLeftOut counts the others
//	a group's budget       a neighbour's errors: sessions that were good go on
//	a proxy's clients      who share one address: see the next section
//
// # Behind a proxy
//
// To a session, the peer is the other end of the connection. Behind a proxy that is
// the proxy, whoever the client is: a reverse proxy, a balancer, Tor for all clients
// of an onion service. [GroupBySubnet] would give all of them one budget and one
// MaxGroup, so that one abuser locks new clients out. So it leaves those that arrive
// from a loopback address, or by a unix socket, in no group: each session has its own
// budget, and only MaxSessions bounds how many a client has. Those of a proxy on
// another machine are one group.
//
// Have the proxy say who the client is, and believe that of this proxy only:
//
//   - with the PROXY protocol, by a listener whose connections read the header and
//     return the client from RemoteAddr. GroupBySubnet works as it does without a
//     proxy. [Server.Serve] bounds how long the header may take to come.
//   - over WebSockets, by a Limits.Group that reads the header that the proxy sets, such
//     as X-Forwarded-For, from the Request of package websocket. From the right end:
//     what stands to the left of what your proxy adds, the client may have written.
//   - for an onion service, by Tor's HiddenServiceExportCircuitID haproxy, which sends
//     a PROXY header with an address for each circuit. They differ in the last 32 bits
//     of an IPv6 address only, so group them by 128 bits.
//   - by a login: Limits.Group is called too early for that, but a handler can count
//     what a user costs, by [Session.BumpCost], or hang up by [ReplyAndDisconnect].
//
// If there is no way to tell clients apart, lower CostHard and MaxSessions instead.
//
// # Ending a program
//
// When main returns, or calls os.Exit or log.Fatal, all that is unsent or unfinished is
// lost. So the last act of a program is to wait, for a time that its context bounds.
//
// A client waits in [Session.Shutdown], until its calls are answered and all is written.
// Close does not wait, and is for the ways out before:
//
//	defer s.Close()
//	…
//	err := s.Notify(ctx, "log", rpcx.Args{"bye"})
//	return s.Shutdown(ctx) // last in main
//
// A server serves until a signal comes. It finishes what is under way, for at most
// Server.ShutdownTimeout, and returns nil if that went well:
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}, ShutdownTimeout: 10 * time.Second}
//	if err := srv.ListenAndServe(ctx, "tcp://:8888"); err != nil { // or srv.ServeContext(ctx, l)
//		log.Fatal(err)
//	}
//
// Without AfterFunc the second Ctrl-C is swallowed, and who presses it waits for
// ShutdownTimeout: NotifyContext catches signals until stop is called.
//
// Behind package net/http it is websocket.ServeContext(ctx, srv, web, l), which ends the
// web server as well.
//
// A method "stop" must not wait for the session or the server, which waits for its handler.
// One of these is its last line:
//
//	return rpcx.ReplyAndDisconnect("bye"), nil // ends this session
//
// This works in the handler of a notification, too, which has no reply: the exit of LSP,
// say.
//
//	go srv.Shutdown(context.Background()) // ends the server, this reply first
//	return "bye", nil
//
// A Shutdown, or a [Server.Wait], with the handler's own context is recognised, and returns
// [ErrInHandler] at once. With another context it waits for ever, and so does <-s.Done().
// When a method has ended the server, ServeContext and ListenAndServe return
// [ErrServerClosed] as soon as nothing is accepted any more, which main takes for no error,
// and waits for the rest:
//
//	if err := srv.ListenAndServe(ctx, addr); err != nil && err != rpcx.ErrServerClosed {
//		log.Fatal(err)
//	}
//	srv.Wait(context.Background())
//
// A program on standard input and output ends when the other one closes its input: what had
// come in is answered first. It is the session that waits:
//
//	s := rpcx.NewSession(rpcx.Stdio(), opts)
//	<-s.Done()
//
// A program that was started by [Command] ends with its session. Shutdown, or Done after
// Close, waits until it has; without that it may outlive main:
//
//	err := s.Shutdown(ctx)
//	fmt.Println(cmd.ProcessState)
//
// # How it ends
//
// [Session.Close] does not wait for the peer. It may be called any number of times,
// from anywhere, handlers included. Calls that are pending fail, the contexts of handlers
// end, and nothing more is queued. Of what had been queued, Close writes as much as the
// operating system takes at once, nearly always all of it; the rest is written in the
// background, for at most a second. So a Notify before a Close goes out even where the
// program ends with the Close. That is not promised if the peer reads slowly, if more is
// queued than the system takes, on a connection that is not the system's, or when a
// write is under way through a wrapper that shows no connection below it; and nobody
// says that the peer has read it. A call that had been queued may be sent, though it has
// failed.
//
// [Session.Shutdown] ends in order. From then on, requests that come and those
// that wait are answered [CodeServerBusy], "server busy - shutting down", and
// notifications dropped. New calls fail with [ErrClosed], save those that a
// running handler makes with its own context. Shutdown waits for the handlers that
// run, for the calls that are pending, and until all is written; then it closes.
// If its context ends first it closes at once, and returns the context's
// error.
//
// A handler cannot wait for its own end: see Ending a program.
//
// When the connection fails, or the peer breaks the framing, the session ends without
// writing more (but a [CloserWithError], as a WebSocket is, has the rest written first,
// and then tells the peer why).
//
// When the peer has finished sending, and has closed the connection or only its own half
// of it, what it had sent is still handled in order, and answered: so
//
//	printf '…' | server        server < requests > replies        nc -N host port < requests
//
// get their replies, if the last is ready within Limits.HalfClose: ProcessingTimeout for
// the pipes of the system, 5 s for TCP and TLS, so raise it for slow handlers there. The last line of the
// input needs no newline. There is nobody to
// call any more: calls that are pending fail at once, and new ones with [ErrClosed], "the
// peer has finished sending"; notifications go out. The session ends, with io.EOF, when
// nothing is left to handle and to write, when a write fails, when the operating system
// says that the peer is gone, or after Limits.HalfClose. An end within a message is an
// io.ErrUnexpectedEOF, and ends the session at once.
//
// A connection that has no halves, such as a WebSocket or a [Pipe], ends as a whole: what had been
// queued is still written, as by Close, and notifications that the peer had sent before
// are still handled, with a context that has ended; its requests are not, since nobody
// waits for them. So are the notifications before a connection that the peer has reset,
// and those that [Server.OnSession] has held up until then. Those that are dropped when a
// session ends, since it was this side that ended it, or since their time is over, are
// counted in Stats.NotificationsDropped and logged.
//
// A session that ends by [ReplyAndDisconnect], or because of its cost, closes its half
// first, and reads on for up to a second and 256 KiB, so that the peer hears the last
// reply and is not reset.
//
// A network that is gone says nothing. Over TCP (for what is sent: on Linux only) a session
// ends within three times Limits.KeepAlive, with [ErrUnreachable]. A peer that is silent,
// or does not read, is not gone: that is what IdleTimeout and SendTimeout are for.
//
// The first cause of the end is the one that Err reports, from the moment of that cause
// on. When no handler runs any
// more, and reader and writer have returned, the callbacks given to OnClose are
// called, and Done is closed; a server has forgotten the session before. Not before: a handler that does not heed its context
// holds this up, and so does a callback or a logger.
//
// [Server.Shutdown] stops listening and shuts all sessions down;
// [Server.Close] closes them; [Server.StopListening] leaves them to themselves,
// and [Server.Wait] returns when all is over. [Server.ListenAndServe] and
// [Server.ServeContext] shut the server down at the end of their context, within
// Server.ShutdownTimeout, and return nil if that went well.
//
// # Seeing inside
//
// Options.Logger is told of what goes wrong and has no caller to return an error
// to: handlers that fail or panic, notifications whose arguments do not fit, bad
// messages. It is silent by default: set it while you try something out. What a
// peer sent is only in attributes, and never in the message. [Trace] has functions
// that are called when something happens, none of them on the goroutine that
// reads. [Session.Stats] and [Server.Stats] count.
//
// # Testing
//
// [Pipe] joins two sessions in memory. Within a bubble of [testing/synctest],
// timeouts take no time:
//
//	router.Handle("sleep", rpcx.Func(func(seconds int) {
//		time.Sleep(time.Duration(seconds) * time.Second)
//	}))
//	synctest.Test(t, func(t *testing.T) {
//		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
//		defer func() {
//			client.Close()
//			server.Close()
//			<-client.Done()
//			<-server.Done() // when the handler has returned
//		}()
//		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
//		defer cancel()
//		err := client.Call(ctx, "sleep", rpcx.Args{10}, nil)
//		if !errors.Is(err, context.DeadlineExceeded) {
//			t.Error(err)
//		}
//	})
//
// Make the sessions inside the bubble, and wait there for their end. A handler that still
// sleeps when the test returns makes the bubble panic with "deadlock". Sockets do not work
// in a bubble: time stands still while a goroutine waits for one. The same is true of a
// mutex, so hold none while time passes. Do not call Shutdown(t.Context()) in t.Cleanup:
// that context has ended by then, so Shutdown does not wait for handlers.
//
// RequestTimeout and the peer's ProcessingTimeout are both 30 s. So a call of a handler
// that takes longer ends with [ErrTimeout] or with [CodeServerBusy], whichever comes
// first. A test that wants one of them sets the other limit.
//
// A Pipe has no halves. When one session is closed, the contexts of the other's handlers
// end at once. Over TCP these may go on for Limits.HalfClose, 5 s.
//
// # Task groups and deadlines
//
// They need no session. A [TaskGroup] runs functions concurrently and has their results.
// When the group is joined, no function runs any more. The first answer of three
// servers, of which some may be down:
//
//	g := rpcx.NewTaskGroup[string](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess})
//	err := g.Do(ctx, func(ctx context.Context) error {
//		for _, addr := range addrs {
//			g.Go(func(ctx context.Context) (string, error) { return fetch(ctx, addr) })
//		}
//		return nil
//	})
//	if err != nil {
//		return err // the cause of ctx
//	}
//	answer, err := g.Result() // if all have failed, err has the error of each
//	down := g.Failures()      // the errors of those that failed before the answer
//
// With a deadline the group is made inside [TimeoutAfter], with the context that this
// passes: see the example TaskGroup, Deadline. Only then does the deadline cancel the tasks, and
// tasks that it has cancelled have the error of the deadline's context. A task that was
// cancelled because another one has succeeded is not among the Failures.
//
// The [WaitPolicy] says whether Join waits for all tasks, for one task, for the first
// success, for the first result that is not nil, or for none, before Join cancels the
// other tasks. Except under WaitSuccess, a task that fails ends the waiting. Errors stay with
// the tasks: [TaskGroup.Err], [TaskGroup.Errs] and [TaskGroup.Failures] return errors of
// tasks, and Do and Join return only the error of the body or the cause of ctx.
// [TaskGroup.All] ranges over the tasks as they finish, [TaskGroup.GoDaemon] starts a task
// that Join does not wait for, and Limit bounds how many tasks run at once.
//
// [TimeoutAfter] and its like run a function under a deadline. They can be
// nested, and the error tells whose deadline it was: one's own is a
// [*TaskTimeout], an outer one's a [TimeoutCancellationError], and an inner one's
// that was not handled an [UncaughtTimeoutError].
//
// # Without a session
//
// A protocol is a plain value, for use over HTTP, a message queue or a file:
//
//	msg, err := rpcx.JSONRPCv2.AppendRequest(nil, rpcx.ID("7"), "echo", rpcx.Args{"hi"}, nil)
//
//	var m rpcx.Message
//	rpcx.JSONRPCv2.Decode(&m, msg, 1000)
//	for _, item := range m.All() {
//		switch item.Kind {
//		case rpcx.KindRequest: // item.Method, item.Params, item.ID
//		case rpcx.KindInvalid: // to be answered with item.Err, under item.ID
//		}
//	}
//
// AppendResult, AppendError and AppendBatch build the answers. [Batch.Append]
// builds a batch.
package rpcx
