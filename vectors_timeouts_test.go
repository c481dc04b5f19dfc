package rpcx

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

type timeoutCase struct {
	Name     string
	Program  []timeoutStep
	External []externalCancel `json:"external_cancel"`
	Expect   timeoutExpect
	Newest   *timeoutExpect `json:"newest_0_25_0"`
}

type externalCancel struct {
	AtMs int64 `json:"at_ms"`
}

type timeoutStep struct {
	Do            string
	Ms            int64
	Text          string
	Error         string
	Value         any
	Catch         []string
	Body          []timeoutStep
	Handler       []timeoutStep
	Form          string
	TimeoutResult any `json:"timeout_result"`
	ID            string
}

type timeoutExpect struct {
	Raised     string
	Secs       float64
	Returned   any
	FinishedAt int64 `json:"finished_at_ms"`
	Log        []map[string]any
}

// has reports whether the log has an entry with a value under a key.
func (e timeoutExpect) has(key string, value any) bool {
	return slices.ContainsFunc(e.Log, func(entry map[string]any) bool { return entry[key] == value })
}

// want returns what is expected: the newer behaviour where there is one.
func (c timeoutCase) want() timeoutExpect {
	if c.Newest != nil {
		return *c.Newest
	}
	return c.Expect
}

// waitsAfterSwallowing reports whether, within a block, a wait follows a try that
// has caught the block's own cancellation, or, if the task was cancelled from
// outside, any wait follows any such try.
func (c timeoutCase) waitsAfterSwallowing() bool {
	if !c.want().has("caught", "CancelledError") && !c.want().has("caught", "TimeoutCancellationError") {
		return false
	}
	swallowed := false
	var walk func(steps []timeoutStep) bool
	walk = func(steps []timeoutStep) bool {
		for _, step := range steps {
			switch {
			case step.Do == "sleep" && swallowed:
				return true
			case step.Do == "try":
				if walk(step.Body) {
					return true
				}
				inside := slices.ContainsFunc(step.Body, func(s timeoutStep) bool { return s.Do == "sleep" || s.Do == "try" })
				if slices.Contains(step.Catch, "CancelledError") && (inside || len(c.External) > 0) {
					swallowed = true
				}
				if walk(step.Handler) {
					return true
				}
			case step.Body != nil:
				before := swallowed
				if walk(step.Body) {
					return true
				}
				if len(c.External) == 0 {
					swallowed = before
				}
			}
		}
		return false
	}
	return walk(c.Program)
}

// cancels reports whether the step raises an error that says that a block was cancelled.
func (s timeoutStep) cancels() bool {
	return strings.HasPrefix(s.Error, "T") || s.Error == "CancelledError"
}

// raises reports whether a step among these, or within them, does that.
func raises(steps []timeoutStep) bool {
	return slices.ContainsFunc(steps, func(step timeoutStep) bool {
		return step.cancels() || raises(step.Body) || raises(step.Handler)
	})
}

// hasLateBlock reports whether there may be a block whose deadline has passed when it
// is entered, with another such block in it, or an error that says that it was
// cancelled.
func (c timeoutCase) hasLateBlock() bool {
	var slept int64
	var walk func(steps []timeoutStep, late bool) bool
	walk = func(steps []timeoutStep, late bool) bool {
		for _, step := range steps {
			if step.Do == "sleep" {
				slept += step.Ms
			}
			at := strings.HasSuffix(step.Do, "_at")
			passed := at && step.Ms <= min(slept, c.want().FinishedAt) || strings.HasSuffix(step.Do, "_after") && step.Ms <= 0
			if late && (passed || step.cancels()) || walk(step.Body, late || passed) || walk(step.Handler, late) {
				return true
			}
		}
		return false
	}
	return walk(c.Program, false)
}

var timeoutSkips = []skipRule[timeoutCase]{
	{"a context stays ended, so who swallows a cancellation cannot wait under it again", timeoutCase.waitsAfterSwallowing},
	{"a context whose deadline has passed has ended, though nobody has waited yet", timeoutCase.hasLateBlock},
	{"the original takes any cancellation for an earlier timeout, though that was handled", func(c timeoutCase) bool {
		uncaught := c.want().Raised == "UncaughtTimeoutError" || c.want().has("caught", "UncaughtTimeoutError")
		external := slices.ContainsFunc(c.External, func(cancel externalCancel) bool {
			return cancel.AtMs <= c.want().FinishedAt
		})
		return uncaught && (external || raises(c.Program))
	}},
}

func TestVectorsTimeouts(t *testing.T) {
	for _, c := range loadVectors[timeoutCase](t, "timeouts.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, timeoutSkips, c)
			synctest.Test(t, func(t *testing.T) { runTimeoutCase(t, c) })
		})
	}
}

