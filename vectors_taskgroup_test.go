package rpcx

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

type groupCase struct {
	Name     string
	Style    string
	Wait     string
	Tasks    []groupTask
	Actions  []groupOp
	External []groupOp
	Expect   groupExpect
	Newest   struct {
		Results       *groupValue
		Exceptions    *groupValue
		ActionsDiffer []groupOpExpect `json:"actions_that_differ"`
	} `json:"newest_0_25_0_without_retain"`
}

type groupTask struct {
	Name     string
	Duration any `json:"duration_ms"` // a number, or "forever"
	Returns  any
	Raises   string
	Daemon   bool
	Added    string
	OnCancel *struct {
		FinishAfter int64 `json:"finish_after_ms"`
		Return      any
		Raise       string
	} `json:"on_cancel"`
}

type groupOp struct {
	Op    string
	Task  string
	Ms    int64
	AtMs  int64 `json:"at_ms"`
	Error string
}

type groupOpExpect struct {
	Op         string
	Task       *string
	AtMs       int64 `json:"at_ms"`
	ReturnedAt int64 `json:"returned_at_ms"`
	Ok         bool
	Result     any
	Raises     string
	Message    string
	Tasks      []string
	Daemons    []string
	Joined     bool
	Completed  *string
}

// groupValue is a result or an error, or a list of them.
type groupValue struct {
	Value       any
	Raises      string
	Message     string
	RaisesOneOf []string `json:"raises_one_of"`
}

type groupExpect struct {
	Main struct {
		Raised     string
		FinishedAt int64 `json:"finished_at_ms"`
	}
	Actions        []groupOpExpect
	External       []groupOpExpect
	Joined         bool
	Completed      *string
	CompletedOneOf []string         `json:"completed_one_of"`
	TasksThen      map[string]any   `json:"tasks_when_main_finished"`
	TaskEnd        map[string]int64 `json:"task_end_ms"`
	Result         groupValue
	Exception      groupValue
	Results        groupValue
	Exceptions     groupValue
}

// externals returns what is expected of actions from outside, by their place: not
// of each is something expected.
func (c groupCase) externals() map[int]groupOpExpect {
	expected := make(map[int]groupOpExpect)
	rest := c.Expect.External
	for i, action := range c.External {
		if len(rest) > 0 && rest[0].Op == action.Op {
			expected[i], rest = rest[0], rest[1:]
		}
	}
	return expected
}

// addedLate reports whether a task was added while a cancelled one was finishing.
func (c groupCase) addedLate() bool {
	for i, added := range c.externals() {
		at := c.External[i].AtMs
		for _, task := range c.Tasks {
			end := c.Expect.TaskEnd[task.Name]
			if added.Op == "spawn" && added.Ok && task.OnCancel != nil && end != c.due(task) &&
				end-task.OnCancel.FinishAfter <= at && at < end {
				return true
			}
		}
	}
	return false
}

// cancelledTwice reports whether a task was cancelled that had begun to finish
// because it was cancelled before.
func (c groupCase) cancelledTwice() bool {
	return slices.ContainsFunc(c.Tasks, func(task groupTask) bool {
		end, ended := c.Expect.TaskEnd[task.Name]
		return task.OnCancel != nil && task.OnCancel.FinishAfter > 0 && ended &&
			c.Expect.TasksThen[task.Name] == "cancelled" && end > c.started(task.Name)
	})
}

// due returns when a task finishes that is not cancelled.
func (c groupCase) due(task groupTask) int64 {
	duration, _ := task.Duration.(json.Number)
	ms, err := duration.Int64()
	if err != nil { // it does not finish
		return -1
	}
	return c.started(task.Name) + ms
}

// started returns when a task was started.
func (c groupCase) started(name string) int64 {
	for i, a := range c.Actions[:min(len(c.Actions), len(c.Expect.Actions))] {
		if a.Task == name && (a.Op == "spawn" || a.Op == "start_outside") {
			return c.Expect.Actions[i].AtMs
		}
	}
	for _, a := range c.External {
		if a.Task == name && a.Op == "spawn" {
			return a.AtMs
		}
	}
	return 0
}

