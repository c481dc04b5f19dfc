package rpchttp

import (
	"context"
	"net/http"
	"slices"
)

// CheckHosts returns a handler that passes the requests for some hosts on to next, and
// refuses others with 421. The rules are those of [Handler].Hosts: without hosts, every
// host is passed on, except that on a loopback address only names of this machine are.
//
// CheckHosts panics if a host is no pattern.
//
// CheckHosts protects a whole mux from pages of names that lead to this machine (DNS
// rebinding): the WebSockets, the metrics and the pages. A Handler in the mux with neither
// Hosts nor Client then passes all requests that CheckHosts has passed on:
//
//	web := &http.Server{Handler: rpchttp.CheckHosts(mux)}
func CheckHosts(next http.Handler, hosts ...string) http.Handler {
	if next == nil {
		panic("rpcx: rpchttp.CheckHosts with a nil http.Handler")
	}
	if err := checkPatterns(hosts); err != nil {
		panic("rpcx: rpchttp.CheckHosts has the " + err.Error())
	}
	h := &Handler{Hosts: slices.Clone(hosts)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.hasAllowedHost(r) {
			no := refuseHost(r, "the arguments of rpchttp.CheckHosts")
			http.Error(w, no.text, no.status)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), hostCheckedKey{}, true)))
	})
}

// hostCheckedKey is the key of a context, whose request CheckHosts has passed on.
type hostCheckedKey struct{}

// hostIsChecked reports whether CheckHosts has passed r on.
func hostIsChecked(r *http.Request) bool { return r.Context().Value(hostCheckedKey{}) != nil }
