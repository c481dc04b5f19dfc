//go:build unix

package peers

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// smuggling has requests that a proxy and its server may divide in different ways. Each
// hides a GET of /admin, which HAProxy denies, or a call of the method "smuggled", in a body
// or behind one.
func smuggling() map[string]string {
	const admin = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
	call := callText(1, "smuggled")
	post := fmt.Sprintf("POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(call), call)
	const head = "POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
	requests := make(map[string]string)
	for what, hidden := range map[string]string{"a GET": admin, "a call in a denied path": strings.Replace(post, "/rpc", "/admin", 1)} {
		chunked := "0\r\n\r\n" + hidden
		length := fmt.Sprintf("Content-Length: %d\r\n", len(chunked))
		for name, fields := range map[string]string{
			"length and chunks":          length + "Transfer-Encoding: chunked\r\n",
			"chunks and length":          "Transfer-Encoding: chunked\r\n" + length,
			"two lengths":                length + "Content-Length: 5\r\n",
			"two lengths in a list":      fmt.Sprintf("Content-Length: 5, %d\r\n", len(chunked)),
			"length 0 and another":       "Content-Length: 0\r\n" + length,
			"a length with a sign":       fmt.Sprintf("Content-Length: +%d\r\n", len(chunked)),
			"a length in hexadecimal":    fmt.Sprintf("Content-Length: 0x%x\r\n", len(chunked)),
			"an unknown encoding":        "Transfer-Encoding: xchunked\r\n" + length,
			"chunked twice":              "Transfer-Encoding: chunked, chunked\r\n" + length,
			"chunked in two lines":       "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + length,
			"gzip and chunked":           "Transfer-Encoding: gzip, chunked\r\n" + length,
			"chunked with a tab":         "Transfer-Encoding:\tchunked\r\n" + length,
			"chunked behind a line feed": "Transfer-Encoding:\n chunked\r\n" + length,
			"a folded line":              "Transfer-Encoding:\r\n chunked\r\n" + length,
			"a space before the colon":   "Transfer-Encoding : chunked\r\n" + length,
			"an upper-case value":        "Transfer-Encoding: CHUNKED\r\n" + length,
			"a name within a line":       "X: y\rTransfer-Encoding: chunked\r\n" + length,
			"a line without a return":    "X: y\nTransfer-Encoding: chunked\r\n" + length,
			"a name with a NUL":          "Transfer-Encoding\x00: chunked\r\n" + length,
			"HTTP/1.0 with chunks":       "Transfer-Encoding: chunked\r\n" + length,
			"no length":                  "",
		} {
			request := head + fields + "\r\n" + chunked
			if strings.HasPrefix(name, "HTTP/1.0") {
				request = strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1)
			}
			requests[what+": "+name] = request
		}
		// The server refuses these by the header alone, and does not want the body.
		whole := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(hidden), hidden)
		requests[what+": the body of another type"] = "POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n" + whole
		requests[what+": the body of another origin"] = head + "Origin: http://evil.example\r\n" + whole
		requests[what+": the body of a GET"] = "GET /rpc HTTP/1.1\r\nHost: a\r\n" + whole
		requests[what+": the body of no message"] = head + whole
		requests[what+": the end of a large body"] = head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s%s",
			rpcx.DefaultMaxSize+1+len(hidden), strings.Repeat(" ", rpcx.DefaultMaxSize+1), hidden)
		requests[what+": a body that was not asked for"] = "POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nExpect: 100-continue\r\n" + whole
		requests[what+": chunks with an extension"] = head + "Transfer-Encoding: chunked\r\n\r\n2;a=\"\r\n\r\n0\r\n\r\n" + hidden + "\"\r\n{}\r\n0\r\n\r\n"
		requests[what+": a chunk that is larger"] = head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\n%s", hidden)
		requests[what+": a trailer"] = head + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 100\r\nX: " + strings.ReplaceAll(hidden, "\r\n", "\r\nX: ") + "\r\n\r\n"
	}
	return requests
}

// No request that HAProxy denies reaches the server inside another one, and each client gets
// the answers to its own requests.
func (b *behindHAProxy) testSmuggling(t *testing.T) {
	ctx := interopContext(t)
	for addr, want := range map[string]int{b.direct: http.StatusOK, b.addr: http.StatusForbidden} { // the test can fail
		response, err := http.Get("http://" + addr + "/admin")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("/admin at %s: status %d, want %d", addr, response.StatusCode, want)
		}
	}
	if n := b.handledOf("/admin"); n != 1 {
		t.Errorf("/admin was reached %d times, want the time without HAProxy", n)
	}
	honest, _ := b.dialFrom(t, "127.0.0.12", "http://"+b.addr+"/rpc", rpchttp.Dialer{})
	source := 0
	for name, request := range smuggling() {
		source++
		t.Run(name, func(t *testing.T) {
			answer := exchangeRaw(t, ctx, b.addr, fmt.Sprintf("127.0.1.%d", source), request)
			if n := b.handledOf("/admin") + b.handledOf("smuggled"); n != 0 {
				t.Errorf("the hidden request has reached the server; the answer is\n%s", answer)
			}
			for n := range 3 {
				text := fmt.Sprint(name, n)
				if got, err := rpcx.Call[string](ctx, honest, "echo", rpcx.Args{text}); got != text || err != nil {
					t.Errorf("the next client got %q, %v", got, err)
				}
			}
		})
	}
}

// exchangeRaw sends a request, and returns what comes back until the connection ends.
func exchangeRaw(t *testing.T, ctx context.Context, addr, source, request string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	_, err = io.WriteString(conn, request) // fails if HAProxy does not want all of it
	if err == nil {
		conn.(*net.TCPConn).CloseWrite()
	}
	answer, _ := io.ReadAll(conn)
	if ctx.Err() != nil {
		t.Error("the connection does not end")
	}
	return string(answer)
}
