// Package natsrpcx connects many machines by NATS: workers answer requests, gateways have the
// sessions of the clients, and both know only the NATS servers.
//
//	clients ──▶ gateway: a Server whose Handler is Forward(config) ─┐
//	clients ──▶ gateway ────────────────────────────────────────────┼─ NATS ─┬─ worker: Serve(ctx, server, config)
//	programs that call: Dial(config, options) ──────────────────────┘        └─ worker
//
// A program for one machine becomes one for many by a few lines: the [rpcx.Server] with the
// methods is given to [Serve], and the Server with the listeners gets [Forward] as its
// handler. [Broker] carries what an [rpcx.Hub] publishes to the hubs of all gateways. [Dial]
// returns an [rpcx.Caller], for programs without clients of their own.
//
// The connection comes from [Connect], for servers and clusters of NATS. For a program on one
// machine, the module example.com/rpcx/nats/embedded has a NATS server within the process.
//
// # Requests
//
// A request is one NATS message, and so is a batch of [Client.SendBatch]. The message is
// JSON-RPC as on any other connection. The subject says the method: the method a/b has the
// subject rpc.a.b, as has a.b, because a [rpcx.Router] separates names by both. In a segment,
// bytes outside of A-Z, a-z, 0-9, "_" and "-" are percent-encoded, so that no name from a
// client is a wildcard, or a subject of another purpose. The subject of a method has at most
// 255 bytes after the prefix; no method has a longer one.
//
// A worker subscribes to the subjects of its methods. The workers of a queue group share
// the requests, and NATS chooses a worker by chance. A batch goes to a worker that has the
// first method of the batch. Such a worker refuses the members whose methods it does not
// have.
//
// Requests have no order among each other, even those of one client: they may meet
// different workers. A notification is sent once. If no worker has room, the notification is
// lost.
//
// # What has been started
//
// A request that was not started has the error code [rpcx.CodeServerBusy], and
// [rpcx.Error.NotStarted] is true: such a request may be repeated. This package itself
// repeats such a request at once, and at most twice, because a member of a queue group
// cannot decline a message. Nothing else is ever sent twice.
//
//	situation                                       answer
//	the worker has MaxInFlight requests             not started ("queue"), after two repetitions
//	the worker's server is shutting down            not started ("shutting down"), after two repetitions
//	the request arrives after its deadline          not started ("queue"); nobody waits for the answer
//	no worker serves the method, but one did        not started ("no worker")
//	nobody has announced the method within 30 s     CodeMethodNotFound
//	the connection to NATS is down                  not started ("no worker"); Client: ConnectionError, not Written
//	the connection is lost before the reply         started ("connection lost"); Client: ConnectionError, Written
//	the worker or its NATS server is killed         the call's deadline passes
//	the request is over max_payload                 CodeInvalidRequest; Client: SizeError
//	the reply is over max_payload                   CodeInvalidRequest, "response too large"
//
// Announcements tell the last of these from the first: each worker names its methods every
// 5 s. While a gateway has listened for less than that, an unknown method is "no worker".
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
// Workers and gateways trust everybody who may publish below the prefix; NATS has users and
// permissions, and TLS. Limits, costs and a Gate belong to the gateway, which knows the
// clients. A worker learns of a client only by the headers of Config.Peer: see [Message].
package natsrpcx
