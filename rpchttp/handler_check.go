package rpchttp

import (
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"example.com/rpcx/internal/bounded"
)

// allowedMethods is the header Allow.
const allowedMethods = "POST, OPTIONS"

// checkRequest returns why a request is refused, by its header alone. It returns nil for a
// request whose body may be read.
func (h *Handler) checkRequest(w http.ResponseWriter, r *http.Request) *refusal {
	if no := h.checkHost(r); no != nil {
		return no
	}
	if no := h.checkOrigin(w, r); no != nil {
		return no
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", allowedMethods)
		return &refusal{status: http.StatusMethodNotAllowed, text: "method not allowed: a message is POSTed", quiet: true}
	}
	if no := checkContent(w, r); no != nil {
		return no
	}
	return h.checkAdmission(w, r)
}

// checkSpent refuses the compressed body of a client whose budget was used up just now.
func (h *Handler) checkSpent(w http.ResponseWriter, r *http.Request, x *exchange) *refusal {
	if !isGzip(r) {
		return nil
	}
	retryAfter, spent := h.spent.recall(x.subnet())
	if !spent {
		return nil
	}
	if retryAfter != "" {
		w.Header().Set("Retry-After", retryAfter)
	}
	return &refusal{status: http.StatusTooManyRequests, text: "too many requests", quiet: true}
}

// checkAdmission asks Admit.
func (h *Handler) checkAdmission(w http.ResponseWriter, r *http.Request) *refusal {
	var err error
	switch {
	case h.Admit != nil:
		err = h.Admit(r)
	case h.Server.Options.Gate != nil:
		err = errNoAdmit
	}
	if err == nil {
		return nil
	}
	const challenge = "Www-Authenticate"
	if len(w.Header()[challenge]) == 0 {
		w.Header().Set(challenge, "Bearer")
	}
	return &refusal{status: http.StatusUnauthorized, text: "not admitted", err: fmt.Errorf("request not admitted: %w", err)}
}

var errNoAdmit = fmt.Errorf("the server has a Gate, and a request over HTTP has no first message: set rpchttp.Handler.Admit")

// checkContent checks the type and the encoding of the body. Types that a page may POST
// without asking, such as text/plain, are refused, because they pass by the rules for
// origins in old browsers.
func checkContent(w http.ResponseWriter, r *http.Request) *refusal {
	types := r.Header["Content-Type"]
	if len(types) != 1 {
		return wrongType("no Content-Type, or several")
	}
	if types[0] != jsonType {
		kind, params, err := mime.ParseMediaType(types[0])
		switch charset, given := params["charset"]; {
		case err != nil || kind != jsonType && kind != "application/json-rpc" && kind != "application/jsonrequest":
			return wrongType(fmt.Sprintf("Content-Type %q", bounded.Excerpt(types[0])))
		case given && !strings.EqualFold(charset, "utf-8"):
			return wrongType(fmt.Sprintf("charset %q: write UTF-8", bounded.Excerpt(charset)))
		}
	}
	if encodings := r.Header["Content-Encoding"]; len(encodings) > 1 || len(encodings) == 1 && !isGzip(r) && !strings.EqualFold(encodings[0], "identity") {
		w.Header().Set("Accept-Encoding", "gzip")
		return &refusal{status: http.StatusUnsupportedMediaType,
			text: fmt.Sprintf("Content-Encoding %q: write gzip, or no compression", bounded.Excerpt(strings.Join(encodings, ", ")))}
	}
	return nil
}

const jsonType = "application/json"

func wrongType(what string) *refusal {
	return &refusal{status: http.StatusUnsupportedMediaType, text: what + ": a message has the Content-Type " + jsonType}
}

// isGzip reports whether the body of r is compressed with gzip.
func isGzip(r *http.Request) bool {
	encodings := r.Header["Content-Encoding"]
	return len(encodings) == 1 && (strings.EqualFold(encodings[0], "gzip") || strings.EqualFold(encodings[0], "x-gzip"))
}

// checkHost checks the requested host.
func (h *Handler) checkHost(r *http.Request) *refusal {
	if h.hasAllowedHost(r) {
		return nil
	}
	return refuseHost(r, "rpchttp.Handler.Hosts")
}

// hasAllowedHost reports whether the requested host is one of the handler's.
func (h *Handler) hasAllowedHost(r *http.Request) bool {
	switch {
	case len(h.Hosts) > 0:
		return h.hasHost(r.Host)
	case h.Client == nil && onLoopback(r) && r.Host != "" && !isLoopbackName(r.Host):
		return hostIsChecked(r)
	}
	return true
}

