package rpcx_test

import (
	"fmt"
	"strings"

	"example.com/rpcx"
)

// The signature of a handler says how its method can be called.
func ExampleSignatureOf() {
	h := rpcx.Func(func(city string, days int) ([]float64, error) { return nil, nil }, "city", "days?")
	sig, _ := rpcx.SignatureOf(h)
	for _, p := range sig.Params {
		fmt.Println(p.Name, p.Type, "optional:", p.Optional)
	}
	fmt.Println("result:", sig.Result)
	// Output:
	// city string optional: false
	// days int optional: true
	// result: []float64
}

// A method "help" lists the methods that have a Doc, as they can be called.
func ExampleDocumented() {
	router := rpcx.NewRouter()
	router.Handle("forecast", rpcx.Documented(
		rpcx.Func(func(city string, days int) ([]float64, error) { return nil, nil }, "city", "days?"),
		rpcx.Doc{Summary: "Temperatures of the next days", Public: true, Examples: []rpcx.Example{
			{Name: "tomorrow", Params: rpcx.Args{"Oslo", 1}, Result: []float64{-3.5}},
		}}))
	router.Handle("debug", rpcx.Func(func() {}))

	for method, h := range router.Handlers() {
		doc, documented := rpcx.DocOf(h)
		if !documented || !doc.Public {
			continue
		}
		var params []string
		if sig, ok := rpcx.SignatureOf(h); ok {
			for _, p := range sig.Params {
				params = append(params, p.Name+" "+p.Type.String())
			}
		}
		fmt.Printf("%s(%s): %s\n", method, strings.Join(params, ", "), doc.Summary)
	}
	// Output: forecast(city string, days int): Temperatures of the next days
}
