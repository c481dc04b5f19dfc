package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"example.com/rpcx"
	"example.com/rpcx/internal/browsertest"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/internal/prometheustest"
	"example.com/rpcx/openrpc"
)

// discover returns the document of the program.
func discover(t *testing.T, p *program) *openrpc.Document {
	t.Helper()
	data, err := rpcx.Call[json.RawMessage](t.Context(), p.connect()["TCP"], "rpc.discover", nil)
	if err != nil {
		t.Fatal(err)
	}
	document, err := openrpc.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := metaSchema(t).Validate(decode(t, string(data))); err != nil {
		t.Errorf("the document does not fit the meta-schema: %v\n%s", err, data)
	}
	return document
}

func decode(t *testing.T, data string) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// metaSchema returns the meta-schema of OpenRPC, from the tests of the module openrpc.
func metaSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	for url, file := range map[string]string{
		"https://meta.open-rpc.org/": "openrpc.json", "https://meta.json-schema.tools/": "json-schema.json", "https://meta.json-schema.tools": "json-schema.json",
	} {
		data, err := os.ReadFile("../../openrpc/testdata/meta-schema/" + file)
		if err != nil {
			t.Fatal(err)
		}
		schema := decode(t, string(data))
		delete(schema.(map[string]any), "$schema") // the file is draft 7, and names itself
		if err := c.AddResource(url, schema); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile("https://meta.open-rpc.org/")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// The commands of the README work.
func TestInteropCurl(t *testing.T) {
	curl := interoptest.Program(t, "apt-get install curl", "curl")
	p := start(t, "")
	run := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), curl, append([]string{"-sS"}, args...)...).Output()
		if err != nil {
			t.Errorf("curl %q: %v", args, err)
		}
		return string(out)
	}
	post := func(message string) string {
		return run("-H", "Content-Type: application/json", "-d", message, "http://"+p.http+"/rpc")
	}
	for _, c := range []struct{ message, want string }{ // in this order: notes are numbered
		{`{"jsonrpc":"2.0","method":"add","params":["Buy milk"],"id":0}`, `{"jsonrpc":"2.0","result":{"id":1,"text":"Buy milk"},"id":0}`},
		{`[{"jsonrpc":"2.0","method":"no","id":1}]`, `[{"jsonrpc":"2.0","error":{"code":-32601,"message":"unknown method \"no\""},"id":1}]`},
		{`{"jsonrpc":"2.0","method":"remind","params":["later",0.1],"id":2}`, `"text":"later"}`},
	} {
		if got := post(c.message); !strings.Contains(got, c.want) {
			t.Errorf("%s\n%s, want\n%s", c.message, got, c.want)
		}
	}
	if got := run("http://" + p.http + "/ready"); got != "ready\n" {
		t.Errorf("/ready: %q", got)
	}
	if got := run("http://" + p.http + "/metrics"); !strings.Contains(got, "rpc_server_call_duration_seconds_bucket{") {
		t.Errorf("/metrics: %s", got)
	}
	if got := run("-o", "/dev/null", "-w", "%{http_code}", "http://"+p.http+"/rpc"); got != "426" {
		t.Errorf("GET without a WebSocket: %s", got)
	}
}

// promtool finds nothing to complain of, and Prometheus scrapes the program.
func TestInteropPrometheus(t *testing.T) {
	p := start(t, "")
	for _, c := range p.connect() {
		for _, method := range []string{"list", "no"} {
			_ = c.Call(t.Context(), method, nil, nil)
		}
	}
	prometheustest.Check(t, "http://"+p.http+"/metrics")
	prometheus := prometheustest.Start(t, p.http)
	for query, want := range map[string]string{
		`sum(rpc_server_call_duration_seconds_bucket{le="+Inf",rpc_method="list"})`:            "3",
		`sum(rpc_server_call_duration_seconds_count{error_type="-32601",rpc_method="_OTHER"})`: "3",
		`rpcx_sessions`: "2",
	} {
		if got, err := prometheus.Ask(query); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", query, got, err, want)
		}
	}
}

// A colleague opens the page, and calls methods from their forms over a WebSocket and over
// HTTP.
func TestInteropPage(t *testing.T) {
	b := browsertest.Start(t)
	p := start(t, "")
	b.Open("http://" + p.http + "/")
	// call fills the form of a method and returns the reply that the page shows.
	call := func(method, text string) string {
		values, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		return b.Eval(`(async () => {
			const details = [...document.querySelectorAll("#methods > details")].find(d => d.querySelector("code").textContent === "` + method + `");
			details.open = true;
			const until = async f => { while (!f()) await new Promise(requestAnimationFrame); return f(); };
			const form = await until(() => details.querySelector("form"));
			form.querySelectorAll("textarea").forEach(e => { e.value = ` + string(values) + `; });
			const button = form.querySelector("button.main");
			button.click();
			const answer = await until(() => !button.disabled && form.querySelector("pre.good, pre.bad"));
			return answer.className + " " + answer.textContent.replace(/\s+/g, "").replace(/after\d+ms$/, "");
		})()`)
	}
	over := func(way string) {
		b.Eval(`(choice => { choice.value = "` + way + `"; choice.dispatchEvent(new Event("input")); })(document.getElementById("endpoint"))`)
	}
	if got := b.Eval(`document.getElementById("count").textContent`); got != "5 of 5 methods" {
		t.Errorf("the page has %s", got)
	}
	if got := call("subscribe", ""); !strings.HasPrefix(got, `good "`) {
		t.Errorf("subscribe: %s", got)
	}
	long := `bad Error{"code":1,"message":"theboardhasnoroomforthisnote","data":{"bytes":201,`
	if got := call("add", strings.Repeat("x", 201)); !strings.HasPrefix(got, long) {
		t.Errorf("a long note over a WebSocket: %s", got)
	}
	over("/rpc")
	if got := call("add", strings.Repeat("x", 201)); !strings.HasPrefix(got, long) {
		t.Errorf("a long note over HTTP: %s", got)
	}
	if got := call("subscribe", ""); !strings.HasPrefix(got, `bad Error{"code":-32601`) {
		t.Errorf("subscribe over HTTP: %s", got)
	}
	if got := call("add", "overHTTP"); got != `good {"id":1,"text":"overHTTP"}` {
		t.Errorf("add over HTTP: %s", got)
	}
	over("ws:/rpc")
	if got := call("add", "overWebSocket"); got != `good {"id":2,"text":"overWebSocket"}` {
		t.Errorf("add over a WebSocket: %s", got)
	}
	b.Await(`document.getElementById("newslist").textContent.split("\n").length === 2`)
	if got := b.Eval(`document.getElementById("newslist").textContent`); !strings.Contains(got, "overHTTP") || !strings.Contains(got, "overWebSocket") {
		t.Errorf("the news are %s", got)
	}
	if problems := b.Reported(); len(problems) > 0 {
		t.Errorf("the page has reported %s", problems)
	}
}