var groupSkips = []skipRule[groupCase]{
	{"waiting for cancelled tasks cannot be cancelled: when it returns they have finished", func(c groupCase) bool {
		for i, a := range c.Expect.Actions {
			if a.Raises == "CancelledError" && (c.Actions[i].Op == "cancel_remaining" || c.Actions[i].Op == "join" && !c.Expect.Joined) {
				return true
			}
		}
		return c.Style == "context" && !c.Expect.Joined
	}},
	{"a context ends once, so there is no second cancellation that a task is not prepared for", groupCase.cancelledTwice},
	{"the original forgets a task that is added while join waits for cancelled ones; here it is refused", groupCase.addedLate},
}

// groupErrors are the original's names and texts for errors.
var groupErrors = []struct {
	err           error
	name, message string
}{
	{ErrTaskGroupJoined, "RuntimeError", "task group terminated"},
	{ErrTaskInGroup, "RuntimeError", "task is already part of a group"},
	{ErrNotJoined, "RuntimeError", "task group not yet terminated"},
	{ErrNoTaskCompleted, "RuntimeError", "no task successfully completed"},
	{ErrNoRemainingTasks, "NoRemainingTasksError", "no tasks remain"},
	{context.Canceled, "CancelledError", ""},
}

// namedError is an error of a task or a body, by its name in the original.
type namedError string

func (e namedError) Error() string { return string(e) }

// namedErr returns the error of a name.
func namedErr(name string) error {
	if name == "CancelledError" {
		return context.Canceled
	}
	return namedError(name)
}

// errName returns the name and the text of an error, "" for nil.
func errName(err error) (name, message string) {
	for _, known := range groupErrors {
		if errors.Is(err, known.err) {
			return known.name, known.message
		}
	}
	if err == nil {
		return "", ""
	}
	return err.Error(), ""
}

func TestVectorsTaskgroup(t *testing.T) {
	for _, c := range loadVectors[groupCase](t, "taskgroup.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, groupSkips, c)
			synctest.Test(t, func(t *testing.T) { runGroupCase(t, c, true) })
			synctest.Test(t, func(t *testing.T) { runGroupCase(t, c.released(), false) })
		})
	}
}

// released returns the case with what is expected without Retain.
func (c groupCase) released() groupCase {
	c.Expect.Actions = slices.Clone(c.Expect.Actions)
	for _, differing := range c.Newest.ActionsDiffer {
		for i, a := range c.Expect.Actions {
			if a.Op == differing.Op && a.AtMs == differing.AtMs && a.Joined == differing.Joined {
				c.Expect.Actions[i] = differing
			}
		}
	}
	if c.Newest.Results != nil {
		c.Expect.Results = *c.Newest.Results
	}
	if c.Newest.Exceptions != nil {
		c.Expect.Exceptions = *c.Newest.Exceptions
	}
	return c
}

// groupRunner runs a case. What is one turn of the original's event loop takes a
// few nanoseconds here, and so happens in the same order.
type groupRunner struct {
	*testing.T
	c      groupCase
	start  time.Time
	group  *TaskGroup[any]
	cancel context.CancelFunc // of main

	mu    sync.Mutex
	tasks map[string]*Task[any]
	ends  map[string]int64
}

