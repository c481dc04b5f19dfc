// Package natsrpcx connects many machines by NATS: workers answer requests, gateways have
// the sessions of the clients, and both know only the NATS servers.
//
//	clients ──▶ gateway (its handler: Forward) ─┐
//	clients ──▶ gateway ────────────────────────┼─ NATS ─┬─ worker (Serve)
//	programs that call (Dial) ──────────────────┘        └─ worker
//
// A program for one machine becomes one for many by a few lines: the [rpcx.Server] with
// the methods is given to [Serve], and the Server with the listeners gets [Forward] as
// its handler. [Broker] carries what an [rpcx.Hub] publishes to the hubs of all gateways.
// [Dial] returns an [rpcx.Caller], for programs without clients of their own.
//
// The connection comes from [Connect], for servers and clusters of NATS. If all
// parts are in one process, the module example.com/rpcx/nats/embedded has a NATS server
// within that process.
//
// # Requests
//
// A request is one NATS message, and so is a batch of [Client.SendBatch]. The message is
// JSON-RPC as on any other connection. The subject says the method: the method a/b has
// the subject rpc.a.b, as has a.b, because a [rpcx.Router] separates names by both. In a
// segment, bytes outside of A-Z, a-z, 0-9, "_" and "-" are percent-encoded, so that no
// name from a client is a wildcard, or a subject of another purpose. The subject of a
// method has at most 255 bytes after the prefix; no method has a longer one.
//
// A worker subscribes to the subjects of its methods. The workers of a queue group share
// the requests, and NATS chooses a worker by chance. A batch goes to a worker that has the
// first method of the batch. Such a worker refuses the members whose methods it does not
// have.
//
// Requests have no order among each other, even those of one client: they may meet
// different workers. A notification is sent once. If no worker has room, the notification
// is lost.
//
// # What has been started
//
// A request that was not started has the error code [rpcx.CodeServerBusy], and
// [rpcx.Error.NotStarted] is true: such a request may be repeated. This package itself
// repeats such a request at once, and at most twice, because a member of a queue group
// cannot decline a message. Nothing else is ever sent twice.
//
//	situation                                      answer
//	the worker has MaxInFlight requests            not started ("queue"), at the third try
//	the worker's server is shutting down           not started ("shutting down"), likewise
//	the request arrives after its deadline         not started; nobody waits for it
//	the method has lost its last worker            not started ("no worker")
//	nobody has announced the method within 30 s    CodeMethodNotFound
//	no connection to NATS                          not started ("no worker") *
//	the connection is lost before the reply        started ("connection lost") *
//	the worker or its NATS server is killed        the deadline of the call passes
//	the request is over max_payload                CodeInvalidRequest *
//	the reply is over max_payload                  CodeInvalidRequest
//
// These are the answers of a gateway. At the lines with a star, a call of a [Client] fails
// with an [rpcx.ConnectionError]. Its field Written is true if the connection was lost, and
// false otherwise. For a request over max_payload, the error wraps an [rpcx.SizeError].
//
// Each worker announces its methods every 5 s. The announcements serve only to tell a
// method without workers from an unknown method. While a gateway has listened for less
// than 5 s, an unknown method is "no worker".
//
// # Deadlines
//
// A message carries the time that is left, and no time of day: the clocks of the machines
// may differ. The handler's context at the worker ends after that time, or at the worker's
// own Limits.ProcessingTimeout. A worker also estimates how long a message was on its way,
// and does not start a request whose caller has given up, after a pause of the machine, for
// example.
//
// The end of a call at the gateway or the Client does not end the handler at the worker
// before the deadline.
//
// # Trust
//
// Workers and gateways trust everybody who may publish below the prefix. Limits, costs and a
// Gate belong to the gateway, which knows the clients. A worker learns of a client only by
// the headers of Config.Peer: see [Message]. NATS has TLS, users and permissions. With the
// prefix "rpc", these are enough:
//
//	            publish                    subscribe
//	gateway     rpc.>                      _INBOX.>  rpc.%announce
//	worker      _INBOX.>  rpc.%announce    rpc.>
//	Broker      rpc.%topic.>  rpc.%longtopic.>, both
//
// The last line is for the users of all programs whose Hub has a Broker, in addition. NATS
// tells of a missing permission later, and only the error handler of the connection, which
// by default prints to standard error. Subscribing and publishing at the Hub succeed.
package natsrpcx
