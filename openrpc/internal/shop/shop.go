// Code generated from an OpenRPC document. DO NOT EDIT.

// Package shop has the methods and types of Shop, version 1.2.3.
//
// Sells items.
package shop

import (
	"context"
	"encoding/json"
	"math/big"
	"time"

	"example.com/rpcx"
)

// Color is a schema of the document.
type Color string

// The values of Color.
const (
	ColorRed   Color = "red"
	ColorGreen Color = "green"
)

// Grid is a schema of the document.
type Grid [2]int64

// Item is a schema of the document.
type Item struct {
	// what it is called
	Name    string            `json:"name"`
	Price   float64           `json:"price"`
	Tags    []string          `json:"tags,omitzero"`
	Parent  *Item             `json:"parent"`
	Child   *Item             `json:"child,omitzero"`
	Labels  map[string]string `json:"labels,omitzero"`
	Made    time.Time         `json:"made"`
	Picture []byte            `json:"picture,omitzero"`
	Size    struct {
		Width  int64  `json:"width"`
		Height *int64 `json:"height,omitzero"`
	} `json:"size"`
}

// PageItem is a schema of the document.
type PageItem struct {
	Items []Item  `json:"items"`
	Next  *string `json:"next"`
}

// FindParams holds the params of Find.
type FindParams struct {
	// part of the name
	Name  string `json:"name"`
	Limit *int64 `json:"limit,omitzero"`
	Below *Item  `json:"Below,omitzero"`
}

// OpenParams holds the params of Open.
type OpenParams struct {
	// part of the name
	Name  string `json:"name"`
	Limit *int64 `json:"limit,omitzero"`
	Below *Item  `json:"Below,omitzero"`
}

// RoundParams holds the params of Round.
type RoundParams struct {
	X      float64 `json:"x"`
	Digits *uint64 `json:"digits,omitzero"`
}

// Service answers the methods of the document.
type Service interface {
	// Add is the method "add".
	//
	// Adds two numbers
	//
	// Both are integers.
	// The sum is, too.
	Add(ctx context.Context, a int64, b int64) (int64, error)

	// Array is the method "array".
	Array(ctx context.Context, a [3]int64, b map[int64]string, c [][]Item) (bool, error)

	// Empty is the method "empty".
	Empty(ctx context.Context) (struct{}, error)

	// Find is the method "find".
	//
	// Finds items
	Find(ctx context.Context, params FindParams) (PageItem, error)

	// Kinds is the method "kinds".
	Kinds(ctx context.Context, a *big.Int, b float64, c string, d string, e int64, f string, g any, h any, i Color, j Grid) (any, error)

	// Log is the method "log".
	//
	// Deprecated: the document says so.
	Log(ctx context.Context, level string, arg2 ...string) error

	// Open is the method "open".
	Open(ctx context.Context, params OpenParams) error

	// Ping is the method "ping".
	//
	// Does nothing
	Ping(ctx context.Context) error

	// Position is the method "position".
	Position(ctx context.Context, arg1 int64, arg2 int64, arg3 *string) (string, error)

	// Put is the method "put".
	Put(ctx context.Context, item Item) (*Item, error)

	// Round is the method "round".
	Round(ctx context.Context, params RoundParams) (float64, error)

	// ShopGetItem is the method "shop/get_item".
	ShopGetItem(ctx context.Context, arg1 string) (*Item, error)

	// ShopTotals is the method "shop/totals".
	ShopTotals(ctx context.Context, arg1 map[string]int64) (map[string]int64, error)

	// Sum is the method "sum".
	Sum(ctx context.Context, arg1 ...int64) (int64, error)

	// Undecoded is the method "undecoded".
	Undecoded(ctx context.Context, req *rpcx.Request) (any, error)

	// Values is the method "values".
	Values(ctx context.Context, params map[string]int64) (map[string]int64, error)
}

