package conformance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
	promrpcx "example.com/rpcx/prometheus"
)

// Package promrpcx has the same series of durations as OpenTelemetry's exporter makes of
// what package otelrpcx measures.
func TestSeriesOfBothPackages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	exported, direct := prometheus.NewRegistry(), prometheus.NewRegistry()
	exporter := must(otelprometheus.New(otelprometheus.WithRegisterer(exported), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo()))
	s.config.MeterProvider = metric.NewMeterProvider(metric.WithReader(exporter))
	collector := promrpcx.New(nil, nil)
	direct.MustRegister(collector)
	s.srv.Options = *collector.Instrument(otelrpcx.Instrument(&rpcx.Options{Handler: router(nil)}, &s.config))
	connectTCP(t, s, collector.Instrument(otelrpcx.Instrument(nil, &s.config)))
	for _, method := range []string{"add", "add", "refuse", "fail", "panic", "nothing", "unencodable", "ask", "tell"} {
		_ = s.caller.Call(t.Context(), method, map[string]rpcx.Args{"add": {1, 2}}[method], nil)
	}
	_ = s.caller.Call(t.Context(), "add", rpcx.Args{func() {}}, nil)
	s.close()
	want, got := series(t, exported), series(t, direct)
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("promrpcx:\n%s\n\nOpenTelemetry's exporter:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// series returns the histograms of durations: the labels, the count and the buckets. For
// Prometheus, an empty label is a missing one.
func series(t *testing.T, g prometheus.Gatherer) (lines []string) {
	t.Helper()
	for _, family := range must(g.Gather()) {
		if !strings.HasPrefix(family.GetName(), "rpc_") {
			continue
		}
		for _, m := range family.Metric {
			var line strings.Builder
			line.WriteString(family.GetName())
			for _, label := range m.Label {
				if label.GetValue() != "" {
					fmt.Fprintf(&line, " %s=%q", label.GetName(), label.GetValue())
				}
			}
			fmt.Fprintf(&line, " %d", m.Histogram.GetSampleCount())
			for _, b := range m.Histogram.Bucket {
				fmt.Fprintf(&line, " %v", b.GetUpperBound())
			}
			lines = append(lines, line.String())
		}
	}
	slices.Sort(lines)
	return lines
}
