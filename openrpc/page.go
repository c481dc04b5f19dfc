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
	"strings"
)

//go:embed page.html
var pageHTML string

// Page returns a handler that serves a document to people, as one HTML page. The page loads
// nothing from elsewhere. If endpoint is not "", the page has a form for each method, and
// calls the methods there:
//
//	http://host/rpc or https://host/rpc  by fetch, with a POST for each call
//	ws://host/rpc or wss://host/rpc      by a WebSocket, which also shows notifications
//	/rpc                                 by fetch, at the host of the page
//
// If the endpoint has another host than the page, the server at the endpoint must allow
// calls of pages of that host. Page panics if endpoint has another form.
//
// The handler calls doc for each request. If doc fails, the error goes to [slog.Default],
// and the status is 500.
//
// The document may come from a stranger: the page shows its texts as text only, and makes
// no links of them. The Content-Security-Policy allows no script but the script of the
// page, no connection but to the endpoint, and no frame around the page.
//
//	page := openrpc.Page(func() (*openrpc.Document, error) {
//		return openrpc.Describe(router, info, nil)
//	}, "/rpc")
//	mux.Handle("GET /{$}", page)
func Page(doc func() (*Document, error), endpoint string) http.Handler {
	source, err := connectSource(endpoint)
	switch {
	case doc == nil:
		panic("openrpc: Page without a document")
	case err != nil:
		panic("openrpc: Page: " + err.Error())
	}
	before, after, _ := strings.Cut(pageHTML, "DOCUMENT")
	return &page{doc, endpoint, source, before, after}
}

// page is a result of [Page].
type page struct {
	doc           func() (*Document, error)
	endpoint      string
	source        string // of connect-src
	before, after string // HTML around the document
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
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'nonce-"+nonce+"'; style-src 'nonce-"+nonce+"'; connect-src "+p.source+
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
	data, err := json.Marshal(map[string]any{"endpoint": p.endpoint, "document": d})
	if err != nil {
		return nil, err
	}
	var escaped bytes.Buffer
	json.HTMLEscape(&escaped, data)
	return escaped.Bytes(), nil
}

var safeHost = regexp.MustCompile(`^[A-Za-z0-9_.-]+(:[0-9]+)?$`)

// connectSource returns the source for connect-src that allows calls to an endpoint.
func connectSource(endpoint string) (string, error) {
	if endpoint == "" {
		return "'none'", nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return "", fmt.Errorf("the endpoint is no URL: %w", err)
	case u.Scheme == "" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return "'self'", nil
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ws" && u.Scheme != "wss":
		return "", fmt.Errorf("the endpoint %q begins with none of http://, https://, ws://, wss:// and /", endpoint)
	case strings.HasPrefix(u.Host, "["): // which a Content-Security-Policy has no form for
		return "'self'", nil
	case !safeHost.MatchString(u.Host) || u.User != nil:
		return "", fmt.Errorf("the endpoint %q needs a host of letters, digits, dots and hyphens", endpoint)
	}
	return u.Scheme + "://" + u.Host, nil
}
