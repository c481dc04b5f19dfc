package rpcx

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func testVectorFormula(t *testing.T, c sessionCase) {
	var want struct {
		Fraction float64  `json:"cost_fraction"`
		Target   *int     // the same as before if nil
		Delay    float64  `json:"delay_seconds"`
		Cost     *float64 `json:"cost_after"`
	}
	c.expect(t, &want)
	l := Limits{}.resolved(RoleServer)
	l.CostSoft, l.CostHard, l.Concurrency = c.Soft, c.Hard, c.Concurrent
	target := c.Concurrent
	if want.Target != nil {
		target = *want.Target
	}
	var th throttle
	th.update(&l, c.Cost, c.Extra)
	near(t, "the fraction", th.fraction, want.Fraction)
	near(t, "the delay", th.delay(&l).Seconds(), want.Delay)
	equal(t, "the target", th.target, target)

	// The same in a session.
	s, _ := newVectorSession(t, RoleServer, &Options{ExtraCost: func(*Session) float64 { return c.Extra }})
	s.lock()
	s.limits.CostSoft, s.limits.CostHard, s.limits.Concurrency = c.Soft, c.Hard, c.Concurrent
	s.unlock()
	s.BumpCost(c.Cost)
	s.UpdateCost()
	equal(t, "the session's concurrency", s.Stats().Concurrency, target)
	if want.Cost != nil {
		near(t, "the cost", s.Cost(), *want.Cost)
	}
}

func testVectorBump(t *testing.T, c sessionCase) {
	var want []struct {
		Cost, Fraction float64
		Last           float64 `json:"last_recalc_cost"`
		Target         int
		CostFraction   float64 `json:"cost_fraction"`
	}
	c.expect(t, &want)
	s, _ := newVectorSession(t, RoleServer, nil)
	for i, delta := range c.Deltas {
		s.BumpCost(delta)
		near(t, "the cost", plainCost(s), want[i].Cost)
		s.lock()
		now := s.cost.throttle
		s.unlock()
		near(t, "the cost at the last calculation", now.last, want[i].Last)
		near(t, "the fraction", now.fraction, want[i].CostFraction)
		equal(t, "the target", now.target, want[i].Target)
	}
}

func testVectorDecay(t *testing.T, c sessionCase) {
	var want struct{ Cost float64 }
	c.expect(t, &want)
	role, opts := RoleServer, &Options{}
	if c.Kind == "client" { // where it is off by default
		role, opts.Limits.CostHard = RoleClient, 10000
	}
	s, _ := newVectorSession(t, role, opts)
	s.BumpCost(c.Cost)
	time.Sleep(seconds(c.Elapsed))
	near(t, "the cost", s.Cost(), want.Cost)
	s.UpdateCost()
	near(t, "the cost that was calculated with", s.cost.throttle.last, want.Cost)
}

func testVectorBandwidth(t *testing.T, c sessionCase) {
	var want struct {
		Cost      float64
		RecvSize  uint64 `json:"recv_size"`
		SendSize  uint64 `json:"send_size"`
		SendCount uint64 `json:"send_count"`
	}
	c.expect(t, &want)
	note := HandlerFunc(func(context.Context, *Request) (any, error) { return nil, nil })
	limits := Limits{CostHard: 1e9} // which the note that brings the bytes is not to meet
	s, far := newVectorSession(t, RoleServer, &Options{Handler: note, Limits: limits})
	if c.Sent != nil {
		sc := &scratch{msg: make([]byte, *c.Sent)}
		if err := s.post(t.Context(), sc, fromCaller, nil); err != nil {
			t.Fatal(err)
		}
	} else {
		far.count = c.Received
		far.say(t, `{"jsonrpc":"2.0","method":"note"}`)
	}
	synctest.Wait()
	near(t, "the cost", plainCost(s), want.Cost)
	stats := s.Stats()
	equal(t, "bytes received", stats.BytesReceived, want.RecvSize)
	equal(t, "bytes sent", stats.BytesSent, want.SendSize)
	equal(t, "messages sent", stats.MessagesSent, want.SendCount)
}

func testVectorRecalibration(t *testing.T, c sessionCase) {
	var want struct{ Next int }
	c.expect(t, &want)
	l := Limits{Outgoing: c.Current, ResponseTime: seconds(c.ResponseTime)}.resolved(RoleClient)
	o := slots{limit: l.Outgoing, reached: true} // the original always lowers it
	for range calibration - 1 {
		o.done(seconds(*c.Average), 1, &l)
	}
	equal(t, "the limit before 30 replies", o.limit, c.Current)
	o.done(seconds(*c.Average), 1, &l)
	equal(t, "the limit after them", o.limit, want.Next)
	o.done(time.Hour, 1, &l)
	equal(t, "the limit after another", o.limit, want.Next)
}

