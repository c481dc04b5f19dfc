package rpcx

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Proxy stands for a service of the peer: a router, or what it exposes. It comes
// from [Session.Remote] and [Proxy.At], or as an argument or a result in which the
// peer has sent a service.
//
// Proxies are equal if they stand for the same path on the same session: compare
// them with Equal, or with == as values. So a Proxy can be the key of a map.
type Proxy struct {
	session *Session
	path    string
}

// Named are arguments by name, among those of [Proxy.Call].
type Named map[string]any

// Remote returns the proxy for the root of the peer's services. This sends
// nothing, and does not need Options.Objects.
func (s *Session) Remote() *Proxy { return &Proxy{session: s} }

// At returns the proxy for the service at the given names, one below the other.
// It is not looked whether there is one: calls will tell. The names and the method are
// sent with "/" between them, "math/add", which a [Router] and aiomas understand. To a
// peer whose methods have dots, name the whole as the method:
//
//	s.Remote().Call(ctx, &sum, "math.add", 1, 2) // or s.Call, with rpcx.Args{1, 2}
func (p *Proxy) At(name ...string) *Proxy {
	return &Proxy{p.session, p.to(strings.Join(name, "/"))}
}

// to returns the path to what is below p.
func (p *Proxy) to(name string) string {
	if p.path == "" || name == "" {
		return p.path + name
	}
	return p.path + "/" + name
}

// Call calls a method of the service; see [Session.Call] for ctx, result and the
// error. The args are positional. If the last is [Named] it holds arguments by
// name; to have both is an error where the protocol cannot carry both, as JSON-RPC.
func (p *Proxy) Call(ctx context.Context, result any, method string, args ...any) error {
	if err := p.check(method); err != nil {
		return err
	}
	return p.session.Call(ctx, p.to(method), arranged(args), result)
}

// Go is Call without waiting; see [Session.Go].
func (p *Proxy) Go(ctx context.Context, method string, args ...any) *Future {
	if err := p.check(method); err != nil {
		return failed(p.session, method, err)
	}
	return p.session.Go(ctx, p.to(method), arranged(args))
}

// Notify notifies a method of the service; see [Session.Notify].
func (p *Proxy) Notify(ctx context.Context, method string, args ...any) error {
	if err := p.check(method); err != nil {
		return err
	}
	return p.session.Notify(ctx, p.to(method), arranged(args))
}

func (p *Proxy) check(method string) error {
	switch {
	case p == nil || p.session == nil:
		return fmt.Errorf("call %q: the proxy stands for no service", method)
	case method == "":
		return fmt.Errorf("call of %v: no method is named", p)
	}
	return nil
}

// arranged returns the params for the arguments.
func arranged(args []any) any {
	if last := len(args) - 1; last >= 0 {
		if named, ok := args[last].(Named); ok {
			if args = args[:last]; len(named) > 0 {
				return Mixed{Args: args, Named: named}
			}
		}
	}
	if len(args) == 0 {
		return nil
	}
	return Args(args)
}

// Session returns the session that the service is reached by.
func (p *Proxy) Session() *Session { return p.session }

// Path returns the path of the service in the tree of the peer's handler.
func (p *Proxy) Path() string { return p.path }

// Equal reports whether p and q stand for the same service. Nil equals nil.
func (p *Proxy) Equal(q *Proxy) bool {
	if p == nil || q == nil {
		return p == q
	}
	return *p == *q
}

// String returns the peer's address and the path.
func (p *Proxy) String() string {
	if p == nil || p.session == nil {
		return "Proxy(none)"
	}
	peer := "?"
	if addr := p.session.RemoteAddr(); addr != nil {
		peer = addr.String()
	}
	return fmt.Sprintf("Proxy(%s, %q)", peer, excerpt(p.path))
}

var errNoObjects = errors.New("services are received only on a session with Options.Objects")

// MarshalJSON fails: what is the peer's own cannot be sent to it, nor to another.
func (Proxy) MarshalJSON() ([]byte, error) { return nil, errors.New("a proxy cannot be sent") }

// UnmarshalJSON fails: only a session with objects can receive a service.
func (*Proxy) UnmarshalJSON([]byte) error { return errNoObjects }
