package openrpc_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"example.com/rpcx/openrpc"
)

func getPage(t *testing.T, h http.Handler, method string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
	return w.Result(), w.Body.String()
}

func returning(d *openrpc.Document) func() (*openrpc.Document, error) {
	return func() (*openrpc.Document, error) { return d, nil }
}

func TestPageHeaders(t *testing.T) {
	d := parseFile(t, "testdata/shop.json")
	for endpoint, source := range map[string]string{
		"ws:/rpc": "'self' ws://example.com wss://example.com",
		"":        "'none'", "/rpc": "'self'", "http://127.0.0.1:80/rpc?a": "http://127.0.0.1:80", "wss://example.com/rpc": "wss://example.com", "ws://[::1]:80/": "'self'",
	} {
		response, body := getPage(t, openrpc.Page(returning(d), endpoint), http.MethodGet)
		policy := response.Header.Get("Content-Security-Policy")
		nonce := regexp.MustCompile(`script-src 'nonce-([A-Z2-7]{26})';`).FindStringSubmatch(policy)
		if nonce == nil || !strings.HasPrefix(policy, "default-src 'none'; ") || !strings.Contains(policy, "connect-src "+source+";") ||
			!strings.Contains(policy, "frame-ancestors 'none'") {
			t.Fatalf("%q: the policy is %s", endpoint, policy)
		}
		if n := strings.Count(body, `nonce="`+nonce[1]+`"`); n != 3 || strings.Contains(body, "NONCE") {
			t.Errorf("the page has its nonce %d times", n)
		}
		if response.Header.Get("Content-Type") != "text/html; charset=utf-8" || response.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("the header is %v", response.Header)
		}
		if regexp.MustCompile(`(src|href)="[^#]`).MatchString(body) {
			t.Error("the page loads something")
		}
	}
	_, first := getPage(t, openrpc.Page(returning(d), ""), http.MethodGet)
	if _, second := getPage(t, openrpc.Page(returning(d), ""), http.MethodGet); first == second {
		t.Error("two pages have the same nonce")
	}
}

func TestPageMethods(t *testing.T) {
	d := parseFile(t, "testdata/shop.json")
	response, body := getPage(t, openrpc.Page(returning(d), ""), http.MethodHead)
	if response.StatusCode != http.StatusOK || body != "" || response.Header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %v, %q", response, body)
	}
	response, _ = getPage(t, openrpc.Page(returning(d), ""), http.MethodPost)
	if response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %v", response)
	}
	failing := func() (*openrpc.Document, error) { return nil, errors.New("secret") }
	response, body = getPage(t, openrpc.Page(failing, ""), http.MethodGet)
	if response.StatusCode != http.StatusInternalServerError || strings.Contains(body, "secret") {
		t.Errorf("without a document: %v, %q", response, body)
	}
}

func TestPageRefusesEndpoints(t *testing.T) {
	for _, endpoint := range []string{"javascript:alert(1)", "tcp://127.0.0.1:1", "http://", "http://a;script-src *", "rpc", "//example.com/rpc", "http://a b/", "http://u:p@example.com/", "ws:rpc", "wss:/rpc", "http:/rpc"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is an endpoint", endpoint)
				}
			}()
			openrpc.Page(returning(nil), "/rpc", endpoint)
		}()
	}
}

// No text of a document leaves the element with the data.
func TestPageOfHostileDocuments(t *testing.T) {
	for i, text := range append(escapes, "</script><script>alert(1)</script>", "<!--<script>", "]]>", "DOCUMENT", "NONCE") {
		d, err := openrpc.Parse(hostileDocument(text, "other"+escapes[i%len(escapes)]))
		if err != nil {
			continue
		}
		response, body := getPage(t, openrpc.Page(returning(d), ""), http.MethodGet)
		_, data, _ := strings.Cut(body, `id="data">`)
		data, rest, _ := strings.Cut(data, "</script>")
		if strings.ContainsAny(data, "<>&\u2028") || strings.Count(rest, "<script") != 1 || response.StatusCode != http.StatusOK {
			t.Errorf("%q leaves its place", text)
		}
	}
}
