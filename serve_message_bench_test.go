package rpcx_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/rpcx"
)

const sumRequest = `{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":1}`

func sumServer() *rpcx.Server {
	r := rpcx.NewRouter()
	r.Handle("sum", rpcx.Func(func(a, b int) int { return a + b }))
	return &rpcx.Server{Options: rpcx.Options{Handler: r}}
}

// BenchmarkServeMessage measures exchanges alone, and over HTTP beside what net/http takes
// by itself and beside a whole session for each request.
func BenchmarkServeMessage(b *testing.B) {
	b.Run("Alone", func(b *testing.B) {
		srv, msg := sumServer(), []byte(sumRequest)
		b.ReportAllocs()
		for b.Loop() {
			if reply, err := srv.ServeMessage(context.Background(), nil, msg, nil); reply == nil || err != nil {
				b.Fatal(string(reply), err)
			}
		}
	})
	handlers := map[string]http.HandlerFunc{
		"Echo": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Write(body)
		},
		"Message": func() http.HandlerFunc {
			srv := sumServer()
			return func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				reply, err := srv.ServeMessage(r.Context(), nil, body, nil)
				if err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
				w.Write(reply)
			}
		}(),
		"Session": func() http.HandlerFunc {
			srv := sumServer()
			return func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				conn := &oneMessage{msg: body, w: w, closed: make(chan struct{}), written: make(chan struct{})}
				s := srv.ServeMessageConn(conn)
				<-s.Done()
			}
		}(),
	}
	for _, name := range []string{"Echo", "Message", "Session"} {
		b.Run(name, func(b *testing.B) {
			srv := httptest.NewServer(handlers[name])
			defer srv.Close()
			client := srv.Client()
			b.ReportAllocs()
			for b.Loop() {
				resp, err := client.Post(srv.URL, "application/json", strings.NewReader(sumRequest))
				if err != nil {
					b.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || len(body) == 0 {
					b.Fatal(resp.Status, string(body))
				}
			}
		})
	}
}

// oneMessage is a connection that brings one message and takes one reply.
type oneMessage struct {
	msg     []byte
	w       io.Writer
	read    bool
	written chan struct{}
	closed  chan struct{}
}

func (c *oneMessage) ReadMessage() ([]byte, error) {
	if !c.read {
		c.read = true
		return c.msg, nil
	}
	select {
	case <-c.written:
	case <-c.closed:
	}
	return nil, io.EOF
}

func (c *oneMessage) WriteMessages(msgs [][]byte) error {
	_, err := c.w.Write(bytes.Join(msgs, nil))
	close(c.written)
	return err
}

func (c *oneMessage) Close() error {
	close(c.closed)
	return nil
}
