package promrpcx

import (
	"github.com/prometheus/client_golang/prometheus"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// costBuckets holds the upper bounds of the buckets of rpcx_session_cost. By default, a
// cost of 2,000 delays requests, and 10,000 ends the session.
var costBuckets = []float64{0, 100, 500, 1000, 2000, 4000, 6000, 8000, 10_000}

// serverDescs describes the metrics that a server has by itself.
type serverDescs struct{ sessions, handshakes, queued, handled, cost, refused *prometheus.Desc }

func newServerDescs() serverDescs {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	return serverDescs{
		sessions:   desc("rpcx_sessions", "Live sessions."),
		handshakes: desc("rpcx_handshakes", "Handshakes in progress."),
		queued:     desc("rpcx_queued_bytes", "Bytes that wait in queues (Server.MaxQueuedBytes)."),
		handled:    desc("rpcx_handled_bytes", "Bytes of requests that are handled (Server.MaxHandledBytes)."),
		cost:       desc("rpcx_session_cost", "Present costs of the live sessions."),
		refused:    prometheus.NewDesc(refusedName, refusedHelp, refusedLabels, nil),
	}
}

func (d *serverDescs) describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{d.sessions, d.handshakes, d.queued, d.handled, d.cost} {
		ch <- desc
	}
}

func (d *serverDescs) collect(ch chan<- prometheus.Metric, srv *rpcx.Server) {
	stats := srv.Stats()
	gauge := func(desc *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v))
	}
	gauge(d.sessions, stats.Sessions)
	gauge(d.handshakes, stats.Handshakes)
	gauge(d.queued, stats.QueuedBytes)
	gauge(d.handled, stats.HandledBytes)
	for _, limit := range telemetry.ConnectionLimits {
		ch <- prometheus.MustNewConstMetric(d.refused, prometheus.CounterValue, float64(stats.Refused[limit]), "connection", limit)
	}
	count, sum, buckets := uint64(0), 0.0, make(map[float64]uint64, len(costBuckets))
	for s := range srv.Sessions() {
		cost := s.Cost()
		count, sum = count+1, sum+cost
		for _, bound := range costBuckets {
			if cost <= bound {
				buckets[bound]++
			}
		}
	}
	for _, bound := range costBuckets {
		buckets[bound] += 0 // the empty ones, too
	}
	ch <- prometheus.MustNewConstHistogram(d.cost, count, sum, buckets)
}