func runGroupCase(t *testing.T, c groupCase, retain bool) {
	policies := map[string]WaitPolicy{"all": WaitAll, "any": WaitAny, "object": WaitFirst, "none": WaitNone}
	policy, ok := policies[c.Wait]
	if !ok {
		t.Fatalf("unknown policy %q", c.Wait)
	}
	opts := &TaskGroupOptions{Wait: policy, Retain: retain}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &groupRunner{
		T: t, c: c, start: time.Now(), group: NewTaskGroup[any](context.Background(), opts), cancel: cancel,
		tasks: make(map[string]*Task[any]), ends: make(map[string]int64),
	}
	for _, task := range c.Tasks {
		if task.Added == "constructor" {
			r.apply(ctx, groupOp{Op: "start_outside", Task: task.Name})
			r.apply(ctx, groupOp{Op: "add_existing", Task: task.Name})
		}
	}
	external := NewTaskGroup[groupOpExpect](context.Background(), &TaskGroupOptions{Retain: true})
	for _, op := range c.External {
		external.Go(func(context.Context) (groupOpExpect, error) {
			time.Sleep(time.Duration(op.AtMs)*time.Millisecond + time.Microsecond)
			got, _ := r.apply(ctx, op)
			if op.Op == "cancel_remaining" {
				got.ReturnedAt = got.AtMs
			}
			return got, nil
		})
	}

	var err error
	if c.Style == "context" {
		err = r.group.Do(ctx, r.body)
	} else {
		err = r.body(ctx)
	}
	r.check(err)

	if err := external.Join(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, err := external.Results()
	if err != nil {
		t.Fatal(err)
	}
	expected := c.externals()
	if len(expected) != len(c.Expect.External) {
		t.Errorf("more is expected from outside than happens: %+v", c.Expect.External)
	}
	for i, want := range expected {
		if got[i].Raises != want.Raises || got[i].Message != want.Message || got[i].ReturnedAt != want.ReturnedAt {
			t.Errorf("external %s: got %+v, want %+v", want.Op, got[i], want)
		}
	}
	for _, task := range r.tasks {
		task.Cancel()
		<-task.Done()
	}
}

// now is the time on the case's clock.
func (r *groupRunner) now() int64 { return time.Since(r.start).Milliseconds() }

// body does what main does.
func (r *groupRunner) body(ctx context.Context) error {
	for i, op := range r.c.Actions {
		got, err := r.apply(ctx, op)
		if i >= len(r.c.Expect.Actions) {
			r.Errorf("%s was not expected to happen", op.Op)
			return err
		}
		want := r.c.Expect.Actions[i]
		// The original goes on listing daemons that have finished.
		want.Daemons = slices.DeleteFunc(slices.Clone(want.Daemons), r.ended)
		if diff := gocmp.Diff(want, got); diff != "" {
			r.Errorf("action %d, want (-) and got (+):\n%s", i, diff)
		}
		if op.Op == "raise" || errors.Is(err, context.Canceled) {
			return err
		}
	}
	if len(r.c.Actions) < len(r.c.Expect.Actions) {
		r.Error("more actions expected than there are")
	}
	return nil
}

// apply does an action, and says what happened.
func (r *groupRunner) apply(ctx context.Context, op groupOp) (groupOpExpect, error) {
	got := groupOpExpect{Op: op.Op}
	var err error
	var task *Task[any]
	begun := make(chan struct{})
	switch op.Op {
	case "spawn":
		i := r.index(op.Task)
		f := r.function(i, begun)
		if r.c.Tasks[i].Daemon {
			task = r.group.GoDaemon(f)
		} else {
			task = r.group.Go(f)
		}
		select {
		case <-begun:
			r.setTask(op.Task, task)
		case <-task.Done():
			err = task.Err()
		}
	case "start_outside":
		r.setTask(op.Task, StartTask(context.Background(), r.function(r.index(op.Task), begun)))
		<-begun
	case "add_existing":
		if r.c.Tasks[r.index(op.Task)].Daemon {
			err = r.group.AddDaemon(r.task(op.Task))
		} else {
			err = r.group.Add(r.task(op.Task))
		}
	case "sleep":
		err = sleep(ctx, max(time.Duration(op.Ms)*time.Millisecond, turns))
	case "raise":
		err = namedErr(op.Error)
	case "next_done":
		if task, err = r.group.NextDone(ctx); err == nil {
			name := r.name(task)
			got.Task = &name
		} else if err == ErrNoRemainingTasks { // the original returns None
			err = nil
		}
	case "next_result":
		got.Result, err = r.group.NextResult(ctx)
	case "iterate":
		got.Tasks = []string{}
		for task := range r.group.All(ctx) {
			got.Tasks = append(got.Tasks, r.name(task))
		}
		if err = ctx.Err(); err != nil {
			got.Tasks = nil
		}
	case "observe":
		got.Joined = r.group.Joined()
		if completed := r.group.Completed(); completed != nil {
			name := r.name(completed)
			got.Completed = &name
		}
		got.Tasks, got.Daemons = r.held()
		if len(got.Tasks) != r.group.Len() {
			r.Errorf("Len is %d with %q in the group", r.group.Len(), got.Tasks)
		}
	case "join":
		err = r.group.Join(ctx)
	case "cancel_remaining":
		r.group.CancelRemaining()
	case "cancel_task":
		r.task(op.Task).Cancel()
	case "cancel_main":
		r.cancel()
	default:
		r.Fatalf("unknown action %q", op.Op)
	}
	got.AtMs = r.now()
	got.Raises, got.Message = errName(err)
	return got, err
}

func (r *groupRunner) index(name string) int {
	i := slices.IndexFunc(r.c.Tasks, func(task groupTask) bool { return task.Name == name })
	if i < 0 {
		r.Fatalf("no task %q", name)
	}
	return i
}

func (r *groupRunner) setTask(name string, task *Task[any]) {
	r.mu.Lock()
	r.tasks[name] = task
	r.mu.Unlock()
	// Owner: the test. End: the task has finished.
	go func() {
		<-task.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ends[name] = r.now()
	}()
}

func (r *groupRunner) task(name string) *Task[any] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[name]
}

