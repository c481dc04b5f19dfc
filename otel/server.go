package otelrpcx

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// InstrumentServer adds the metrics of a server, which are read when the MeterProvider
// collects. c may be nil. The spans and durations of the server's sessions come from
// [Instrument]. Call InstrumentServer once for each server.
//
//	rpcx.server.sessions             live sessions
//	rpcx.server.handshakes           handshakes in progress
//	rpcx.server.queued               bytes counted for Server.MaxQueuedBytes
//	rpcx.server.handled              bytes counted for Server.MaxHandledBytes
//	rpcx.server.connections.refused  connections refused, by rpcx.limit
//	rpcx.server.cost.sum             sum of the costs of the live sessions
//	rpcx.server.cost.max             highest cost of a live session
func InstrumentServer(srv *rpcx.Server, c *Config) error {
	if srv == nil {
		return errors.New("otelrpcx: InstrumentServer without a server")
	}
	meter := c.resolve().MeterProvider.Meter(scope)
	var errs []error
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	cost := func(name, description string) metric.Float64ObservableGauge {
		g, err := meter.Float64ObservableGauge(name, metric.WithUnit("1"), metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	sessions := gauge("rpcx.server.sessions", "{session}", "Live sessions.")
	handshakes := gauge("rpcx.server.handshakes", "{handshake}", "Handshakes in progress.")
	queued := gauge("rpcx.server.queued", "By", "Bytes that wait in queues (Server.MaxQueuedBytes).")
	handled := gauge("rpcx.server.handled", "By", "Bytes of requests that are handled (Server.MaxHandledBytes).")
	costSum := cost("rpcx.server.cost.sum", "Sum of the costs of the live sessions.")
	costMax := cost("rpcx.server.cost.max", "Highest cost of a live session.")
	refused, err := meter.Int64ObservableCounter("rpcx.server.connections.refused", metric.WithUnit("{connection}"),
		metric.WithDescription("Connections that were refused because of a limit."))
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		stats := srv.Stats()
		o.ObserveInt64(sessions, int64(stats.Sessions))
		o.ObserveInt64(handshakes, int64(stats.Handshakes))
		o.ObserveInt64(queued, int64(stats.QueuedBytes))
		o.ObserveInt64(handled, int64(stats.HandledBytes))
		for _, limit := range telemetry.ConnectionLimits {
			o.ObserveInt64(refused, int64(stats.Refused[limit]), metric.WithAttributes(attribute.String(keyLimit, limit)))
		}
		sum, highest := 0.0, 0.0
		for s := range srv.Sessions() {
			c := s.Cost()
			sum, highest = sum+c, max(highest, c)
		}
		o.ObserveFloat64(costSum, sum)
		o.ObserveFloat64(costMax, highest)
		return nil
	}, sessions, handshakes, queued, handled, costSum, costMax, refused)
	return err
}
