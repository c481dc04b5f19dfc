package openrpc

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

//go:embed page.html
var pageHTML string

// Page returns a handler that serves a document to people, as one HTML page. The page loads
// nothing from elsewhere. With endpoints, the page has a form for each method, and calls the
// methods there:
//
//	http://host/rpc or https://host/rpc  by fetch, with a POST for each call
//	ws://host/rpc or wss://host/rpc      by a WebSocket, which also shows notifications
//	/rpc                                 by fetch, at the host of the page
//	ws:/rpc                              by a WebSocket, at the host of the page
//
// The reader of the page chooses between several endpoints, and begins with the first. If an
// endpoint has another host than the page, the server at the endpoint must allow calls of
// pages of that host. Page panics if an endpoint has another form.
//
// The handler calls doc for each request: for example [Discoverer.Document], which keeps
// the document. If doc fails, the error goes to [slog.Default], and the status is 500.
//
// The document may come from a stranger: the page shows its texts as text only, and makes
// no links of them. The Content-Security-Policy allows no script but the script of the
// page, no connection but to the endpoints, and no frame around the page.
//
//	discover := openrpc.Discover(router, info, nil)
//	mux.Handle("GET /{$}", openrpc.Page(discover.Document, "/rpc"))
func Page(doc func() (*Document, error), endpoints ...string) http.Handler {
	if doc == nil {
		panic("openrpc: Page without a document")
	}
	p := &page{doc: doc, endpoints: []string{}}
	for _, endpoint := range endpoints {
		if endpoint == "" { // as from a flag without a value
			continue
		}
		source, local, err := connectSource(endpoint)
		if err != nil {
			panic("openrpc: Page: " + err.Error())
		}
		p.endpoints = append(p.endpoints, endpoint)
		if !slices.Contains(p.sources, source) {
			p.sources = append(p.sources, source)
		}
		p.localSocket = p.localSocket || local
	}
	p.before, p.after, _ = strings.Cut(pageHTML, "DOCUMENT")
	return p
}

// page is a result of [Page].
type page struct {
	doc           func() (*Document, error)
	endpoints     []string
	sources       []string // of connect-src
	localSocket   bool     // an endpoint is a WebSocket at the host of the page
	before, after string   // HTML around the document
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "the page is read with GET", http.StatusMethodNotAllowed)
		return
	}
	data, err := p.encodeDocument()
	if err != nil {
		slog.ErrorContext(r.Context(), "openrpc: the page has no document", "error", err)
		http.Error(w, "the document cannot be made", http.StatusInternalServerError)
		return
	}
	nonce := rand.Text()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'nonce-"+nonce+"'; style-src 'nonce-"+nonce+"'; connect-src "+p.connectSources(r)+
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	var html bytes.Buffer
	html.WriteString(strings.ReplaceAll(p.before, "NONCE", nonce))
	html.Write(data)
	html.WriteString(strings.ReplaceAll(p.after, "NONCE", nonce))
	h.Set("Content-Length", fmt.Sprint(html.Len()))
	if r.Method == http.MethodGet {
		_, _ = w.Write(html.Bytes()) // the reader has gone away
	}
}

// encodeDocument returns the data for the script of the page. The result has no "<".
func (p *page) encodeDocument() ([]byte, error) {
	d, err := p.doc()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(map[string]any{"endpoints": p.endpoints, "document": d})
	if err != nil {
		return nil, err
	}
	var escaped bytes.Buffer
	json.HTMLEscape(&escaped, data)
	return escaped.Bytes(), nil
}

var safeHost = regexp.MustCompile(`^[A-Za-z0-9_.-]+(:[0-9]+)?$`)

// connectSources returns the sources for connect-src. Older browsers do not count WebSockets
// of the page's host as 'self'.
func (p *page) connectSources(r *http.Request) string {
	switch {
	case len(p.sources) == 0:
		return "'none'"
	case p.localSocket && safeHost.MatchString(r.Host):
		return strings.Join(p.sources, " ") + " ws://" + r.Host + " wss://" + r.Host
	}
	return strings.Join(p.sources, " ")
}

// connectSource returns the source for connect-src that allows calls to an endpoint, and
// whether the endpoint is a WebSocket at the host of the page.
func connectSource(endpoint string) (source string, localSocket bool, err error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("the endpoint is no URL: %w", err)
	case (u.Scheme == "" || u.Scheme == "ws") && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return "'self'", u.Scheme == "ws", nil
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ws" && u.Scheme != "wss":
		return "", false, fmt.Errorf("the endpoint %q begins with none of http://, https://, ws://, wss://, ws:/ and /", endpoint)
	case strings.HasPrefix(u.Host, "["): // which a Content-Security-Policy has no form for
		return "'self'", false, nil
	case !safeHost.MatchString(u.Host) || u.User != nil:
		return "", false, fmt.Errorf("the endpoint %q needs a host of letters, digits, dots and hyphens", endpoint)
	}
	return u.Scheme + "://" + u.Host, false, nil
}
