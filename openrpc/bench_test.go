package openrpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
)

// BenchmarkDiscover measures a call of rpc.discover: the first, which makes the document,
// and the later ones, which find that no method has changed.
func BenchmarkDiscover(b *testing.B) {
	type item struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
	}
	for _, n := range []int{10, 100, 1000} {
		r := rpcx.NewRouter()
		for i := range n {
			r.Handle(fmt.Sprintf("method%d", i), rpcx.Documented(rpcx.Func(func(ctx context.Context, id int, name string, more []item) (item, error) {
				return item{id, name}, nil
			}, "id", "name", "more?"), rpcx.Doc{Summary: "Does something", Public: true}))
		}
		b.Run(fmt.Sprintf("first/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := openrpc.Discover(r, shopInfo, nil).Document(); err != nil {
					b.Fatal(err)
				}
			}
		})
		d := openrpc.Discover(r, shopInfo, nil)
		b.Run(fmt.Sprintf("later/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Document(); err != nil {
					b.Fatal(err)
				}
			}
		})
		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: d})
		b.Run(fmt.Sprintf("call/%d", n), func(b *testing.B) {
			for b.Loop() {
				data, err := rpcx.Call[json.RawMessage](b.Context(), client, "rpc.discover", nil)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(data)))
			}
		})
		client.Close()
		<-server.Done()
		page := openrpc.Page(d.Document, "/rpc")
		b.Run(fmt.Sprintf("page/%d", n), func(b *testing.B) {
			for b.Loop() {
				page.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			}
		})
	}
}