// ended reports whether a task has finished.
func (r *groupRunner) ended(name string) bool {
	_, err := r.task(name).Result()
	return err != ErrNotDone
}

func (r *groupRunner) name(task *Task[any]) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, known := range r.tasks {
		if known == task {
			return name
		}
	}
	return "unknown"
}

// held returns the names of the tasks and of the daemons in the group.
func (r *groupRunner) held() (tasks, daemons []string) {
	r.group.mu.Lock()
	held := r.group.retained
	if !r.group.opts.Retain {
		held = r.group.running.appendTo(r.group.waiting.appendTo(nil))
	}
	background := r.group.daemons.appendTo(nil)
	r.group.mu.Unlock()
	tasks, daemons = []string{}, []string{}
	for _, task := range held {
		tasks = append(tasks, r.name(task))
	}
	for _, task := range background {
		daemons = append(daemons, r.name(task))
	}
	slices.Sort(tasks)
	slices.Sort(daemons)
	return tasks, daemons
}

// turn is the time that task i takes for a turn: so tasks whose time is up
// together finish in the order in which they are listed.
func turn(i int) time.Duration { return time.Duration(i + 1) }

// turns is longer than a turn of each task.
const turns = 50 * time.Nanosecond

// function returns what task i does. It sends to begun first.
func (r *groupRunner) function(i int, begun chan<- struct{}) func(context.Context) (any, error) {
	task := r.c.Tasks[i]
	return func(ctx context.Context) (any, error) {
		begun <- struct{}{}
		// It is started now, but does nothing before the next turn.
		err := sleep(ctx, turn(i))
		caught := err == nil && task.OnCancel != nil
		if err == nil && task.Duration == "forever" {
			<-ctx.Done()
			err = ctx.Err()
		} else if err == nil {
			ms, _ := task.Duration.(json.Number).Int64()
			err = sleep(ctx, time.Duration(ms)*time.Millisecond+turn(i))
		}
		if err != nil {
			time.Sleep(turn(i) + turns) // a cancellation takes a turn
		}
		switch {
		case err != nil && caught:
			time.Sleep(time.Duration(task.OnCancel.FinishAfter) * time.Millisecond)
			if task.OnCancel.Raise != "" {
				return nil, namedErr(task.OnCancel.Raise)
			}
			return task.OnCancel.Return, nil
		case err != nil:
			return nil, err
		case task.Raises != "":
			return nil, namedErr(task.Raises)
		}
		return task.Returns, nil
	}
}

