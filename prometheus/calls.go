package promrpcx

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// method has the series of a method, in one direction.
type method struct {
	outcomes *telemetry.Table[prometheus.Observer] // by error_type, "" for success
	types    *telemetry.Table[string]              // error types with series of their own
}

// newMethods returns the methods of a direction. A series begins with its first duration.
func newMethods(durations *prometheus.HistogramVec, limit int, known func(string) bool) *telemetry.Methods[*method] {
	types := telemetry.NewTypes()
	return telemetry.NewMethods(limit, known, func(name string) *method {
		return &method{telemetry.NewTable(2*telemetry.MaxCodes, func(outcome string) prometheus.Observer {
			code := ""
			if _, err := strconv.Atoi(outcome); err == nil {
				code = outcome
			}
			return durations.WithLabelValues(name, code, outcome)
		}), types}
	})
}

// observe counts a call or request that took d.
func (m *method) observe(d time.Duration, o telemetry.Outcome) {
	outcome := o.Type
	if outcome != "" {
		outcome = m.types.Get(outcome)
	}
	m.outcomes.Get(outcome).Observe(d.Seconds())
}

// beginCall is a function of Options.OnCall.
func (in *instrumentation) beginCall(ctx context.Context, c *rpcx.OutgoingCall) (next context.Context, done func(error), err error) {
	start := time.Now()
	return nil, func(err error) {
		in.calls.Get(c.Method).observe(time.Since(start), telemetry.OfCall(ctx, err))
	}, nil
}

// contextFor returns the function of Options.Context. user is the function of the user, or
// nil.
func (c *Collector) contextFor(in *instrumentation, user func(context.Context, *rpcx.Request) context.Context) func(context.Context, *rpcx.Request) context.Context {
	return func(ctx context.Context, req *rpcx.Request) context.Context {
		in.running.Add(req, ctx)
		c.handlers.Inc()
		if user != nil {
			return user(ctx, req)
		}
		return ctx
	}
}

// traceFor returns a copy of user, which may be nil, that also counts.
func (c *Collector) traceFor(in *instrumentation, user *rpcx.Trace) *rpcx.Trace {
	var t rpcx.Trace
	if user != nil {
		t = *user
	}
	replySent, refused, paused, resumed := t.ReplySent, t.Refused, t.Paused, t.Resumed
	t.ReplySent = func(req *rpcx.Request, err error, d time.Duration) {
		if ctx, ok := in.running.Remove(req); ok {
			c.handlers.Dec()
			in.requests.Get(req.Method).observe(d, telemetry.OfRequest(ctx, req.Session(), err, in.cancellation))
		}
		if replySent != nil {
			replySent(req, err, d)
		}
	}
	t.Refused = func(s *rpcx.Session, method string, id rpcx.ID, e *rpcx.Error) {
		c.refused.WithLabelValues("request", telemetry.LimitOf(e)).Inc()
		if refused != nil {
			refused(s, method, id, e)
		}
	}
	t.Paused = func(s *rpcx.Session) {
		c.pauses.Inc()
		if paused != nil {
			paused(s)
		}
	}
	t.Resumed = func(s *rpcx.Session, d time.Duration) {
		c.pausedSeconds.Add(d.Seconds())
		if resumed != nil {
			resumed(s, d)
		}
	}
	return &t
}
