// Code generated from an OpenRPC document. DO NOT EDIT.

// Package odd has the methods and types of Odd, version 1.
//
// Schemas that need care.
// "+build ignore"
//
// "+build ignore"
package odd

import (
	"context"
	"math/big"
	"time"

	"example.com/rpcx"
)

// Either is the schema "either".
type Either = Thing

// Large is the schema "large".
type Large = *big.Int

// Pair is the schema "pair".
type Pair [2]string

// Perhaps is the schema "perhaps".
type Perhaps = *time.Time

// Thing is the schema "thing".
type Thing struct {
	A *string `json:"a,omitzero"`
}

// Twins is the schema "twins".
type Twins []Twins

// When is the schema "when".
type When = time.Time

// Service answers the methods of the document.
type Service interface {
	// When is the method "when".
	When(ctx context.Context, at When) (When, error)

	// Perhaps is the method "perhaps".
	Perhaps(ctx context.Context, at Perhaps) (Perhaps, error)

	// Large is the method "large".
	Large(ctx context.Context, n Large) (Large, error)

	// Pair is the method "pair".
	Pair(ctx context.Context, p Pair) (Pair, error)

	// Twins is the method "twins".
	Twins(ctx context.Context, p Twins) (Twins, error)

	// Either is the method "either".
	Either(ctx context.Context, x *Either) (Either, error)

	// Unimplemented2 is the method "unimplemented".
	Unimplemented2(ctx context.Context) (string, error)

	// ABC is the method "/a//b c\"`\n".
	ABC(ctx context.Context, p string) (string, error)
}

// NewHandler returns a router with the methods of service, and their documentation.
func NewHandler(service Service) *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("when", rpcx.Documented(rpcx.Func(service.When, "at"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("perhaps", rpcx.Documented(rpcx.Func(service.Perhaps, "at"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("large", rpcx.Documented(rpcx.Func(service.Large, "n"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("pair", rpcx.Documented(rpcx.Func(service.Pair, "p"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("twins", rpcx.Documented(rpcx.Func(service.Twins, "p"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("either", rpcx.Documented(rpcx.Func(service.Either, "x?"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("unimplemented", rpcx.Documented(rpcx.Func(service.Unimplemented2), rpcx.Doc{
		Public: true,
	}))
	r.Handle("/a//b c\"`\n", rpcx.Documented(rpcx.Func(service.ABC), rpcx.Doc{
		Public: true,
	}))
	return r
}

// Unimplemented can be embedded in a Service. Its methods answer that there is no such method.
type Unimplemented struct{}

func (Unimplemented) When(_ context.Context, _ When) (_ When, err error) {
	err = rpcx.MethodNotFound("when")
	return
}

func (Unimplemented) Perhaps(_ context.Context, _ Perhaps) (_ Perhaps, err error) {
	err = rpcx.MethodNotFound("perhaps")
	return
}

func (Unimplemented) Large(_ context.Context, _ Large) (_ Large, err error) {
	err = rpcx.MethodNotFound("large")
	return
}

func (Unimplemented) Pair(_ context.Context, _ Pair) (_ Pair, err error) {
	err = rpcx.MethodNotFound("pair")
	return
}

func (Unimplemented) Twins(_ context.Context, _ Twins) (_ Twins, err error) {
	err = rpcx.MethodNotFound("twins")
	return
}

func (Unimplemented) Either(_ context.Context, _ *Either) (_ Either, err error) {
	err = rpcx.MethodNotFound("either")
	return
}

func (Unimplemented) Unimplemented2(_ context.Context) (_ string, err error) {
	err = rpcx.MethodNotFound("unimplemented")
	return
}

func (Unimplemented) ABC(_ context.Context, _ string) (_ string, err error) {
	err = rpcx.MethodNotFound("/a//b c\"`\n")
	return
}

// Client calls the methods of a peer. Use NewClient to make one.
type Client struct {
	// When is the method "when".
	When func(ctx context.Context, at When) (When, error) `rpcx:"when"`

	// Perhaps is the method "perhaps".
	Perhaps func(ctx context.Context, at Perhaps) (Perhaps, error) `rpcx:"perhaps"`

	// Large is the method "large".
	Large func(ctx context.Context, n Large) (Large, error) `rpcx:"large"`

	// Pair is the method "pair".
	Pair func(ctx context.Context, p Pair) (Pair, error) `rpcx:"pair"`

	// Twins is the method "twins".
	Twins func(ctx context.Context, p Twins) (Twins, error) `rpcx:"twins"`

	// Unimplemented2 is the method "unimplemented".
	Unimplemented2 func(ctx context.Context) (string, error) `rpcx:"unimplemented"`

	// ABC is the method "/a//b c\"`\n".
	ABC func(ctx context.Context, p string) (string, error) "rpcx:\"/a//b c\\\"`\\n\""

	caller rpcx.Caller
}

// NewClient returns a client that calls through caller.
func NewClient(caller rpcx.Caller) (*Client, error) {
	client := &Client{caller: caller}
	if err := rpcx.BindProxy(rpcx.Remote(caller), client); err != nil {
		return nil, err
	}
	return client, nil
}

// Either is the method "either".
func (client *Client) Either(ctx context.Context, x *Either) (Either, error) {
	args := rpcx.Args{x}
	if x == nil {
		args = args[:0]
	}
	return rpcx.Call[Either](ctx, client.caller, "either", args)
}
