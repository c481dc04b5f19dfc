package rpchttp_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"example.com/rpcx/rpchttp"
)

// CheckHosts has the rules of Handler.Hosts, for any handler. A Handler within passes what
// CheckHosts has passed, unless the Handler has hosts of its own.
func TestCheckHosts(t *testing.T) {
	for _, c := range []struct {
		local, host  string
		hosts, inner []string
		status       int
	}{
		{local: "127.0.0.1", host: "localhost:80", status: 200},
		{local: "127.0.0.1", host: "evil.example", status: 421},
		{local: "127.0.0.1", host: "LocalHost.", status: 200},
		{local: "127.0.0.1", host: "app.localhost:8080", status: 200},
		{local: "127.0.0.1", host: "127.0.0.1", status: 200},
		{local: "127.0.0.1", host: "[::1]:8080", status: 200},
		{local: "::1", host: "[::1]", status: 200},
		{local: "::ffff:127.0.0.1", host: "[::ffff:127.0.0.1]:80", status: 200},
		{local: "127.0.0.1", host: "", status: 200}, // HTTP/1.0, which no browser speaks
		{local: "::ffff:127.0.0.1", host: "evil.example", status: 421},
		{local: "::1", host: "evil.example:8080", status: 421},
		{local: "127.0.0.1", host: "127.0.0.1.evil.example", status: 421},
		{local: "127.0.0.1", host: "localhost.evil.example", status: 421},
		{local: "127.0.0.1", host: "evillocalhost", status: 421},
		{local: "127.0.0.1", host: "[::1].evil.example", status: 421},
		{local: "127.0.0.1", host: "[evil.example]", status: 421},
		{local: "127.0.0.1", host: "192.168.1.1", status: 421},
		{local: "127.0.0.1", host: "0.0.0.0:8080", status: 421}, // leads to this machine in some systems
		{local: "192.0.2.1", host: "any.example", status: 200},
		{local: "192.0.2.1", host: "API.Example.:8443", hosts: []string{"api.example"}, status: 200},
		{local: "192.0.2.1", host: "api.example.evil", hosts: []string{"api.example"}, status: 421},
		{local: "192.0.2.1", host: "", hosts: []string{"api.example"}, status: 421},
		{local: "127.0.0.1", host: "api.example:8443", hosts: []string{"api.example:443"}, status: 421},
		{local: "127.0.0.1", host: "api.example", hosts: []string{"*.example"}, status: 200},
		{local: "127.0.0.1", host: "localhost", hosts: []string{"*.example"}, status: 421},
		{local: "127.0.0.1", host: "b.example", hosts: []string{"*.example"}, inner: []string{"a.example"}, status: 421},
	} {
		h := rpchttp.CheckHosts(&rpchttp.Handler{Server: newServer(nil), Hosts: c.inner}, c.hosts...)
		r := at(post(echoing), c.local)
		r.Host = c.host
		w := serve(h, r)
		if w.Code != c.status || c.status == 421 && !strings.Contains(w.Body.String(), "add the host to ") {
			t.Errorf("%+v is answered %d %s", c, w.Code, w.Body)
		}
	}
}

func TestCheckHostsRefusesMistakes(t *testing.T) {
	for want, f := range map[string]func(){
		"rpcx: rpchttp.CheckHosts with a nil http.Handler":                         func() { rpchttp.CheckHosts(nil) },
		"rpcx: rpchttp.CheckHosts has the pattern \"a[\": syntax error in pattern": func() { rpchttp.CheckHosts(http.NotFoundHandler(), "a[") },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			}()
			f()
		}()
	}
}