// refuseHost returns the refusal of a host that is not in the list.
func refuseHost(r *http.Request, list string) *refusal {
	return &refusal{status: http.StatusMisdirectedRequest,
		text: fmt.Sprintf("this server does not answer for the host %q: add the host to %s", bounded.Excerpt(r.Host), list)}
}

// hasHost reports whether Hosts has the host, with or without its port.
func (h *Handler) hasHost(host string) bool {
	host = strings.ToLower(host)
	name := hostName(host)
	return slices.ContainsFunc(h.Hosts, func(pattern string) bool {
		pattern = strings.ToLower(pattern)
		if pattern == host || trimBrackets(pattern) == name {
			return true
		}
		whole, _ := path.Match(pattern, host)
		alone, _ := path.Match(pattern, name)
		return whole || alone
	})
}

// hostName returns the host without the port, the brackets of IPv6, and the final dot of a
// name.
func hostName(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.TrimSuffix(trimBrackets(host), ".")
}

// trimBrackets returns the address of IPv6 in brackets.
func trimBrackets(host string) string {
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}

// onLoopback reports whether the connection of r has come to a loopback address.
func onLoopback(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// isLoopbackName reports whether host leads to this machine, whatever DNS answers.
func isLoopbackName(host string) bool {
	name := hostName(host)
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.Unmap().IsLoopback()
	}
	const local = "localhost"
	n := len(name) - len(local)
	return n >= 0 && strings.EqualFold(name[n:], local) && (n == 0 || name[n-1] == '.')
}

// hidden is the origin in place of an origin hidden by the browser (RFC 6454, section 7.3).
const hidden = "null"

// checkOrigin checks the page that asks, if one does, and allows the browser to show the
// answer to the page.
func (h *Handler) checkOrigin(w http.ResponseWriter, r *http.Request) *refusal {
	origins := r.Header["Origin"]
	if len(origins) == 0 || len(origins) == 1 && origins[0] == "" {
		return nil
	}
	header := w.Header()
	header.Add("Vary", "Origin")
	if len(origins) == 1 && h.allowsOrigin(r, origins[0]) {
		header.Set("Access-Control-Allow-Origin", origins[0])
		header.Set("Access-Control-Expose-Headers", "Retry-After")
		return nil
	}
	return &refusal{status: http.StatusForbidden,
		text: fmt.Sprintf("pages of %q may not ask this server: add the host to rpchttp.Handler.Origins", bounded.Excerpt(strings.Join(origins, ", ")))}
}

// allowsOrigin reports whether a page of the origin may ask.
func (h *Handler) allowsOrigin(r *http.Request, origin string) bool {
	if origin == hidden {
		return slices.Contains(h.Origins, hidden)
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true
	}
	host := strings.ToLower(u.Host)
	return slices.ContainsFunc(h.Origins, func(pattern string) bool {
		target := host
		if strings.Contains(pattern, "://") {
			target = u.Scheme + "://" + host
		}
		if pattern == hidden {
			return false // would be taken for a host
		}
		pattern = strings.ToLower(pattern)
		ok, _ := path.Match(pattern, target)
		return ok || pattern == target // brackets of IPv6 are no pattern
	})
}

// answerPreflight answers OPTIONS, and reports whether r is that: the question of a browser
// whether a page may POST.
func (h *Handler) answerPreflight(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodOptions {
		return false
	}
	no := h.checkHost(r)
	if no == nil {
		no = h.checkOrigin(w, r)
	}
	if no != nil {
		h.refuse(w, r, no)
		return true
	}
	header := w.Header()
	header.Set("Allow", allowedMethods)
	if header.Get("Access-Control-Allow-Origin") != "" {
		header.Set("Access-Control-Allow-Methods", http.MethodPost)
		if wanted := r.Header.Get("Access-Control-Request-Headers"); wanted != "" && len(wanted) <= maxEchoedHeader {
			header.Set("Access-Control-Allow-Headers", wanted)
		}
		header.Set("Access-Control-Max-Age", "600")
	}
	h.boundAnswer(w, h.settings.readTimeout)
	w.WriteHeader(http.StatusNoContent)
	return true
}

// maxEchoedHeader is the size of the largest list of header fields that a preflight may ask
// for.
const maxEchoedHeader = 1024
