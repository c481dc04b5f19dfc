package openrpc_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
)

// While methods come and go, each reply is a document of a moment between, and the first
// reply after the last change has all changes.
func TestDiscoverWhileChanging(t *testing.T) {
	r := rpcx.NewRouter()
	public := func(summary string) rpcx.Doc { return rpcx.Doc{Public: true, Summary: summary} }
	r.Handle("kept", rpcx.Documented(rpcx.Func(func(item) page[item] { return page[item]{} }), public("kept")))
	r.Handle("secret", rpcx.Func(func() {}))
	discover := openrpc.Discover(r, shopInfo, nil)
	ask := func() *openrpc.Document {
		result, err := discover.ServeRPC(t.Context(), &rpcx.Request{Method: "rpc.discover"})
		if err != nil {
			t.Error(err)
			return new(openrpc.Document)
		}
		d, err := openrpc.Parse(result.(json.RawMessage))
		if err != nil {
			t.Error(err)
			return new(openrpc.Document)
		}
		return d
	}
	var changes, readers sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if names := strings.Join(methodNames(ask()), " "); !strings.Contains(names, "kept") || strings.Contains(names, "secret") {
					t.Errorf("found %s", names)
					return
				}
			}
		})
	}
	for i := range 3 {
		changes.Go(func() {
			name := fmt.Sprintf("m%d", i)
			for n := range 100 {
				r.Handle(name, rpcx.Documented(rpcx.Func(func(grid) {}, "g"), public("")))
				if err := r.Document(name, public(fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
				if n < 99 {
					r.Remove(name)
				}
			}
		})
	}
	changes.Wait()
	d := ask()
	close(done)
	readers.Wait()
	if names := strings.Join(methodNames(d), " "); names != "kept m0 m1 m2" || d.Methods[1].Summary != "99" {
		t.Errorf("in the end: %s, %q", names, d.Methods[1].Summary)
	}
}
