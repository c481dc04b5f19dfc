package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
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
