package promrpcx_test

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/rpcx"
	promrpcx "example.com/rpcx/prometheus"
)

func ExampleCollector() {
	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(a, b int) int { return a + b }))

	collector := promrpcx.New(nil, nil) // a server would pass its *rpcx.Server
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector)

	client, server := rpcx.Pipe(nil, collector.Instrument(&rpcx.Options{Handler: router}))
	sum, err := rpcx.Call[int](context.Background(), client, "add", rpcx.Args{1, 2})
	fmt.Println(sum, err)
	client.Close()
	<-server.Done()

	families, _ := registry.Gather() // what promhttp.Handler does for each scrape
	for _, f := range families {
		for _, m := range f.Metric {
			if h := m.Histogram; h != nil {
				fmt.Println(f.GetName(), m.Label[1].GetValue(), h.GetSampleCount())
			}
		}
	}
	// Output:
	// 3 <nil>
	// rpc_server_call_duration_seconds add 1
}
