package openrpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"strings"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
)

func greet(_ context.Context, name string) (string, error) { return "hello, " + name, nil }

// greeter returns a router with a documented method.
func greeter() *rpcx.Router {
	router := rpcx.NewRouter()
	router.Handle("greet", rpcx.Documented(rpcx.Func(greet, "name"), rpcx.Doc{
		Summary:  "Says hello",
		Examples: []rpcx.Example{{Name: "a friend", Params: rpcx.Args{"Ann"}, Result: "hello, Ann"}},
		Public:   true,
	}))
	return router
}

func ExampleDescribe() {
	doc, err := openrpc.Describe(greeter(), openrpc.Info{Title: "Greeter", Version: "1.0.0"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range doc.Methods {
		fmt.Printf("%s: %s\n", m.Name, m.Summary)
		for _, p := range m.Params {
			fmt.Printf("  %s %s\n", p.Name, p.Schema)
		}
	}
	// Output:
	// greet: Says hello
	//   name {"type":"string"}
}

func ExampleDiscover() {
	router := greeter()
	router.Handle("rpc.discover", openrpc.Discover(router, openrpc.Info{Title: "Greeter", Version: "1.0.0"}, nil))
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer client.Close()

	data, err := rpcx.Call[json.RawMessage](context.Background(), client, "rpc.discover", nil)
	if err != nil {
		log.Fatal(err)
	}
	doc, err := openrpc.Parse(data)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(doc.Info.Title, doc.OpenRPC, doc.Methods[0].Name)
	// Output: Greeter 1.3.2 greet
}

func ExampleDocument_Go() {
	doc, err := openrpc.Describe(greeter(), openrpc.Info{Title: "Greeter", Version: "1.0.0"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	code, err := doc.Go("greeter")
	if err != nil {
		log.Fatal(err)
	}
	_, service, _ := strings.Cut(string(code), "type Service ")
	service, _, _ = strings.Cut(service, "\n}")
	fmt.Println(service)
	// Output:
	// interface {
	// 	// Greet is the method "greet".
	// 	//
	// 	// Says hello
	// 	Greet(ctx context.Context, name string) (string, error)
}

func ExamplePage() {
	router := greeter()
	mux := http.NewServeMux()
	discover := openrpc.Discover(router, openrpc.Info{Title: "Greeter", Version: "1.0.0"}, nil)
	mux.Handle("GET /{$}", openrpc.Page(discover.Document, "/rpc", "ws:/rpc"))
}
