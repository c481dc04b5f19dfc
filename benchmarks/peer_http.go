package benchmarks

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// httpPeer is net/http alone: the string is the body of a POST and of its
// response. HTTP/1.1 keeps its connections, but a connection carries one call at
// a time. It has neither batches nor notifications.
var httpPeer = Peer{
	Name:   "http",
	Title:  "net/http (POST, pool)",
	Kind:   Other,
	OneWay: true,
	Start: func(Load) (Server, error) {
		return startHTTP(http.HandlerFunc(echoBody))
	},
	Dial: func(_ context.Context, addr string, load Load) (Client, error) {
		return httpClient{newHTTPClient(load), "http://" + addr}, nil
	},
}

// echoBody reads the whole body before it writes, as HTTP/1.1 wants it.
func echoBody(w http.ResponseWriter, r *http.Request) {
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

// startHTTP serves HTTP/1.1.
func startHTTP(h http.Handler) (Server, error) {
	l, err := listen()
	if err != nil {
		return nil, err
	}
	go http.Serve(l, h) // until acceptor.Close
	return l, nil
}

// newHTTPClient returns a client that keeps a connection for each caller.
func newHTTPClient(load Load) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxConnsPerHost:     load.Callers,
		MaxIdleConnsPerHost: load.Callers,
		DisableCompression:  true,
	}}
}

type httpClient struct {
	*http.Client
	url string
}

func (c httpClient) Echo(ctx context.Context, text string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(text))
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		return "", fmt.Errorf("status %s, length %d", resp.Status, resp.ContentLength)
	}
	reply := make([]byte, resp.ContentLength)
	_, err = io.ReadFull(resp.Body, reply)
	return string(reply), err
}

func (c httpClient) Close() error {
	c.CloseIdleConnections()
	return nil
}
