package promrpcx_test

import (
	"os/exec"
	"testing"

	"example.com/rpcx/internal/interoptest"
)

// The alerts are correct, and ask for metrics that exist.
func TestInteropAlerts(t *testing.T) {
	promtool := interoptest.Program(t, "apt-get install prometheus", "promtool")
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "alerts.yml").CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