func runTimeoutCase(t *testing.T, c timeoutCase) {
	want := c.want()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, external := range c.External {
		timer := time.AfterFunc(time.Duration(external.AtMs)*time.Millisecond+1, cancel)
		defer timer.Stop()
	}
	r := &timeoutRunner{T: t, start: time.Now(), log: []map[string]any{}}
	err := r.run(ctx, c.Program)
	if at := time.Since(r.start).Milliseconds(); at != want.FinishedAt {
		t.Errorf("finished at %d ms, want %d ms", at, want.FinishedAt)
	}
	if name := timeoutErrName(err); name != want.Raised {
		t.Errorf("got error %v (%s), want %q", err, name, want.Raised)
	}
	if returned, _ := err.(returnedValue); returned.value != want.Returned {
		t.Errorf("returned %v, want %v", returned.value, want.Returned)
	}
	var timeout *TaskTimeout
	if errors.As(err, &timeout) && math.Abs(timeout.Duration.Seconds()-want.Secs) > 1e-4 {
		t.Errorf("got %v, want %v s", timeout, want.Secs)
	}
	if diff := gocmp.Diff(want.Log, r.log); diff != "" {
		t.Errorf("log, want (-) and got (+):\n%s", diff)
	}
}

// returnedValue is a return from within blocks.
type returnedValue struct{ value any }

func (returnedValue) Error() string { return "returned" }

// timeoutErrName returns an error's name in the original.
func timeoutErrName(err error) string {
	switch err.(type) {
	case nil, returnedValue:
		return ""
	case *TaskTimeout:
		return "TaskTimeout"
	case TimeoutCancellationError:
		return "TimeoutCancellationError"
	case UncaughtTimeoutError:
		return "UncaughtTimeoutError"
	}
	if err == context.Canceled || err == context.DeadlineExceeded {
		return "CancelledError"
	}
	return err.Error()
}

// timeoutErr returns the error of a name.
func timeoutErr(name string) error {
	switch name {
	case "TaskTimeout":
		return &TaskTimeout{Duration: time.Second}
	case "TimeoutCancellationError":
		return TimeoutCancellationError{}
	case "UncaughtTimeoutError":
		return UncaughtTimeoutError{}
	}
	return namedErr(name)
}

// catches reports whether an error is one of the kinds that are caught.
func catches(kinds []string, name string) bool {
	switch {
	case slices.Contains(kinds, name):
		return true
	case name == "TimeoutCancellationError":
		return slices.Contains(kinds, "CancelledError")
	}
	return false
}

// timeoutRunner runs a program and keeps its log.
type timeoutRunner struct {
	*testing.T
	start time.Time
	log   []map[string]any
}

// note appends an entry to the log: the time, and keys with values.
func (r *timeoutRunner) note(pairs ...any) {
	ms := strconv.FormatInt(time.Since(r.start).Milliseconds(), 10)
	entry := map[string]any{"at_ms": json.Number(ms)}
	for i := 0; i < len(pairs); i += 2 {
		entry[pairs[i].(string)] = pairs[i+1]
	}
	r.log = append(r.log, entry)
}

func (r *timeoutRunner) run(ctx context.Context, steps []timeoutStep) error {
	for _, step := range steps {
		if err := r.step(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (r *timeoutRunner) step(ctx context.Context, step timeoutStep) error {
	switch step.Do {
	case "sleep":
		// In the original, of what is due together a deadline comes first, then a
		// cancellation from outside, and then a wait.
		return sleep(ctx, time.Duration(step.Ms)*time.Millisecond+2)
	case "log":
		r.note("log", step.Text)
	case "raise":
		return timeoutErr(step.Error)
	case "return":
		return returnedValue{step.Value}
	case "try":
		err := r.run(ctx, step.Body)
		if name := timeoutErrName(err); catches(step.Catch, name) {
			r.note("caught", name)
			return r.run(ctx, step.Handler)
		}
		return err
	case "timeout_after", "timeout_at", "ignore_after", "ignore_at":
		return r.block(ctx, step)
	default:
		r.Fatalf("unknown statement %q", step.Do)
	}
	return nil
}

// block runs a body under a deadline.
func (r *timeoutRunner) block(ctx context.Context, step timeoutStep) error {
	var bodyErr error
	body := func(ctx context.Context) error {
		bodyErr = r.run(ctx, step.Body)
		return bodyErr
	}
	d := time.Duration(step.Ms) * time.Millisecond
	// What sleep adds must not part deadlines that are equal in the original.
	excess := time.Since(r.start) % time.Millisecond
	var err error
	var expired bool
	switch step.Do {
	case "timeout_after":
		err = TimeoutAfter(ctx, d-excess, body)
	case "timeout_at":
		err = TimeoutAt(ctx, r.start.Add(d), body)
	case "ignore_after":
		expired, err = IgnoreAfter(ctx, d-excess, body)
	case "ignore_at":
		expired, err = IgnoreAt(ctx, r.start.Add(d), body)
	}
	if _, timedOut := err.(*TaskTimeout); timedOut && err != bodyErr {
		expired = true
	}
	if step.Form != "call" {
		r.note("exit", cmp.Or(step.ID, step.Do), "expired", expired)
		return err
	}
	returned, ok := err.(returnedValue)
	if err != nil && !ok {
		return err
	}
	if expired {
		returned.value = step.TimeoutResult
	}
	r.note("call_returned", returned.value)
	return nil
}
