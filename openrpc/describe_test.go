package openrpc_test

import (
	"context"
	"encoding/json"
	"math/big"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
	"example.com/rpcx/openrpc/internal/shop"
	"github.com/google/go-cmp/cmp"
	invopop "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

type item struct {
	Name    string            `json:"name" jsonschema_description:"what it is called"`
	Price   float64           `json:"price"`
	Tags    []string          `json:"tags,omitempty"`
	Parent  *item             `json:"parent"`
	Child   *item             `json:"child,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Made    time.Time         `json:"made"`
	Picture []byte            `json:"picture,omitempty"`
	Size    struct {
		Width  int `json:"width"`
		Height int `json:"height,omitempty"`
	} `json:"size"`
	Hidden chan int `json:"-"`
}

type find struct {
	Name  string `json:"name" jsonschema_description:"part of the name"`
	Limit int    `json:"limit,omitempty"`
	Below *item
}

type page[T any] struct {
	Items []T     `json:"items"`
	Next  *string `json:"next"`
}

type grid [2]int

type state struct{ On bool }

func (s state) MarshalText() ([]byte, error) { return []byte("on"), nil }

type raw struct{ Data int }

func (r raw) MarshalJSON() ([]byte, error) { return []byte("7"), nil }

type color string

func (color) JSONSchema() *invopop.Schema {
	return &invopop.Schema{Type: "string", Enum: []any{"red", "green"}}
}

type shopMethods interface {
	GetItem(ctx context.Context, name string) (*item, error)
	Totals(ctx context.Context, of map[string]int) (map[string]int, error)
}

type shopService struct{}

func (*shopService) GetItem(_ context.Context, name string) (*item, error) {
	if name == "" {
		return nil, nil
	}
	return &item{Name: name}, nil
}

func (*shopService) Totals(_ context.Context, of map[string]int) (map[string]int, error) {
	return of, nil
}

// shopRouter has a method of each form that rpcx.Func takes.
func shopRouter() *rpcx.Router {
	r := rpcx.NewRouter()
	handle := func(name string, h rpcx.Handler, d rpcx.Doc) {
		d.Public = true
		r.Handle(name, rpcx.Documented(h, d))
	}
	handle("ping", rpcx.Func(func() {}), rpcx.Doc{Summary: "Does nothing"})
	handle("add", rpcx.Func(func(a, b int) int { return a + b }, "a", "b"), rpcx.Doc{
		Summary: "Adds two numbers", Description: "Both are integers.\nThe sum is, too.", Result: "the sum", Tags: []string{"math"},
		Errors:   []rpcx.Error{{Code: 7, Message: "too large", Data: map[string]int{"limit": 9}}, {Code: 8, Message: "too small"}},
		Examples: []rpcx.Example{{Name: "small", Params: rpcx.Args{1, 2}, Result: 3}, {Params: map[string]any{"a": 2, "b": 2}, Result: 4}},
	})
	handle("round", rpcx.Func(func(x float64, digits uint64) float64 { return x }, "x", "digits?"), rpcx.Doc{})
	handle("sum", rpcx.Func(func(_ context.Context, n ...int) (sum int, err error) {
		for _, n := range n {
			sum += n
		}
		return sum, nil
	}), rpcx.Doc{Examples: []rpcx.Example{{Name: "three", Params: rpcx.Args{1, 2, 3}, Result: 6}}})
	handle("log", rpcx.Func(func(level string, words ...string) {}, "level"), rpcx.Doc{Deprecated: true})
	handle("position", rpcx.Func(func(x, y int, name *string) string { return "" }), rpcx.Doc{})
	handle("find", rpcx.Func(func(q find) (page[item], error) { return page[item]{Items: []item{{Name: q.Name}}}, nil }), rpcx.Doc{
		Summary: "Finds items",
	})
	handle("open", rpcx.Func(func(q *find) {}, "..."), rpcx.Doc{})
	handle("values", rpcx.Func(func(m map[string]int) map[string]int { return m }), rpcx.Doc{
		Examples: []rpcx.Example{{Name: "two", Params: map[string]any{"a": 1, "b": 2}, Result: map[string]int{"a": 1, "b": 2}}},
	})
	handle("undecoded", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) { return req.Method, nil }), rpcx.Doc{})
	handle("kinds", rpcx.Func(func(a *big.Int, b json.Number, c netip.Addr, d rpcx.NetAddress, e time.Duration, f state, g raw, h any, i color, j grid) (json.RawMessage, error) {
		return json.RawMessage("null"), nil
	}, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"), rpcx.Doc{})
	handle("empty", rpcx.Func(func() struct{} { return struct{}{} }), rpcx.Doc{})
	handle("put", rpcx.Func(func(i item) *item { return &i }, "item"), rpcx.Doc{})
	handle("array", rpcx.Func(func(a [3]int, b map[int]string, c [][]item) bool { return true }, "a", "b", "c"), rpcx.Doc{})
	service := rpcx.Expose[shopMethods](&shopService{})
	for _, name := range []string{"get_item", "totals"} {
		if err := service.Document(name, rpcx.Doc{Public: true}); err != nil {
			panic(err)
		}
	}
	if err := r.Mount("shop", service); err != nil {
		panic(err)
	}
	r.Handle("private", rpcx.Documented(rpcx.Func(func() {}), rpcx.Doc{Summary: "not for strangers"}))
	r.Handle("undocumented", rpcx.Func(func() {}))
	r.Handle("rpc.discover", rpcx.Documented(openrpc.Discover(r, shopInfo, nil), rpcx.Doc{Public: true}))
	return r
}

var shopInfo = openrpc.Info{Title: "Shop", Version: "1.2.3", Description: "Sells items.", Servers: []string{"tcp://127.0.0.1:8888"}}

func describe(t *testing.T, r *rpcx.Router, opts *openrpc.Options) *openrpc.Document {
	t.Helper()
	d, err := openrpc.Describe(r, shopInfo, opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// metaSchema returns the meta-schema of OpenRPC.
func metaSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	for file, urls := range map[string][]string{
		"testdata/meta-schema/openrpc.json":     {"https://meta.open-rpc.org/"},
		"testdata/meta-schema/json-schema.json": {"https://meta.json-schema.tools/", "https://meta.json-schema.tools"},
	} {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		schema, err := jsonschema.UnmarshalJSON(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		delete(schema.(map[string]any), "$schema") // the file is draft 7, and names itself
		for _, url := range urls {
			if err := c.AddResource(url, schema); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := c.Compile("https://meta.open-rpc.org/")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkDocument fails the test if a document does not fit the meta-schema, or if a schema
// in it is no JSON Schema or refers to nothing. The result is the document in JSON.
func checkDocument(t *testing.T, d *openrpc.Document) []byte {
	t.Helper()
	data, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := metaSchema(t).Validate(v); err != nil {
		t.Errorf("the document does not fit the meta-schema: %v\n%s", err, data)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("https://document.test/", v); err != nil {
		t.Fatal(err)
	}
	for name := range d.Components.Schemas {
		if _, err := c.Compile("https://document.test/#/components/schemas/" + name); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
	}
	for i, m := range d.Methods {
		for j := range m.Params {
			if _, err := c.Compile("https://document.test/#/methods/" + itoa(i) + "/params/" + itoa(j) + "/schema"); err != nil {
				t.Errorf("%s: param %d: %v", m.Name, j, err)
			}
		}
		if m.Result != nil {
			if _, err := c.Compile("https://document.test/#/methods/" + itoa(i) + "/result/schema"); err != nil {
				t.Errorf("%s: result: %v", m.Name, err)
			}
		}
	}
	return data
}

func itoa(i int) string { return string(json.Number(big.NewInt(int64(i)).String())) }

func TestDescribeFitsMetaSchema(t *testing.T) {
	for name, opts := range map[string]*openrpc.Options{
		"public": nil, "all": {All: true}, "with a Reflector": {All: true, Reflector: &invopop.Reflector{}},
	} {
		t.Run(name, func(t *testing.T) { checkDocument(t, describe(t, shopRouter(), opts)) })
	}
	t.Run("of no methods", func(t *testing.T) { checkDocument(t, describe(t, rpcx.NewRouter(), nil)) })
}

// The document of the shop is kept in testdata. If it changes on purpose, RPCX_UPDATE=1
// writes it anew.
func TestDescribeDocument(t *testing.T) {
	data := checkDocument(t, describe(t, shopRouter(), nil))
	compareFile(t, "testdata/shop.json", append(data, '\n'))
}

// compareFile fails the test if got is not what the file has. With RPCX_UPDATE=1, got
// becomes the file.
func compareFile(t *testing.T, name string, got []byte) {
	t.Helper()
	if os.Getenv("RPCX_UPDATE") != "" {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs:\n%s", name, diff)
	}
}

func methodNames(d *openrpc.Document) (names []string) {
	for _, m := range d.Methods {
		names = append(names, m.Name)
	}
	return names
}

// The document of Minecraft's shape fits the meta-schema.
func TestMinecraftDocument(t *testing.T) { checkDocument(t, parseFile(t, "testdata/minecraft.json")) }

func TestDescribeListsPublicMethods(t *testing.T) {
	names := strings.Join(methodNames(describe(t, shopRouter(), nil)), " ")
	for _, hidden := range []string{"private", "undocumented", "rpc.discover", "GetItem"} {
		if strings.Contains(names, hidden) {
			t.Errorf("%s is listed: %s", hidden, names)
		}
	}
	all := strings.Join(methodNames(describe(t, shopRouter(), &openrpc.Options{All: true})), " ")
	if !strings.Contains(all, "private") || !strings.Contains(all, "undocumented") || strings.Contains(all, "rpc.discover") {
		t.Errorf("all methods are %s", all)
	}
}

func TestDescribeRefuses(t *testing.T) {
	router := func(h rpcx.Handler, d rpcx.Doc) *rpcx.Router {
		r := rpcx.NewRouter()
		d.Public = true
		r.Handle("m", rpcx.Documented(h, d))
		return r
	}
	plain := rpcx.Func(func() {})
	for _, c := range []struct {
		name string
		r    *rpcx.Router
		info openrpc.Info
		want string
	}{
		{"no title", rpcx.NewRouter(), openrpc.Info{Version: "1"}, "set Info.Title"},
		{"no version", rpcx.NewRouter(), openrpc.Info{Title: "t"}, "Info.Version"},
		{"a channel in a result", router(rpcx.Func(func() struct{ C chan int } { return struct{ C chan int }{} }), rpcx.Doc{}), shopInfo, "unsupported type chan int: leave the field out"},
		{"an example that is no params", router(plain, rpcx.Doc{Examples: []rpcx.Example{{Name: "x", Params: 5}}}), shopInfo, "neither an rpcx.Args"},
		{"an example without encoding", router(plain, rpcx.Doc{Examples: []rpcx.Example{{Name: "x", Result: func() {}}}}), shopInfo, `example 1, "x": result`},
		{"data without encoding", router(plain, rpcx.Doc{Errors: []rpcx.Error{{Code: 1, Data: func() {}}}}), shopInfo, "data of error 1"},
		{"an empty tag", router(plain, rpcx.Doc{Tags: []string{""}}), shopInfo, "a tag"},
	} {
		if _, err := openrpc.Describe(c.r, c.info, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Two types of one name, of different packages, are two components.
func TestDescribeSameName(t *testing.T) {
	type item struct{ Other bool }
	r := rpcx.NewRouter()
	r.Handle("a", rpcx.Func(func() item { return item{} }))
	r.Handle("b", rpcx.Func(func() page[item] { return page[item]{} }))
	r.Handle("c", rpcx.Func(shopItem))
	d := describe(t, r, &openrpc.Options{All: true})
	checkDocument(t, d)
	if len(d.Components.Schemas) != 3 {
		t.Errorf("the components are %s", d.Components.Schemas)
	}
}

func shopItem() item { return item{} }

// A page and the peers get the same kept document.
func TestDiscovererDocument(t *testing.T) {
	r := shopRouter()
	d := openrpc.Discover(r, shopInfo, nil)
	first, err := d.Document()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(describe(t, r, nil), first); diff != "" {
		t.Errorf("the document differs from Describe:\n%s", diff)
	}
	if again, err := d.Document(); err != nil || again != first {
		t.Errorf("without a change, another document was made (%v)", err)
	}
	r.Remove("ping")
	if changed, err := d.Document(); err != nil || changed == first || len(changed.Methods) != len(first.Methods)-1 {
		t.Errorf("after a change, the document has %d methods (%v)", len(changed.Methods), err)
	}
	if _, err := openrpc.Discover(r, openrpc.Info{}, nil).Document(); err == nil {
		t.Error("a document without a title was made")
	}
}

func TestDiscover(t *testing.T) {
	r := shopRouter()
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: r})
	defer server.Close()
	defer client.Close()
	discover := func() string {
		t.Helper()
		data, err := rpcx.Call[json.RawMessage](t.Context(), client, "rpc.discover", nil)
		if err != nil {
			t.Fatal(err)
		}
		d, err := openrpc.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(methodNames(d), " ")
	}
	first := discover()
	if want := strings.Join(methodNames(describe(t, r, nil)), " "); first != want || discover() != want {
		t.Errorf("found %s, want %s", first, want)
	}
	if err := r.Document("private", rpcx.Doc{Public: true}); err != nil {
		t.Fatal(err)
	}
	r.Remove("ping")
	if again := discover(); !strings.Contains(again, "private") || strings.Contains(again, "ping") {
		t.Errorf("after a change: %s", again)
	}
}

// The examples in a document are true: a call of each has its result.
func TestExamplesAreCalled(t *testing.T) {
	r := shopRouter()
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: r})
	defer server.Close()
	defer client.Close()
	if n := callExamples(t, client, describe(t, r, nil)); n != 4 {
		t.Errorf("%d examples were called", n)
	}
	generated := shop.NewHandler(shopOfGenerated{})
	if n := callExamples(t, pipe(t, generated), describe(t, generated, nil)); n != 4 {
		t.Errorf("%d examples of generated handlers were called", n)
	}
}

func callExamples(t *testing.T, c rpcx.Caller, d *openrpc.Document) (called int) {
	for _, m := range d.Methods {
		for _, e := range m.Examples {
			var params any
			args, named := rpcx.Args{}, rpcx.Named{}
			for _, p := range e.Params {
				args = append(args, p.Value)
				named[p.Name] = p.Value
			}
			if params = args; m.ParamStructure == openrpc.ByName {
				params = named
			}
			got, err := rpcx.Call[any](t.Context(), c, m.Name, params)
			if err != nil {
				t.Errorf("%s, %s: %v", m.Name, e.Name, err)
				continue
			}
			var want any
			if err := json.Unmarshal(e.Result.Value, &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s:\n%s", m.Name, e.Name, diff)
			}
			called++
		}
	}
	return called
}
