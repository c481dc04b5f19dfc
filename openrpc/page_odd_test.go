package openrpc_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/browsertest"
	"example.com/rpcx/openrpc"
)

// openMethod opens the element of a method on the page.
const openMethod = `name => {
	const details = [...document.querySelectorAll("#methods > details")].find(d => d.querySelector("code").textContent === name);
	details.open = true;
	return details;
}`

// A document keeps the digits of its numbers on the page, and keywords of any shape, and
// schemas of very many levels, spoil no method.
func TestInteropPageOfOddSchemas(t *testing.T) {
	b := browsertest.Start(t)
	deep := json.RawMessage(strings.Repeat(`{"items":`, 9000) + "{}" + strings.Repeat("}", 9000))
	d := &openrpc.Document{
		Info: openrpc.Info{Title: "odd", Version: "1"},
		Methods: []*openrpc.Method{
			{Name: "keywords", Params: []*openrpc.Content{
				{Name: "a", Schema: json.RawMessage(`{"type":{"toString":1,"valueOf":null},"format":[{"toString":0}]}`)},
				{Name: "b", Schema: json.RawMessage(`{"type":[{"toString":1}],"enum":5,"properties":7}`)},
				{Name: "c", Schema: json.RawMessage(`{"oneOf":[5,null,{"$ref":7}],"items":[[]]}`)},
				{Name: "d", Schema: json.RawMessage(`{"$ref":"#/components/schemas/itself"}`)},
				{Name: "e", Schema: json.RawMessage(`{"type":"object","properties":[1],"additionalProperties":[]}`)},
			}},
			{Name: "digits", Params: []*openrpc.Content{{Name: "n", Schema: json.RawMessage(`{"enum":[9007199254740993]}`)}},
				Result:   &openrpc.Content{Name: "r", Schema: json.RawMessage(`{}`)},
				Examples: []openrpc.Example{{Name: "e", Params: []openrpc.ExampleValue{{Name: "n", Value: json.RawMessage("9007199254740993")}}}}},
		},
		Components: openrpc.Components{Schemas: map[string]openrpc.Schema{"itself": json.RawMessage(`{"$ref":"#/components/schemas/itself"}`)}},
	}
	page := httptest.NewServer(openrpc.Page(func() (*openrpc.Document, error) { return d, nil }, "/rpc"))
	defer page.Close()
	b.Open(page.URL)
	for _, c := range []struct{ name, done, want string }{
		{"keywords", `e.querySelectorAll("textarea").length`, "5"},
		{"digits", `e.querySelector("select").textContent.includes("9007199254740993") && e.querySelector(".body > pre").textContent.includes("9007199254740993")`, "true"},
		{"deep", `e.querySelectorAll("textarea").length`, "2"}, // which is another document
	} {
		if c.name == "deep" {
			d.Components.Schemas["deep"] = deep
			d.Methods = []*openrpc.Method{{Name: "deep", Params: []*openrpc.Content{{Name: "a", Schema: deep}, {Name: "b", Schema: json.RawMessage(`{"$ref":"#/components/schemas/deep"}`)}}}}
			b.Open(page.URL)
		}
		if got := b.Eval(`(async () => {
			const e = (` + openMethod + `)("` + c.name + `");
			while (!e.querySelector(".body")) await new Promise(requestAnimationFrame);
			e.querySelectorAll(".body details").forEach(d => { d.open = true; });
			await new Promise(requestAnimationFrame);
			return ` + c.done + `;
		})()`); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if problems := b.Reported(); len(problems) > 0 {
		t.Errorf("the page has reported %.500s", problems)
	}
}

// Replies of many levels, and errors with data, are shown, and notifications keep their
// digits.
func TestInteropPageOfOddReplies(t *testing.T) {
	b := browsertest.Start(t)
	router := rpcx.NewRouter()
	handle := func(name string, fn any) {
		router.Handle(name, rpcx.Documented(rpcx.Func(fn), rpcx.Doc{Public: true}))
	}
	handle("deep", func() json.RawMessage { return json.RawMessage(strings.Repeat("[", 3000) + strings.Repeat("]", 3000)) })
	handle("fails", func() error { return &rpcx.Error{Code: 7, Message: "no", Data: map[string]uint64{"limit": 1<<53 + 1}} })
	handle("notify", func(ctx context.Context, s *rpcx.Session) error {
		return s.Notify(ctx, "news", rpcx.Args{uint64(1<<53 + 1)})
	})
	b.Open(pageServer(t, router) + "/socket")
	for name, want := range map[string]string{"deep": "good [[[", "fails": `"limit": 9007199254740993`, "notify": "good null"} {
		got := b.Eval(`(async () => {
			const e = (` + openMethod + `)("` + name + `");
			while (!e.querySelector("form")) await new Promise(requestAnimationFrame);
			e.querySelector("button.main").click();
			while (!e.querySelector("pre.good, pre.bad")) await new Promise(requestAnimationFrame);
			const answer = e.querySelector("pre.good, pre.bad");
			return answer.className + " " + answer.textContent;
		})()`)
		if !strings.Contains(got, want) || len(got) > 10000 {
			t.Errorf("%s: %.200s", name, got)
		}
	}
	if news := b.Await(`document.getElementById("newslist").textContent`); news != "news [9007199254740993]" {
		t.Errorf("the notification is shown as %s", news)
	}
}
