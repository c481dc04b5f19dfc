package rpcx

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

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
	// makes: a string or a number. If the params have a value there, it is the id; otherwise
	// the session makes one. The reply to the call ends the subscription, unless Unsubscribe
	// or Current is set. Without Token, the reply is the id, except with CallID.
	Token []string
	// CallID means that the id of the subscription is the id of the call, whose reply ends
	// the subscription.
	CallID bool
	// Unsubscribe is the method that ends a subscription. The only param is the id: named, at
	// the path Token, or positional. Without ID, the params are those of the subscribing call.
	// Default: none.
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

// resolveCorrelations checks and copies Correlations. The codec is resolved.
func (o *Options) resolveCorrelations() error {
	forms := make([]*Correlation, len(o.Correlations))
	for i, c := range o.Correlations {
		if err := c.check(fmt.Sprintf("Options.Correlations[%d]", i)); err != nil {
			return err
		}
		copied := *c
		forms[i] = &copied
	}
	if len(forms) > 0 && rawType(o.Codec) != nil {
		return errors.New("Options.Correlations with a RawCodec: ids and values are found in JSON params")
	}
	o.Correlations = forms
	return nil
}

// check returns why c is invalid, or nil. name is the name of c in the error.
func (c *Correlation) check(name string) error {
	switch {
	case c == nil:
		return fmt.Errorf("%s is nil", name)
	case slices.Contains(c.Methods, ""):
		return fmt.Errorf("%s.Methods has an empty name", name)
	case c.CallID && len(c.Token) > 0:
		return fmt.Errorf("%s has Token and CallID: the id is either a token or the id of the call", name)
	case len(c.Token) > 0 && len(c.ID) == 0:
		return fmt.Errorf("%s has Token without ID: set ID to where notifications carry the token", name)
	case c.CallID && len(c.ID) == 0:
		return fmt.Errorf("%s has CallID without ID: set ID to where notifications carry the id of the call", name)
	case c.CallID && len(c.Methods) == 0:
		return fmt.Errorf("%s has CallID without Methods: copy MCPListen, and set Methods to those of the notifications", name)
	case isPrefix(c.Value, c.ID) || isPrefix(c.ID, c.Value):
		return fmt.Errorf("%s has ID and Value at one place: %q and %q", name, strings.Join(c.ID, "."), strings.Join(c.Value, "."))
	case c.CallID && c.Unsubscribe != "":
		return fmt.Errorf("%s has CallID and Unsubscribe: the call itself is the subscription, and Options.Cancellation ends it", name)
	case c.CallID && c.Current:
		return fmt.Errorf("%s has CallID and Current: the reply ends the subscription, and is no value", name)
	case len(c.ID) > 0 && c.Current && len(c.Token) == 0:
		return fmt.Errorf("%s has ID and Current without Token: the reply is either the id or the first value", name)
	}
	return nil
}

// methodsOf returns the methods of the notifications for a subscribing call of method.
func (c *Correlation) methodsOf(method string) []string {
	if len(c.Methods) > 0 || method == "" {
		return c.Methods
	}
	return []string{method}
}

// isByParams reports whether notifications repeat the params of the subscribing call.
func (c *Correlation) isByParams() bool { return len(c.ID) == 0 }

// callerMakesID reports whether the id is known before the reply, and is no params.
func (c *Correlation) callerMakesID() bool { return len(c.Token) > 0 || c.CallID }

// endsByReply reports whether the reply to the subscribing call ends the subscription.
func (c *Correlation) endsByReply() bool {
	return c.CallID || len(c.Token) > 0 && c.Unsubscribe == "" && !c.Current
}

// valueIn returns the value in the params of a notification, or nil.
func (c *Correlation) valueIn(params []byte) []byte {
	switch {
	case len(c.Value) > 0:
		return findPath(params, c.Value)
	case params[0] == '{':
		return params
	}
	return lastElement(params)
}

// isPrefix reports whether a path leads to a place on another path, or both are equal.
func isPrefix(path, other []string) bool {
	return len(path) > 0 && len(path) <= len(other) && slices.Equal(path, other[:len(path)])
}

// ethereumForm returns EthSubscription for the namespace of a subscribing method, such as
// "eth_subscribe", or nil.
func ethereumForm(method string) *Correlation {
	namespace, ok := strings.CutSuffix(method, "_subscribe")
	if !ok || namespace == "" {
		return nil
	}
	form := *EthSubscription
	form.Methods, form.Unsubscribe = []string{namespace + "_subscription"}, namespace+"_unsubscribe"
	return &form
}
