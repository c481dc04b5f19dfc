package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// panel is a plot of the answers to questions to Prometheus, in PromQL.
type panel struct {
	title   string
	queries []query
	factor  float64 // from the unit of Prometheus to that of the title
}

// query is a question whose answers are lines: one line, or a line for each value of label.
type query struct{ text, name, label string }

// panels are the questions of an operator, as docs/observing.md has them.
var panels = []panel{
	{"answers a second, by error_type", []query{{`sum by (error_type) (rate(rpc_server_call_duration_seconds_count[5s]))`, "success", "error_type"}}, 1},
	{"durations, ms", []query{
		{`histogram_quantile(0.99, sum by (le) (rate(rpc_server_call_duration_seconds_bucket{rpc_method!="_OTHER"}[5s])))`, "99 %", ""},
		{`histogram_quantile(0.5, sum by (le) (rate(rpc_server_call_duration_seconds_bucket{rpc_method!="_OTHER"}[5s])))`, "50 %", ""},
	}, 1000},
	{"sessions, and refused requests a second", []query{{`rpcx_sessions`, "sessions", ""}, {`sum by (limit) (rate(rpcx_refused_total[5s]))`, "refused", "limit"}}, 1},
	{"highest cost of a session", []query{{`histogram_quantile(1, rpcx_session_cost_bucket)`, "cost", ""}}, 1},
}

// measure has Prometheus watch a server through phases of the given length, and draws what
// Prometheus answers.
func measure(ctx context.Context, length time.Duration) ([]byte, error) {
	load, err := startLoad()
	if err != nil {
		return nil, err
	}
	defer load.stop()
	p, err := startPrometheus(ctx, load.metricsAddr)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	p.begin = time.Now().Add(length / 4)
	if err := load.run(ctx, length); err != nil {
		return nil, err
	}
	p.end = time.Now()
	return p.draw(ctx, length)
}

// prometheus is a running program prometheus.
type prometheus struct {
	addr       string
	stop       func()
	begin, end time.Time // of the picture
}

// startPrometheus starts a Prometheus that scrapes target each second.
func startPrometheus(ctx context.Context, target string) (*prometheus, error) {
	dir, err := os.MkdirTemp("", "picture")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs: [{job_name: rpcx, static_configs: [{targets: ['%s']}]}]\n", target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "prometheus", "--config.file="+config, "--storage.tsdb.path="+dir, "--web.listen-address="+addr)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &prometheus{addr: addr, stop: func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	}}, nil
}

// line is an answer of Prometheus: seconds since the begin of the picture, and values.
type line struct {
	name   string
	points [][2]float64
}

// ask returns the lines of a query.
func (p *prometheus) ask(ctx context.Context, q query, factor float64) (lines []line, err error) {
	values := url.Values{"query": {q.text}, "step": {"1"}, "start": {unixTime(p.begin)}, "end": {unixTime(p.end)}}
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+p.addr+"/api/v1/query_range?"+values.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var reply struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		return nil, err
	}
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	for _, result := range reply.Data.Result {
		l := line{name: q.name}
		if v := result.Metric[q.label]; v != "" {
			l.name = v
		}
		for _, point := range result.Values {
			at, _ := point[0].(float64)
			text, _ := point[1].(string)
			if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) {
				l.points = append(l.points, [2]float64{at - float64(p.begin.UnixMilli())/1000, v * factor})
			}
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func unixTime(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

// Measures of the picture of metrics, in pixels.
const (
	metricsWidth = 900
	plotLeft     = 60
	plotWidth    = metricsWidth - plotLeft - 20
	plotHeight   = 100
	panelHeight  = plotHeight + 38
)

// draw asks the questions of all panels, and returns an SVG document.
func (p *prometheus) draw(ctx context.Context, length time.Duration) ([]byte, error) {
	height := 40 + len(panels)*panelHeight + 30
	var w bytes.Buffer
	openPicture(&w, metricsWidth, height, "A server's metrics in Prometheus")
	total := p.end.Sub(p.begin).Seconds()
	x := func(seconds float64) float64 { return plotLeft + plotWidth*seconds/total }
	first := length.Seconds() * 3 / 4 // the picture begins within the first phase
	for i, phase := range phases {
		from, to := max(0, first+float64(i-1)*length.Seconds()), min(total, first+float64(i)*length.Seconds())
		if i%2 == 1 {
			fmt.Fprintf(&w, `<rect class="band" x="%.1f" y="14" width="%.1f" height="%d"/>`, x(from), x(to)-x(from), height-44)
		}
		fmt.Fprintf(&w, `<text x="%.1f" y="30" text-anchor="middle">%s</text>`+"\n", x((from+to)/2), html.EscapeString(phase.name))
	}
	for i, panel := range panels {
		var lines []line
		for _, q := range panel.queries {
			answers, err := p.ask(ctx, q, panel.factor)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", q.text, err)
			}
			lines = append(lines, answers...)
		}
		drawPanel(&w, panel.title, lines, 40+i*panelHeight+26, x)
	}
	for at := 0.0; at <= total; at += 10 {
		fmt.Fprintf(&w, `<text class="note" x="%.1f" y="%d" text-anchor="middle">%.0f s</text>`+"\n", x(at), height-14, at)
	}
	w.WriteString("</svg>\n")
	return w.Bytes(), nil
}

// drawPanel draws lines into a plot whose top is at y.
func drawPanel(w *bytes.Buffer, title string, lines []line, y int, x func(float64) float64) {
	fmt.Fprintf(w, `<text class="title" x="%d" y="%d">%s</text>`, plotLeft, y-8, html.EscapeString(title))
	highest := 0.0
	for _, l := range lines {
		for _, point := range l.points {
			highest = max(highest, point[1])
		}
	}
	top := niceCeiling(highest)
	for i := range 3 {
		v := top * float64(i) / 2
		at := float64(y) + plotHeight*(1-float64(i)/2)
		fmt.Fprintf(w, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="note" x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			plotLeft, plotLeft+plotWidth, at, at, plotLeft-8, at+4, strconv.FormatFloat(v, 'f', -1, 64))
	}
	right := plotLeft + plotWidth
	for i, l := range slices.Backward(lines) {
		right -= 7*len(l.name) + 14
		fmt.Fprintf(w, `<text class="t%d" x="%d" y="%d">%s</text>`, i%5, right, y-8, html.EscapeString(l.name))
		fmt.Fprintf(w, `<polyline class="line l%d" points="`, i%5)
		for _, point := range l.points {
			fmt.Fprintf(w, "%.1f,%.1f ", x(point[0]), float64(y)+plotHeight*(1-point[1]/top))
		}
		fmt.Fprintln(w, `"/>`)
	}
}

// niceCeiling returns a round number at or above v.
func niceCeiling(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, factor := range []float64{1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10} {
		if v <= factor*unit {
			return factor * unit
		}
	}
	return 10 * unit
}
