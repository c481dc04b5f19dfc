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
//	                                        deadline, which counts instead, longer or not
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
//	                                        over unix sockets, pipes and programs
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
//	  Timeout                                       that have been idle longest end
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
//	                                                large message comes in. The oldest large
//	                                                messages that are not complete make room
//	                                                for it first: their sessions end. From
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
//	Server.MaxQueuedBytes  large messages without an end: the oldest goes, and when half
//	                       of the limit is in use each has to go on (Limits.SendTimeout).
//	                       Replies that are not read: the session whose write began
//	                       first goes
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
package rpcx
