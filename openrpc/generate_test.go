package openrpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
	"example.com/rpcx/openrpc/internal/minecraft"
	"example.com/rpcx/openrpc/internal/shop"
	"github.com/google/go-cmp/cmp"
)

func parseFile(t *testing.T, name string) *openrpc.Document {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := openrpc.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Parse loses nothing of a document that Describe made.
func TestParseDescribed(t *testing.T) {
	want, err := os.ReadFile("testdata/shop.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(parseFile(t, "testdata/shop.json"), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("Parse makes of it\n%s", got)
	}
}

// shopOfGenerated answers the methods of the generated Service that the tests call.
type shopOfGenerated struct{ shop.Unimplemented }

func (shopOfGenerated) Add(_ context.Context, a, b int64) (int64, error) { return a + b, nil }

func (shopOfGenerated) Array(_ context.Context, a [3]int64, b map[int64]string, c [][]shop.Item) (bool, error) {
	return a[2] == 3 && b[7] == "seven" && len(c) == 1, nil
}

func (shopOfGenerated) Empty(context.Context) (struct{}, error) { return struct{}{}, nil }

func (shopOfGenerated) Find(_ context.Context, p shop.FindParams) (shop.PageItem, error) {
	item := shop.Item{Name: p.Name, Child: p.Below}
	if p.Limit != nil {
		item.Size.Width = *p.Limit
	}
	return shop.PageItem{Items: []shop.Item{item}}, nil
}

func (shopOfGenerated) Kinds(_ context.Context, a *big.Int, _ float64, c, _ string, _ int64, _ string, _, _ any, i shop.Color, _ shop.Grid) (any, error) {
	return a.String() + c + string(i), nil
}

func (shopOfGenerated) Ping(context.Context) error { return nil }

func (shopOfGenerated) Position(_ context.Context, x, y int64, name *string) (string, error) {
	if name == nil {
		return "none", nil
	}
	return *name, nil
}

func (shopOfGenerated) Put(_ context.Context, item shop.Item) (*shop.Item, error) {
	if item.Name == "" {
		return nil, nil
	}
	return &item, nil
}

func (shopOfGenerated) Round(_ context.Context, p shop.RoundParams) (float64, error) {
	if p.Digits == nil {
		return -p.X, nil
	}
	return float64(*p.Digits), nil
}

func (shopOfGenerated) ShopTotals(_ context.Context, m map[string]int64) (map[string]int64, error) {
	return m, nil
}

func (shopOfGenerated) Sum(_ context.Context, n ...int64) (sum int64, err error) {
	for _, n := range n {
		sum += n
	}
	return sum, nil
}

func (shopOfGenerated) Undecoded(_ context.Context, req *rpcx.Request) (any, error) {
	return len(req.Params.Named), nil
}

func (shopOfGenerated) Values(_ context.Context, m map[string]int64) (map[string]int64, error) {
	return m, nil
}

// pipe returns a session that calls h.
func pipe(t *testing.T, h rpcx.Handler) *rpcx.Session {
	t.Helper()
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: h})
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client
}

// The generated client calls the generated handlers, and the handlers of the program that
// was described.
func TestGeneratedClientCalls(t *testing.T) {
	ctx := t.Context()
	limit, digits, text := int64(3), uint64(1<<63), "text"
	for name, h := range map[string]rpcx.Handler{"generated handlers": shop.NewHandler(shopOfGenerated{}), "described handlers": shopRouter()} {
		t.Run(name, func(t *testing.T) {
			c, err := shop.NewClient(pipe(t, h))
			if err != nil {
				t.Fatal(err)
			}
			check := func(what string, err error, got, want any) {
				t.Helper()
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("%s: %v\n%s", what, err, diff)
				}
			}
			check("ping", c.Ping(ctx), 0, 0)
			sum, err := c.Add(ctx, 1, 2)
			check("add", err, sum, int64(3))
			ok, err := c.Array(ctx, [3]int64{1, 2, 3}, map[int64]string{7: "seven"}, [][]shop.Item{{}})
			check("array", err, ok, true)
			_, err = c.Empty(ctx)
			check("empty", err, 0, 0)
			found, err := c.Find(ctx, shop.FindParams{Name: "n", Limit: &limit, Below: &shop.Item{}})
			check("find", err, found.Items[0].Name, "n")
			_, err = c.Kinds(ctx, big.NewInt(5), 1.5, "127.0.0.1", "localhost:1", 5, "on", 7, nil, shop.ColorRed, shop.Grid{1, 2})
			if name == "generated handlers" {
				check("kinds", err, 0, 0)
			}
			_, err = c.Position(ctx, 1, 2, nil)
			check("position", err, 0, 0)
			_, err = c.Position(ctx, 1, 2, &text)
			check("position with all", err, 0, 0)
			put, err := c.Put(ctx, shop.Item{Name: "thing"})
			check("put", err, put.Name, "thing")
			_, err = c.Round(ctx, shop.RoundParams{X: 1.5})
			check("round", err, 0, 0)
			_, err = c.Round(ctx, shop.RoundParams{X: 1.5, Digits: &digits})
			check("round with digits", err, 0, 0)
			totals, err := c.ShopTotals(ctx, map[string]int64{"a": 1})
			check("totals", err, totals, map[string]int64{"a": 1})
			sum, err = c.Sum(ctx, 1, 2, 3)
			check("sum", err, sum, int64(6))
			sum, err = c.Sum(ctx)
			check("sum of nothing", err, sum, int64(0))
			_, err = c.Undecoded(ctx, map[string]int{"any": 1})
			check("undecoded", err, 0, 0)
			values, err := c.Values(ctx, map[string]int64{"b": 2})
			check("values", err, values, map[string]int64{"b": 2})
		})
	}
	c, err := shop.NewClient(pipe(t, shop.NewHandler(shop.Unimplemented{})))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(ctx); !errors.Is(err, rpcx.ErrMethodNotFound) {
		t.Errorf("without a method: %v", err)
	}
}