// NewHandler returns a router with the methods of service, and their documentation.
func NewHandler(service Service) *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("add", rpcx.Documented(rpcx.Func(service.Add, "a", "b"), rpcx.Doc{
		Summary:     "Adds two numbers",
		Description: "Both are integers.\nThe sum is, too.",
		Tags:        []string{"math"},
		Result:      "the sum",
		Errors: []rpcx.Error{
			{Code: 7, Message: "too large", Data: json.RawMessage("{\"limit\":9}")},
			{Code: 8, Message: "too small"},
		},
		Examples: []rpcx.Example{
			{Name: "small", Params: rpcx.Args{json.RawMessage("1"), json.RawMessage("2")}, Result: json.RawMessage("3")},
			{Name: "example 2", Params: rpcx.Args{json.RawMessage("2"), json.RawMessage("2")}, Result: json.RawMessage("4")},
		},
		Public: true,
	}))
	r.Handle("array", rpcx.Documented(rpcx.Func(service.Array, "a", "b", "c"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("empty", rpcx.Documented(rpcx.Func(service.Empty), rpcx.Doc{
		Public: true,
	}))
	r.Handle("find", rpcx.Documented(rpcx.Func(service.Find), rpcx.Doc{
		Summary: "Finds items",
		Public:  true,
	}))
	r.Handle("kinds", rpcx.Documented(rpcx.Func(service.Kinds, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("log", rpcx.Documented(rpcx.Func(service.Log, "level"), rpcx.Doc{
		Deprecated: true,
		Public:     true,
	}))
	r.Handle("open", rpcx.Documented(rpcx.Func(service.Open, "..."), rpcx.Doc{
		Public: true,
	}))
	r.Handle("ping", rpcx.Documented(rpcx.Func(service.Ping), rpcx.Doc{
		Summary: "Does nothing",
		Public:  true,
	}))
	r.Handle("position", rpcx.Documented(rpcx.Func(service.Position), rpcx.Doc{
		Public: true,
	}))
	r.Handle("put", rpcx.Documented(rpcx.Func(service.Put, "item"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("round", rpcx.Documented(rpcx.Func(func(ctx context.Context, x float64, digits *uint64) (float64, error) {
		return service.Round(ctx, RoundParams{X: x, Digits: digits})
	}, "x", "digits?"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("shop/get_item", rpcx.Documented(rpcx.Func(service.ShopGetItem), rpcx.Doc{
		Public: true,
	}))
	r.Handle("shop/totals", rpcx.Documented(rpcx.Func(service.ShopTotals, "arg1"), rpcx.Doc{
		Public: true,
	}))
	r.Handle("sum", rpcx.Documented(rpcx.Func(service.Sum), rpcx.Doc{
		Examples: []rpcx.Example{
			{Name: "three", Params: rpcx.Args{json.RawMessage("1"), json.RawMessage("2"), json.RawMessage("3")}, Result: json.RawMessage("6")},
		},
		Public: true,
	}))
	r.Handle("undecoded", rpcx.Documented(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) { return service.Undecoded(ctx, req) }), rpcx.Doc{
		Public: true,
	}))
	r.Handle("values", rpcx.Documented(rpcx.Func(service.Values), rpcx.Doc{
		Examples: []rpcx.Example{
			{Name: "two", Params: map[string]any{"a": json.RawMessage("1"), "b": json.RawMessage("2")}, Result: json.RawMessage("{\"a\":1,\"b\":2}")},
		},
		Public: true,
	}))
	return r
}

// Unimplemented can be embedded in a Service. Its methods answer that there is no such method.
type Unimplemented struct{}

func (Unimplemented) Add(_ context.Context, _ int64, _ int64) (_ int64, err error) {
	err = rpcx.MethodNotFound("add")
	return
}

func (Unimplemented) Array(_ context.Context, _ [3]int64, _ map[int64]string, _ [][]Item) (_ bool, err error) {
	err = rpcx.MethodNotFound("array")
	return
}

func (Unimplemented) Empty(_ context.Context) (_ struct{}, err error) {
	err = rpcx.MethodNotFound("empty")
	return
}

func (Unimplemented) Find(_ context.Context, _ FindParams) (_ PageItem, err error) {
	err = rpcx.MethodNotFound("find")
	return
}

func (Unimplemented) Kinds(_ context.Context, _ *big.Int, _ float64, _ string, _ string, _ int64, _ string, _ any, _ any, _ Color, _ Grid) (_ any, err error) {
	err = rpcx.MethodNotFound("kinds")
	return
}

func (Unimplemented) Log(_ context.Context, _ string, _ ...string) (err error) {
	err = rpcx.MethodNotFound("log")
	return
}

func (Unimplemented) Open(_ context.Context, _ OpenParams) (err error) {
	err = rpcx.MethodNotFound("open")
	return
}

func (Unimplemented) Ping(_ context.Context) (err error) {
	err = rpcx.MethodNotFound("ping")
	return
}

func (Unimplemented) Position(_ context.Context, _ int64, _ int64, _ *string) (_ string, err error) {
	err = rpcx.MethodNotFound("position")
	return
}

func (Unimplemented) Put(_ context.Context, _ Item) (_ *Item, err error) {
	err = rpcx.MethodNotFound("put")
	return
}

func (Unimplemented) Round(_ context.Context, _ RoundParams) (_ float64, err error) {
	err = rpcx.MethodNotFound("round")
	return
}

func (Unimplemented) ShopGetItem(_ context.Context, _ string) (_ *Item, err error) {
	err = rpcx.MethodNotFound("shop/get_item")
	return
}

func (Unimplemented) ShopTotals(_ context.Context, _ map[string]int64) (_ map[string]int64, err error) {
	err = rpcx.MethodNotFound("shop/totals")
	return
}

func (Unimplemented) Sum(_ context.Context, _ ...int64) (_ int64, err error) {
	err = rpcx.MethodNotFound("sum")
	return
}

func (Unimplemented) Undecoded(_ context.Context, _ *rpcx.Request) (_ any, err error) {
	err = rpcx.MethodNotFound("undecoded")
	return
}

func (Unimplemented) Values(_ context.Context, _ map[string]int64) (_ map[string]int64, err error) {
	err = rpcx.MethodNotFound("values")
	return
}

// Client calls the methods of a peer. Use NewClient to make one.
type Client struct {
	// Add is the method "add".
	//
	// Adds two numbers
	//
	// Both are integers.
	// The sum is, too.
	Add func(ctx context.Context, a int64, b int64) (int64, error) `rpcx:"add"`

	// Array is the method "array".
	Array func(ctx context.Context, a [3]int64, b map[int64]string, c [][]Item) (bool, error) `rpcx:"array"`

	// Empty is the method "empty".
	Empty func(ctx context.Context) (struct{}, error) `rpcx:"empty"`

	// Find is the method "find".
	//
	// Finds items
	Find func(ctx context.Context, params FindParams) (PageItem, error) `rpcx:"find"`

	// Kinds is the method "kinds".
	Kinds func(ctx context.Context, a *big.Int, b float64, c string, d string, e int64, f string, g any, h any, i Color, j Grid) (any, error) `rpcx:"kinds"`

	// Log is the method "log".
	//
	// Deprecated: the document says so.
	Log func(ctx context.Context, level string, arg2 ...string) error `rpcx:"log"`

	// Open is the method "open".
	Open func(ctx context.Context, params OpenParams) error `rpcx:"open"`

	// Ping is the method "ping".
	//
	// Does nothing
	Ping func(ctx context.Context) error `rpcx:"ping"`

	// Round is the method "round".
	Round func(ctx context.Context, params RoundParams) (float64, error) `rpcx:"round"`

	// ShopGetItem is the method "shop/get_item".
	ShopGetItem func(ctx context.Context, arg1 string) (*Item, error) `rpcx:"shop/get_item"`

	// ShopTotals is the method "shop/totals".
	ShopTotals func(ctx context.Context, arg1 map[string]int64) (map[string]int64, error) `rpcx:"shop/totals"`

	// Sum is the method "sum".
	Sum func(ctx context.Context, arg1 ...int64) (int64, error) `rpcx:"sum"`

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

// Position is the method "position".
func (client *Client) Position(ctx context.Context, arg1 int64, arg2 int64, arg3 *string) (string, error) {
	args := rpcx.Args{arg1, arg2, arg3}
	if arg3 == nil {
		args = args[:2]
	}
	return rpcx.Call[string](ctx, client.caller, "position", args)
}

// Put is the method "put".
func (client *Client) Put(ctx context.Context, item Item) (*Item, error) {
	args := rpcx.Args{item}
	return rpcx.Call[*Item](ctx, client.caller, "put", args)
}

// Undecoded is the method "undecoded".
func (client *Client) Undecoded(ctx context.Context, params any) (any, error) {
	return rpcx.Call[any](ctx, client.caller, "undecoded", params)
}

// Values is the method "values".
func (client *Client) Values(ctx context.Context, params map[string]int64) (map[string]int64, error) {
	return rpcx.Call[map[string]int64](ctx, client.caller, "values", params)
}
