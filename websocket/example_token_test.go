package websocket_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// tokens has the users by the SHA-256 of their tokens.
type tokens map[[sha256.Size]byte]string

// tokenUserKey is the key of the user in the context of an HTTP request.
type tokenUserKey struct{}

// admit is a middleware for HTTP requests: it asks for the header "Authorization: Bearer …".
func (users tokens) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		user, ok := users[sha256.Sum256([]byte(token))]
		if !ok && r.Method != http.MethodOptions { // a browser asks by OPTIONS first, without a token
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token is missing or unknown", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tokenUserKey{}, user)))
	})
}

// userOf returns the user of a session: in a method, or in Options.Context.
func userOf(s *rpcx.Session) string {
	r := websocket.Request(s)
	if r == nil {
		r = rpchttp.Request(s)
	}
	if r == nil {
		return "" // neither HTTP nor a WebSocket
	}
	return r.Context().Value(tokenUserKey{}).(string)
}

// One middleware serves HTTP and WebSockets. Methods ask the HTTP request for the user.
func Example_token() {
	users := tokens{sha256.Sum256([]byte("open-sesame")): "Ada"}
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(userOf))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	mux := http.NewServeMux()
	mux.Handle("/ws", users.admit(websocket.Handler(srv)))
	mux.Handle("/rpc", users.admit(&rpchttp.Handler{Server: srv}))
	web := httptest.NewServer(mux)
	defer web.Close()

	header := http.Header{"Authorization": {"Bearer open-sesame"}}
	ctx := context.Background()
	d := websocket.Dialer{Header: header}
	s, err := d.Dial(ctx, strings.Replace(web.URL, "http", "ws", 1)+"/ws", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[string](ctx, s, "whoami", nil))
	for _, header := range []http.Header{header, nil} {
		client, err := (&rpchttp.Dialer{Header: header}).Dial(web.URL+"/rpc", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		user, err := rpcx.Call[string](ctx, client, "whoami", nil)
		refused, _ := errors.AsType[*rpchttp.StatusError](err)
		fmt.Println(user, refused != nil && refused.StatusCode == http.StatusUnauthorized)
		client.Close()
	}
	fmt.Println(srv.Shutdown(ctx))
	// Output:
	// Ada <nil>
	// Ada false
	//  true
	// <nil>
}
