package rpcx

// Correlation declares how notifications belong to a subscription, or to the progress of a
// call. The reader of a session sorts notifications by a Correlation, and runs no function
// of the user. A path is a list of names of members, from the params inwards.
//
//	                    notifications             id of a subscription         ended by
//	EthSubscription     eth_subscription          in the reply                 eth_unsubscribe
//	ElectrumHeaders     the subscribing method    none: the method             –
//	ElectrumScriptHash  the subscribing method    the params of the call       blockchain.scripthash.unsubscribe
//	LSPWorkDone         $/progress                workDoneToken, by the caller the reply
//	LSPPartialResult    $/progress                partialResultToken, the same the reply
//	MCPProgress         notifications/progress    _meta.progressToken          the reply
//	MCPListen           as the call asks for      the id of the call           the reply
type Correlation struct {
	// Methods are the methods of the notifications. Default: the method of the subscribing
	// call.
	Methods []string
	// ID is the path to the subscription's id in the params of a notification. Without ID,
	// the params of a notification are the params of the subscribing call, and one
	// positional param more.
	ID []string
	// Value is the path to the value in the params of a notification. Default: named params
	// as a whole, or the last positional param.
	Value []string
	// Token is the path in the params of the subscribing call to the id, which the caller
	// makes. Without Token, the reply is the id, except with CallID.
	Token []string
	// CallID means that the id of the subscription is the id of the call, whose reply ends
	// the subscription.
	CallID bool
	// Unsubscribe is the method that ends a subscription. The only param is the id; without
	// ID, the params are the params of the subscribing call. Default: none.
	Unsubscribe string
	// Current means that the reply is the first value.
	Current bool
	// Error is the path in the params of a notification to the reason why the peer has ended
	// the subscription. Default: none.
	Error []string
}

var (
	// EthSubscription is the form of Ethereum nodes. The reply to eth_subscribe is the id.
	EthSubscription = &Correlation{
		Methods: []string{"eth_subscription"}, ID: []string{"subscription"}, Value: []string{"result"},
		Unsubscribe: "eth_unsubscribe",
	}
	// ElectrumHeaders is the form of blockchain.headers.subscribe. The reply is the first
	// value.
	ElectrumHeaders = &Correlation{Current: true}
	// ElectrumScriptHash is the form of blockchain.scripthash.subscribe. The reply is the
	// first value.
	ElectrumScriptHash = &Correlation{Current: true, Unsubscribe: "blockchain.scripthash.unsubscribe"}
	// LSPWorkDone is the work done progress of the Language Server Protocol.
	LSPWorkDone = &Correlation{
		Methods: []string{"$/progress"}, ID: []string{"token"}, Value: []string{"value"},
		Token: []string{"workDoneToken"},
	}
	// LSPPartialResult is the partial result progress of the Language Server Protocol.
	LSPPartialResult = &Correlation{
		Methods: []string{"$/progress"}, ID: []string{"token"}, Value: []string{"value"},
		Token: []string{"partialResultToken"},
	}
	// MCPProgress is the progress of the Model Context Protocol.
	MCPProgress = &Correlation{
		Methods: []string{"notifications/progress"}, ID: []string{"progressToken"},
		Token: []string{"_meta", "progressToken"},
	}
	// MCPListen is the form of subscriptions/listen of the Model Context Protocol. The
	// methods of the notifications depend on the call: copy MCPListen and set Methods.
	MCPListen = &Correlation{ID: []string{"_meta", "io.modelcontextprotocol/subscriptionId"}, CallID: true}
)