// sleep returns ctx's error if it ends before d has passed.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// check compares what is the case when main has finished.
func (r *groupRunner) check(mainErr error) {
	time.Sleep(10 * turns) // for what is cancelled to end
	synctest.Wait()
	want := r.c.Expect
	if raised, _ := errName(mainErr); raised != want.Main.Raised || r.now() != want.Main.FinishedAt {
		r.Errorf("finished with %q at %d ms, want %q at %d ms", raised, r.now(), want.Main.Raised, want.Main.FinishedAt)
	}
	if r.group.Joined() != want.Joined {
		r.Errorf("Joined is %v", r.group.Joined())
	}
	var completed string
	if task := r.group.Completed(); task != nil {
		completed = r.name(task)
	}
	allowed := want.CompletedOneOf
	if allowed == nil && want.Completed != nil {
		allowed = []string{*want.Completed}
	}
	if completed != "" || len(allowed) > 0 {
		if !slices.Contains(allowed, completed) {
			r.Errorf("completed %q, want one of %q", completed, allowed)
		}
	}

	r.mu.Lock()
	tasks, ends := maps.Clone(r.tasks), maps.Clone(r.ends)
	r.mu.Unlock()
	states := make(map[string]any)
	for name, task := range tasks {
		if value, err := task.Result(); err == ErrNotDone {
			states[name] = "running"
		} else if errors.Is(err, context.Canceled) {
			states[name] = "cancelled"
		} else if err != nil {
			states[name] = map[string]any{"raised": err.Error()}
		} else {
			states[name] = map[string]any{"returned": value}
		}
	}
	if diff := gocmp.Diff(want.TasksThen, states); diff != "" {
		r.Errorf("tasks, want (-) and got (+):\n%s", diff)
	}
	if diff := gocmp.Diff(want.TaskEnd, ends); diff != "" {
		r.Errorf("ends, want (-) and got (+):\n%s", diff)
	}

	value, err := r.group.Result()
	r.checkValue("result", want.Result, value, err)
	if err := r.group.Err(); errors.Is(err, ErrNotJoined) {
		r.checkValue("exception", want.Exception, nil, err)
	} else {
		r.checkValue("exception", want.Exception, errValue(err), nil)
	}
	results, err := r.group.Results()
	r.checkValue("results", want.Results, append([]any{}, results...), err)
	if errs := r.group.Errs(); errs == nil {
		r.checkValue("exceptions", want.Exceptions, nil, ErrNotJoined)
	} else {
		names := []any{}
		for _, err := range errs {
			names = append(names, errValue(err))
		}
		r.checkValue("exceptions", want.Exceptions, names, nil)
	}
}

// errValue is an error as the cases list it.
func errValue(err error) any {
	if err == nil {
		return nil
	}
	name, _ := errName(err)
	return name
}

// checkValue compares a property of the group. The order of a list is open.
func (r *groupRunner) checkValue(what string, want groupValue, value any, err error) {
	r.Helper()
	name, message := errName(err)
	if want.RaisesOneOf != nil {
		if !slices.Contains(want.RaisesOneOf, name) {
			r.Errorf("%s: got error %q, want one of %q", what, name, want.RaisesOneOf)
		}
		return
	}
	if name != want.Raises || message != want.Message {
		r.Errorf("%s: got error %q (%s), want %q (%s)", what, name, message, want.Raises, want.Message)
		return
	}
	sorted := cmpopts.SortSlices(func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	if err == nil && !gocmp.Equal(want.Value, value, sorted) {
		r.Errorf("%s: got %v, want %v", what, value, want.Value)
	}
}

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
