package promrpcx_test

import (
	"os/exec"
	"testing"

	"example.com/rpcx/internal/interoptest"
)

// The alerts are correct. TestNamesInAlerts checks their metrics.
func TestInteropAlerts(t *testing.T) {
	promtool := interoptest.Program(t, "apt-get install prometheus", "promtool")
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "testdata/alerts_test.yml"}} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
}
