package rpchttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// methods is a handler that answers by name.
type methods map[string]func(context.Context, *rpcx.Request) (any, error)

func (m methods) ServeRPC(ctx context.Context, req *rpcx.Request) (any, error) {
	if f := m[req.Method]; f != nil {
		return f(ctx, req)
	}
	return nil, rpcx.MethodNotFound(req.Method)
}

// newServer returns a server with the given methods, besides "echo", "fail" and "boom".
func newServer(more methods) *rpcx.Server {
	all := methods{
		"echo": func(_ context.Context, req *rpcx.Request) (any, error) {
			if req.Params.Named != nil {
				return json.RawMessage(req.Params.Named), nil
			}
			return json.RawMessage(req.Params.Positional), nil
		},
		"fail": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.Errorf(7, "no luck") },
		"boom": func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("the password is 1234") },
	}
	maps.Copy(all, more)
	return &rpcx.Server{Options: rpcx.Options{Handler: all}}
}

// echoing is a request, and its reply.
const (
	echoing = `{"jsonrpc":"2.0","method":"echo","params":["hi"],"id":1}`
	echoed  = `{"jsonrpc":"2.0","result":["hi"],"id":1}`
)

// post returns a request with the given body, and header fields: names and values in turn.
func post(body string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://example.com/rpc", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// serve returns the answer of h to r.
func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// answering says that h answers r with the status, and with the body if want is not "".
func answering(t *testing.T, h http.Handler, r *http.Request, status int, want string) *httptest.ResponseRecorder {
	t.Helper()
	w := serve(h, r)
	if got := w.Body.String(); w.Code != status || want != "" && got != want {
		t.Errorf("%s %v is answered\n%d %s; want\n%d %s", r.Method, r.Header, w.Code, got, status, want)
	}
	return w
}

// Whatever has a JSON-RPC body has the status 200, and 204 says that there is none.
func TestReplies(t *testing.T) {
	const notFound = `{"jsonrpc":"2.0","error":{"code":-32601,"message":"unknown method \"none\""},"id":2}`
	for _, c := range []struct {
		name, msg string
		status    int
		want      string
	}{
		{"a result", echoing, 200, echoed},
		{"an error", strings.ReplaceAll(echoing, "echo", "fail"), 200, `{"jsonrpc":"2.0","error":{"code":7,"message":"no luck"},"id":1}`},
		{"an error of Go, whose text stays here", strings.ReplaceAll(echoing, "echo", "boom"), 200, `{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`},
		{"a batch", "[" + echoing + `,{"jsonrpc":"2.0","method":"none","id":2}]`, 200, "[" + echoed + ", " + notFound + "]"},
		{"invalid JSON", `{`, 200, `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`},
		{"a notification", `{"jsonrpc":"2.0","method":"echo"}`, 204, ""},
		{"a batch of notifications", `[{"jsonrpc":"2.0","method":"echo"}]`, 204, ""},
		{"a response", echoed, 204, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := serve(&rpchttp.Handler{Server: newServer(nil)}, post(c.msg))
			if w.Code != c.status || w.Body.String() != c.want {
				t.Errorf("the answer is %d %s; want %d %s", w.Code, w.Body, c.status, c.want)
			}
			if kind := w.Header().Get("Content-Type"); c.want != "" && kind != "application/json" {
				t.Errorf("the Content-Type is %q", kind)
			}
		})
	}
}
