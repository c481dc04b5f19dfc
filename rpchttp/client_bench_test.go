package rpchttp_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// echoReply answers each call with the result 3, in the least time. A server that takes
// more would hide what the client takes.
func echoReply(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var call struct{ ID json.RawMessage }
	json.Unmarshal(body, &call)
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Write(append(append([]byte(`{"jsonrpc":"2.0","result":3,"id":`), call.ID...), '}'))
}

// BenchmarkClient compares a call with a POST by package http, which encodes and decodes
// the same message.
func BenchmarkClient(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(echoReply))
	defer s.Close()
	plain := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}}
	defer plain.CloseIdleConnections()
	var id atomic.Int64
	post := func(tb testing.TB) {
		type call struct {
			JSONRPC string `json:"jsonrpc"`
			Method  string `json:"method"`
			ID      int64  `json:"id"`
			Params  []int  `json:"params"`
		}
		msg, _ := json.Marshal(call{"2.0", "sum", id.Add(1), []int{1, 2}})
		r, err := http.NewRequestWithContext(tb.Context(), "POST", s.URL, bytes.NewReader(msg))
		if err != nil {
			tb.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		response, err := plain.Do(r)
		if err != nil {
			tb.Fatal(err)
		}
		defer response.Body.Close()
		reply, err := io.ReadAll(response.Body)
		var result struct{ Result int }
		if err != nil || json.Unmarshal(reply, &result) != nil || result.Result != 3 {
			tb.Fatal(err, result)
		}
	}
	c, err := rpchttp.Dial(s.URL, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	call := func(tb testing.TB) {
		var sum int
		if err := c.Call(tb.Context(), "sum", rpcx.Args{1, 2}, &sum); err != nil || sum != 3 {
			tb.Fatal(err, sum)
		}
	}
	for _, way := range []struct {
		name string
		do   func(testing.TB)
	}{{"Client", call}, {"net-http", post}} {
		b.Run(way.name+"/one at a time", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				way.do(b)
			}
		})
		b.Run(way.name+"/16 at a time", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					way.do(b)
				}
			})
		})
	}
}
