package peers

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
)

// Programs that speak HTTP. Each file http_….go has the tests with one of them.

// jsonType is the content type that a handler takes, for curl and others.
const jsonType = "application/json"

// webServer is a web server of a test, with what has reached it.
type webServer struct {
	url string // without a path
	// requests and batches count what the methods of httpMethods have received.
	requests, batches atomic.Int64
}

// serveWeb serves a handler until the test ends.
func serveWeb(t *testing.T, h http.Handler) *webServer {
	t.Helper()
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	return &webServer{url: web.URL}
}

// serveHTTP serves the methods of interoptest.Router, and some for HTTP, at the path /rpc.
// The functions change the handler.
func serveHTTP(t *testing.T, opts rpcx.Options, change ...func(*rpchttp.Handler)) *webServer {
	t.Helper()
	w := new(webServer)
	opts.Handler = w.methods()
	h := &rpchttp.Handler{Server: &rpcx.Server{Options: opts}}
	for _, f := range change {
		f(h)
	}
	mux := http.NewServeMux()
	mux.Handle("/rpc", h)
	mux.Handle("/ready", rpchttp.Ready(h.Server))
	web := httptest.NewServer(mux)
	w.url = web.URL
	t.Cleanup(func() {
		web.Close()
		h.Server.Close()
		h.Server.Wait(context.Background())
	})
	return w
}

// methods returns the methods of interoptest.Router and these:
//
//   - count(to) sends a notification "at" for each number, and returns the last.
//   - ask_note(token) sends the notification "asked", and returns when the token is noted.
//   - hang_noting(token) notes the token, hangs until its context ends, and notes it again.
func (w *webServer) methods() rpcx.Handler {
	router := interoptest.Router()
	router.Handle("count", rpcx.Func(func(ctx context.Context, s *rpcx.Session, to int) (int, error) {
		for n := 1; n <= to; n++ {
			if err := s.Notify(ctx, "at", rpcx.Args{n}); err != nil {
				return n, err
			}
		}
		return to, nil
	}, "to"))
	router.Handle("ask_note", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if err := req.Session().Notify(ctx, "asked", rpcx.Args{}); err != nil {
			return nil, err
		}
		return router.ServeRPC(ctx, &rpcx.Request{Method: "await_note", Params: req.Params})
	}))
	router.Handle("hang_noting", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		note := &rpcx.Request{Method: "note", Params: req.Params}
		if _, err := router.ServeRPC(ctx, note); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return router.ServeRPC(context.WithoutCancel(ctx), note)
	}))
	return w.counting(router)
}

// counting counts the requests and batches for a handler.
func (w *webServer) counting(h rpcx.Handler) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		w.requests.Add(1)
		if n, _ := req.Batch(); n == 1 {
			w.batches.Add(1)
		}
		return h.ServeRPC(ctx, req)
	})
}

// call returns the text of a request.
func callText(id int, method string, args ...any) string {
	if args == nil {
		args = []any{}
	}
	params, err := json.Marshal(args)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s,"id":%d}`, method, params, id)
}

// writeCA writes the certificate of a web server to a file.
func writeCA(t *testing.T, web *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
