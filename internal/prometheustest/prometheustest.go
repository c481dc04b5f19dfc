// Package prometheustest runs Debian's Prometheus and promtool in tests.
package prometheustest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"example.com/rpcx/internal/interoptest"
)

const install = "apt-get install prometheus"

// Check fails the test if "promtool check metrics" has a complaint about the metrics at url.
func Check(t *testing.T, url string) {
	t.Helper()
	promtool := interoptest.Program(t, install, "promtool")
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = resp.Body, &out, &out
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		t.Errorf("promtool: %v\n%s", err, &out)
	}
}

// Prometheus is a running Prometheus.
type Prometheus struct {
	addr string
	ctx  context.Context
}

// Start starts a Prometheus that scrapes target (host:port) ten times a second, until the
// end of the test.
func Start(t *testing.T, target string) *Prometheus {
	t.Helper()
	program := interoptest.Program(t, install, "prometheus")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 100ms}\nscrape_configs: [{job_name: rpcx, static_configs: [{targets: ['%s']}]}]\n", target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, program, "--config.file="+config, "--storage.tsdb.path="+dir, "--web.listen-address="+addr)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		http.DefaultClient.CloseIdleConnections()
		if t.Failed() {
			t.Logf("log of prometheus:\n%s", &log)
		}
	})
	return &Prometheus{addr, ctx}
}

// Ask returns the value of a query with one value. Until Prometheus has scraped the target,
// there is none, and Ask tries again, for at most a minute after Start.
func (p *Prometheus) Ask(query string) (string, error) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if value, ok := p.try(query); ok {
			return value, nil
		}
		select {
		case <-again.C:
		case <-p.ctx.Done():
			return "", context.Cause(p.ctx)
		}
	}
}

// try asks once.
func (p *Prometheus) try(query string) (value string, ok bool) {
	req, err := http.NewRequestWithContext(p.ctx, "GET", "http://"+p.addr+"/api/v1/query?query="+url.QueryEscape(query), nil)
	if err != nil {
		return "", false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", false
	}
	var reply struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if json.Unmarshal(body, &reply) != nil || len(reply.Data.Result) != 1 {
		return "", false
	}
	value, ok = reply.Data.Result[0].Value[1].(string)
	return value, ok
}