// Describe, Go and Describe again gives the same methods, names, params, types and results.
// Only the descriptions of fields, and the values of an enum, are not in the types of Go.
func TestDescribeGenerated(t *testing.T) {
	want := parseFile(t, "testdata/shop.json")
	got := describe(t, shop.NewHandler(shopOfGenerated{}), nil)
	checkDocument(t, got)
	for i, m := range got.Methods {
		w := want.Methods[i]
		if m.Summary != w.Summary || m.Description != w.Description || m.Result.Description != w.Result.Description {
			t.Errorf("the texts of %s are %q, %q and %q", w.Name, m.Summary, m.Description, m.Result.Description)
		}
		if m.Name == "shop/totals" {
			w.ParamStructure = openrpc.Either // a map as the only param has got a name
		}
	}
	if diff := cmp.Diff(withoutTexts(t, want), withoutTexts(t, got)); diff != "" {
		t.Error(diff)
	}
}

// withoutTexts returns a document as decoded JSON, without descriptions and enums.
func withoutTexts(t *testing.T, d *openrpc.Document) any {
	t.Helper()
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), `{"$ref":"#/components/schemas/Color"}`, `{"type":"string"}`)
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	delete(v["components"].(map[string]any)["schemas"].(map[string]any), "Color")
	var clean func(v any)
	clean = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			delete(v, "description")
			for _, e := range v {
				clean(e)
			}
		case []any:
			for _, e := range v {
				clean(e)
			}
		}
	}
	clean(v)
	return v
}

// minecraftServer is a mock made from the document.
type minecraftServer struct {
	minecraft.Unimplemented
	allowed []minecraft.Player
}

func (s *minecraftServer) MinecraftAllowlist(context.Context) ([]minecraft.Player, error) {
	return s.allowed, nil
}

func (s *minecraftServer) MinecraftAllowlistAdd(_ context.Context, add []minecraft.Player) ([]minecraft.Player, error) {
	s.allowed = append(s.allowed, add...)
	return s.allowed, nil
}

func (s *minecraftServer) MinecraftServersettingsDifficultySet(_ context.Context, d minecraft.Difficulty) (minecraft.Difficulty, error) {
	return d, nil
}

func (s *minecraftServer) MinecraftServerSystemMessage(_ context.Context, m minecraft.SystemMessage) (bool, error) {
	return m.Overlay != nil && *m.Overlay, nil
}

// minecraftEvents are the notifications that a client handles.
type minecraftEvents struct {
	minecraft.Unimplemented
	joined chan minecraft.Player
}

func (e *minecraftEvents) MinecraftNotificationPlayersJoined(_ context.Context, p minecraft.Player) error {
	e.joined <- p
	return nil
}

// The document of a stranger, in the shape of Minecraft's server management protocol, makes
// a client, a mock of the server, and handlers of the notifications.
func TestMinecraft(t *testing.T) {
	events := &minecraftEvents{joined: make(chan minecraft.Player, 1)}
	session, server := rpcx.Pipe(&rpcx.Options{Handler: minecraft.NewHandler(events)}, &rpcx.Options{Handler: minecraft.NewHandler(&minecraftServer{})})
	defer session.Close()
	defer server.Close()
	c, err := minecraft.NewClient(session)
	if err != nil {
		t.Fatal(err)
	}
	name, overlay := "Alex", true
	list, err := c.MinecraftAllowlistAdd(t.Context(), []minecraft.Player{{Name: &name}})
	if err != nil || len(list) != 1 || *list[0].Name != name || list[0].ID != nil {
		t.Errorf("the allowlist is %v, %v", list, err)
	}
	if list, err = c.MinecraftAllowlist(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("the allowlist is %v, %v", list, err)
	}
	if d, err := c.MinecraftServersettingsDifficultySet(t.Context(), minecraft.DifficultyHard); d != "hard" || err != nil {
		t.Errorf("the difficulty is %v, %v", d, err)
	}
	sent, err := c.MinecraftServerSystemMessage(t.Context(), minecraft.SystemMessage{Overlay: &overlay})
	if !sent || err != nil {
		t.Errorf("the message: %v, %v", sent, err)
	}
	if _, err := c.MinecraftServerStatus(t.Context()); !errors.Is(err, rpcx.ErrMethodNotFound) {
		t.Errorf("the status: %v", err)
	}
	toClient, err := minecraft.NewClient(server)
	if err != nil {
		t.Fatal(err)
	}
	if err := toClient.MinecraftNotificationPlayersJoined(t.Context(), minecraft.Player{Name: &name}); err != nil {
		t.Fatal(err)
	}
	if p := <-events.joined; *p.Name != name {
		t.Errorf("joined: %v", p)
	}
}