func testVectorThrottling(t *testing.T, c sessionCase) {
	var want struct {
		Replies []struct {
			JSON any
			At   float64 `json:"at_seconds"`
		}
		Closed bool
		Hook   bool `json:"hook_called"`
		Errors uint64

		Peak       int       `json:"peak_running"`
		Unanswered int       `json:"unanswered_at_half_second"`
		Times      []float64 `json:"reply_times"`
	}
	c.expect(t, &want)
	hook := false
	running, peak := 0, 0
	var mu sync.Mutex
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		running += n
		peak = max(peak, running)
	}
	opts := &Options{OnExcessiveCost: func(*Session) { hook = true }}
	opts.Limits.Concurrency = c.Concurrent
	opts.Handler = HandlerFunc(func(context.Context, *Request) (any, error) {
		count(1)
		defer count(-1)
		time.Sleep(seconds(c.HandlerSeconds))
		return "ok", nil
	})
	s, far := newVectorSession(t, RoleServer, opts)
	if c.Requests == 0 {
		s.BumpCost(c.CostBefore)
		far.say(t, `{"jsonrpc":"2.0","method":"m","id":1}`)
		time.Sleep(10 * time.Second)
		heard := far.take()
		if len(heard) != len(want.Replies) {
			t.Fatalf("heard %v", heard)
		}
		for i, reply := range want.Replies {
			checkJSON(t, "the reply", []byte(heard[i].Raw), reply.JSON)
			near(t, "its time", heard[i].At, reply.At)
		}
		equal(t, "closed", far.closed(), want.Closed)
		equal(t, "OnExcessiveCost called", hook, want.Hook)
		equal(t, "errors", s.Stats().Errors, want.Errors)
		return
	}
	go func() { // reading may pause
		for i := range c.Requests {
			far.send(fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, i))
		}
	}()
	time.Sleep(time.Second / 2)
	equal(t, "requests unanswered at half a second", c.Requests-int(s.Stats().MessagesSent), want.Unanswered)
	time.Sleep(max(30*time.Second, seconds(want.Times[len(want.Times)-1])))
	var times []float64
	for _, h := range far.take() {
		if at := rounded(h.At); len(times) == 0 || times[len(times)-1] != at {
			times = append(times, at)
		}
	}
	if !slices.Equal(times, want.Times) {
		t.Errorf("replies at %v, want %v", times, want.Times)
	}
	equal(t, "the most that ran at once", peak, want.Peak)
}

// testVectorConcurrency has handlers compete for a number of places that changes.
func testVectorConcurrency(t *testing.T, c sessionCase) {
	if c.Target != nil {
		var want struct {
			Most int `json:"max_concurrent"`
		}
		c.expect(t, &want)
		s, _ := newVectorSession(t, RoleServer, &Options{Limits: Limits{Concurrency: int(*c.Target)}})
		equal(t, "the concurrency", s.Stats().Concurrency, want.Most)
		return
	}
	var want struct {
		Events [][3]any // task, its begin and end; or task, error, time
		Stuck  int      // tasks that the original leaves waiting for ever
	}
	c.expect(t, &want)
	number := func(v any) float64 {
		f, _ := v.(json.Number).Float64()
		return f
	}
	// What waits when there is no place any more is refused, though there be some later.
	if i := slices.IndexFunc(c.Retargets, func(r retarget) bool { return r.Target < 1 }); i >= 0 {
		c.Retargets = c.Retargets[:i+1]
		want.Events = slices.DeleteFunc(want.Events, func(e [3]any) bool {
			_, failed := e[1].(string)
			return failed || number(e[1]) >= c.Retargets[i].At
		})
		want.Stuck = c.Tasks - len(want.Events)
	}
	type event struct{ begin, end float64 }
	events := map[string]event{}
	var mu sync.Mutex
	start := time.Now()
	opts := &Options{Limits: Limits{Concurrency: c.Start, ProcessingTimeout: -1}}
	opts.Handler = HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		begin := time.Since(start).Seconds()
		time.Sleep(seconds(c.Hold))
		mu.Lock()
		defer mu.Unlock()
		events[req.ID.String()] = event{rounded(begin), rounded(time.Since(start).Seconds())}
		return nil, nil
	})
	s, far := newVectorSession(t, RoleServer, opts)
	for i := range c.Tasks {
		far.say(t, fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, i))
	}
	for _, r := range c.Retargets {
		time.Sleep(seconds(r.At) - time.Since(start))
		if r.Target < 1 {
			s.BumpCost(20000)
			continue
		}
		s.lock()
		s.in.limit = int(r.Target)
		s.unlock()
	}
	time.Sleep(time.Hour)
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	equal(t, "tasks that ran", len(events), len(want.Events))
	for _, e := range want.Events {
		task := fmt.Sprint(e[0])
		equal(t, "task "+task, events[task], event{number(e[1]), number(e[2])})
	}
	refused := 0
	for _, h := range far.take() {
		var reply struct{ Error *Error }
		if json.Unmarshal([]byte(h.Raw), &reply) == nil && reply.Error != nil {
			refused++
			equal(t, "the code", reply.Error.Code, CodeExcessiveResourceUsage)
		}
	}
	equal(t, "tasks that were refused", refused, want.Stuck)
	equal(t, "closed", far.closed(), want.Stuck > 0)
}
