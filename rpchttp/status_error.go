package rpchttp

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"example.com/rpcx/internal/bounded"
)

// maxStatusBody is the size of the largest StatusError.Body, in bytes.
const maxStatusBody = 4 << 10

// StatusError is the error of calls whose answer has no JSON-RPC reply: a page of a proxy,
// for example. It implements [rpcx.SentError].
type StatusError struct {
	StatusCode int
	Header     http.Header
	Body       string // at most 4 KiB
	// RetryAfter is the time until the moment in the header Retry-After, which is a number of
	// seconds or a date; otherwise 0.
	RetryAfter time.Duration

	hint string // how to correct a mistake; may be empty
}

// Error returns the status and the beginning of the body. If the cause may be a mistake of
// this side, the text says how to correct it.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("the server answers with status %d", e.StatusCode)
	if name := http.StatusText(e.StatusCode); name != "" {
		text += " (" + name + ")"
	}
	text += ", without JSON-RPC"
	if body := strings.TrimSpace(e.Body); body != "" {
		text += ": " + bounded.Text(bounded.Cut(body, 200))
	}
	if e.RetryAfter > 0 {
		text += "; it asks to try again in " + e.RetryAfter.Round(time.Second).String()
	}
	if e.hint != "" {
		text += "; " + e.hint
	}
	return text
}

// Sent returns true: the server may have carried the call out. A proxy answers with 503,
// for example, also if the server broke off.
func (e *StatusError) Sent() bool { return true }

// newStatusError returns the error for a response without a reply.
func newStatusError(response *http.Response, body []byte) *StatusError {
	return &StatusError{
		StatusCode: response.StatusCode, Header: response.Header, Body: string(body[:min(len(body), maxStatusBody)]),
		RetryAfter: retryAfter(response.Header), hint: hintFor(response),
	}
}

// hintFor says what may be wrong at this side, or nothing.
func hintFor(response *http.Response) string {
	if response.StatusCode/100 == 3 {
		return hintForRedirect(response)
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusNotFound, http.StatusMethodNotAllowed:
		return "is the path of the URL that of a JSON-RPC server?"
	case http.StatusUnauthorized:
		return "set Dialer.Auth, Authorization in Dialer.Header, or a user and a password in the URL"
	case http.StatusNotAcceptable:
		return "set Accept in Dialer.Header; servers of MCP want Options.Handler, for server-sent events"
	case http.StatusRequestEntityTooLarge:
		return "the message is too large for the server: send less, or raise its limit (Handler.MaxSize)"
	case http.StatusUnsupportedMediaType:
		if response.Request != nil && response.Request.Header.Get("Content-Encoding") != "" {
			return "it may not take gzip: switch Dialer.Compress off"
		}
		return "set the Content-Type that it takes in Dialer.Header"
	case http.StatusMisdirectedRequest:
		return "it does not answer for this host: set Host in Dialer.Header, or Handler.Hosts of the server"
	}
	return ""
}

// hintForRedirect says why a redirect was not followed.
func hintForRedirect(response *http.Response) string {
	location, err := response.Location()
	if err != nil {
		return ""
	}
	to := "it redirects to " + bounded.Excerpt(location.Redacted())
	switch response.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		return to + " with a status that would make a GET of the POST and lose the message: dial that address, or let the server answer 307 or 308"
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		if response.Request != nil && response.Request.URL.Scheme == "https" && location.Scheme == "http" {
			return to + ", which is not followed from https to http: dial another address"
		}
		return to + ", which CheckRedirect of Dialer.Client does not follow"
	}
	return ""
}
