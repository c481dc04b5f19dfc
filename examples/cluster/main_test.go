package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"example.com/rpcx/internal/leaktest"
	"example.com/rpcx/internal/oracle"
)

// asProgram is the variable that makes the test binary the program itself.
const asProgram = "RPCX_CLUSTER_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(leaktest.Run(m))
}

// lastLine returns the last line of text.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// Everything in one process: a worker, a gateway and a node are killed, and all calls are
// accounted for.
func TestAllInOneProcess(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"-duration", "4s", "-kill"}, &out)
	t.Logf("%s", out.String())
	if err != nil {
		t.Error(err)
	}
	for _, part := range []string{"a worker", "a gateway", "a NATS node"} {
		if !strings.Contains(out.String(), part+" was killed") {
			t.Errorf("%s was not killed", part)
		}
	}
	if last := lastLine(out.String()); !strings.HasSuffix(last, "carried out twice: 0; unaccounted: 0") {
		t.Errorf("the last line is %q", last)
	}
}

// The account is an error for each kind of fault.
func TestReport(t *testing.T) {
	const answered, other = 0, 1
	for name, c := range map[string]struct {
		record func(log *oracle.Log)
		want   string
	}{
		"all is well":          {func(*oracle.Log) {}, "answered 1, not started 0, uncertain 0; carried out twice: 0; unaccounted: 0"},
		"a call without end":   {func(l *oracle.Log) { l.Begin(oracle.Once) }, "has no end"},
		"carried out twice":    {func(l *oracle.Log) { l.Started(answered) }, "carried out twice: 1; unaccounted: 1"},
		"a call nobody made":   {func(l *oracle.Log) { l.Started(7) }, "was not made"},
		"answered, not done":   {func(l *oracle.Log) { l.End(l.Begin(oracle.Once), other, nil) }, "has not finished it"},
		"answered by another":  {func(l *oracle.Log) { l.Started(l.Begin(oracle.Once)); l.Finished(other); l.End(other, 5, nil) }, "has the result 5"},
		"uncertain, as it may": {func(l *oracle.Log) { l.End(l.Begin(oracle.Once), 0, errors.New("given up")) }, "answered 1, not started 0, uncertain 1"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := newLoad(nil, &settings{}, &out)
			l.log.Started(l.log.Begin(oracle.Once))
			l.log.Finished(answered)
			l.log.End(answered, answered, nil)
			c.record(&l.log)
			err := l.report(true)
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("the report is %q, want %q", out.String(), c.want)
			}
			if isWell := strings.HasPrefix(c.want, "answered"); isWell != (err == nil) {
				t.Errorf("the error is %v", err)
			}
		})
	}
	if err := newLoad(nil, &settings{}, new(bytes.Buffer)).report(false); err == nil {
		t.Error("a load without an answer is well")
	}
}

// A mistake in the arguments is told with what to write.
func TestArguments(t *testing.T) {
	for args, want := range map[string]string{
		"-role worker":                          "-nats is missing",
		"-role gateway":                         "-nats is missing",
		"-role other":                           "it is gateway, worker, client",
		"-role client -kill":                    "-kill is for the form without -role",
		"more":                                  `unknown argument "more"`,
		"-clients 0":                            "-clients must be at least 1",
		"-role worker -nats nats://127.0.0.1:1": "connect to NATS",
	} {
		if err := run(t.Context(), strings.Fields(args), new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}
