package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Progress returns the function that sends progress for the request of a handler. ctx is the
// context of the handler, or derived from it. The token is found by the first of
// Options.Correlations that finds one in the request: a string or a number at the place of
// Correlation.Token. Without a token, the peer wants no progress, and the function does
// nothing. For a request with several tokens, see [ProgressOf].
//
//	progress := rpcx.Progress(ctx)
//	for i, file := range files {
//		progress(map[string]any{"kind": "report", "percentage": 100 * i / len(files)})
//		// …
//	}
//
// With Correlation.Value ([LSPWorkDone]), v is the value, and the params are an object with
// the value and the token. Otherwise ([MCPProgress]), v must encode to an object, which gets
// the token as a further member, or be nil.
//
// All progress leaves before the reply. After the reply, the function sends nothing and
// returns an error that matches [context.Canceled]. When ctx ends, because the peer has
// cancelled the request for example, the function returns the cause. For a last report
// nevertheless, which LSP wants, pass [context.WithoutCancel] of the handler's context. The
// other errors are those of [Session.Notify]. The function may be called from any goroutine.
//
// If ctx does not derive from a handler's context, the function does nothing, so that a
// handler can be tested without a session. The same holds if the client takes only the reply,
// as over HTTP without events. Clients may drop progress that arrives together
// with the reply, as MCP's in TypeScript does.
func Progress(ctx context.Context) func(v any) error {
	mustHaveContext("Progress", ctx)
	if h := handlerOf(ctx); h != nil {
		for _, form := range h.session.correlations {
			if send := h.progressOf(ctx, form); send != nil {
				return send
			}
		}
	}
	return func(any) error { return nil }
}

// ProgressOf is [Progress] for the token of a single form, such as [LSPPartialResult], which
// need not be one of Options.Correlations. If form has CallID, the id of the request is the
// token. If form is invalid, or has no method for the notifications, ProgressOf panics.
func ProgressOf(ctx context.Context, form *Correlation) func(v any) error {
	mustHaveContext("ProgressOf", ctx)
	if err := form.check("the Correlation for ProgressOf"); err != nil {
		panic("rpcx: " + err.Error())
	}
	if !form.callerMakesID() || len(form.Methods) == 0 {
		panic("rpcx: ProgressOf needs a Correlation with Methods, and Token or CallID")
	}
	h := handlerOf(ctx)
	if h != nil && form.CallID && !h.owner.IsNotification() {
		return h.sendProgress(ctx, form, json.RawMessage(h.owner.ID))
	}
	if h != nil {
		if send := h.progressOf(ctx, form); send != nil {
			return send
		}
	}
	return func(any) error { return nil }
}

// progressOf returns the function that sends progress in the given form, or nil if the
// request has no token for it.
func (h *handlerContext) progressOf(ctx context.Context, form *Correlation) func(v any) error {
	req := &h.owner.Request
	if len(form.Token) == 0 || len(form.Methods) == 0 || req.IsNotification() {
		return nil
	}
	token := findPath(req.Params.Named, form.Token)
	if token == nil && len(form.Token) > 1 {
		// Options.Meta has taken the first member of the path out of the params.
		if m := h.session.requests.meta; m != nil && m.Param == form.Token[0] {
			token = findPath(req.Meta(form.Token[1]), form.Token[2:])
		}
	}
	if !isStreamID(token) {
		return nil
	}
	return h.sendProgress(ctx, form, append(json.RawMessage(nil), token...)) // the handler may change the params
}

// ignoresParam reports whether the handlers of Func ignore an unknown param: as
// Options.IgnoreUnknownParams says, or because a token of Options.Correlations is there.
func (s *Session) ignoresParam(name []byte) bool {
	return s.unknownParamsIgnored || slices.ContainsFunc(s.correlations, func(c *Correlation) bool { return len(c.Token) > 0 && c.Token[0] == string(name) })
}

// sendProgress returns the function that sends progress with the token.
func (h *handlerContext) sendProgress(ctx context.Context, form *Correlation, token json.RawMessage) func(v any) error {
	return func(v any) error {
		params, err := form.progressParams(h.session, token, v)
		if err != nil {
			return err
		}
		err = h.session.notifyCaller(ctx, fromProgress, form.Methods[0], params, 1)
		if errors.Is(err, ErrNoCallback) { // the peer takes only replies
			return nil
		}
		return err
	}
}

// errProgressNeedsObject is the error for progress without a place of its own.
var errProgressNeedsObject = errors.New("rpcx: without Correlation.Value, progress is an object with named values: pass a struct or a map")

// progressParams returns the params of a notification with the value v.
func (c *Correlation) progressParams(s *Session, token json.RawMessage, v any) (json.RawMessage, error) {
	params, err := s.encodeParams(v)
	if err != nil {
		return nil, err
	}
	switch {
	case len(c.Value) > 0 && params == nil:
		params = []byte("null")
		fallthrough
	case len(c.Value) > 0:
		params, err = setPath([]byte("{}"), c.Value, params)
	case params == nil:
		params = []byte("{}")
	case params[0] != '{':
		return nil, errProgressNeedsObject
	}
	if err == nil {
		params, err = setPath(params, c.ID, token)
	}
	if err != nil {
		return nil, fmt.Errorf("rpcx: no place for the token in the progress: %w", err)
	}
	return params, nil
}

// mayProgressLocked reports whether the request of h is not answered yet. h may be nil.
// Callers must hold s.mu.
func (h *handlerContext) mayProgressLocked() bool {
	if h == nil {
		return false
	}
	h.session.mu.AssertHeld()
	return !h.owner.answered && !h.waits.handlerReturned
}
