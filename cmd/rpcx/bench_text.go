package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// print prints the report in the form of --output.
func (r *report) print(e *env, p *printer) error {
	if p.form == "text" && p.filter == nil {
		return p.write(escapeFor(e.stdoutTTY, r.text()))
	}
	text, err := marshal(r)
	if err != nil {
		return err
	}
	// Ctrl-C ends the measurement, and not the output.
	return p.print(context.Background(), text)
}

// text returns the report for people.
func (r *report) text() string {
	paragraphs := []string{
		r.Target + " " + r.Method + "\n" + r.loadText(),
		indented(alignColumns(r.countRows())),
	}
	if r.latency.TotalCount() > 0 {
		paragraphs = append(paragraphs, indented(alignColumns(r.latencyRows())),
			"Distribution of the latency:\n"+indented(alignColumns(r.barRows())))
	}
	if len(r.Errors) > 0 {
		paragraphs = append(paragraphs, "Errors:\n"+indented(alignColumns(r.errorRows())))
	}
	// A few calls were due just before the end.
	if r.Calls.Unsent > r.Calls.Due/100 && r.Ended == endedComplete {
		paragraphs = append(paragraphs, "The rate was not kept: the peer, or this machine, is too slow.")
	}
	return strings.Join(paragraphs, "\n\n")
}

// indented returns lines with a margin.
func indented(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// unit returns what was counted.
func (r *report) unit() string {
	if strings.HasPrefix(r.Kind, "notification") {
		return "notifications"
	}
	return "calls"
}

// loadText says what was sent, and when.
func (r *report) loadText() string {
	one, many := strings.TrimSuffix(r.unit(), "s"), r.unit()
	if r.Batch > 0 {
		of := " of " + plural(r.Batch, one, many)
		one, many = "batch"+of, "batches"+of
	}
	flight := plural(r.InFlight, one, many) + " in flight on "
	if r.Connections > 1 {
		flight += "each of "
	}
	flight += plural(r.Connections, "connection", "connections")
	if r.Model == "open" {
		return fmt.Sprintf("open model: %s a second, at most %s", plural(r.RateWanted, strings.TrimSuffix(r.unit(), "s"), r.unit()), flight)
	}
	return "closed loop: " + flight
}

// plural returns a number with its noun.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(int64(n)) + " " + many
}

func (r *report) countRows() [][]string {
	total := fmt.Sprintf("%s in %s", grouped(r.Calls.Sent), shortTime(r.Duration*1e6))
	if r.WarmUp > 0 {
		total += ", after a warm-up of " + shortTime(r.WarmUp*1e6)
	}
	if r.Ended != endedComplete {
		total += ", " + r.Ended
	}
	rate := fmt.Sprintf("%s %s/s", shortNumber(r.Rate), r.unit())
	if r.Model == "open" {
		rate += fmt.Sprintf(" of %s", grouped(int64(r.RateWanted)))
	}
	rows := [][]string{
		{"Sent", total},
		{"Rate", rate},
		{"Succeeded", grouped(r.Calls.Succeeded)},
		{"Failed", grouped(r.Calls.Failed)},
	}
	if r.Calls.Failed > 0 {
		rows[3][1] += fmt.Sprintf(" (%.2f %%)", 100*float64(r.Calls.Failed)/float64(r.Calls.Sent))
	}
	if n := r.Calls.Unfinished; n > 0 {
		rows = append(rows, []string{"Unfinished", grouped(n) + " had no reply yet"})
	}
	if n := r.Calls.Unsent; n > 0 {
		rows = append(rows, []string{"Not sent", grouped(n) + " were due, and others had to end first"})
	}
	if r.Late != nil && r.Calls.Sent > 0 {
		late := fmt.Sprintf("50 %% %s, 99 %% %s, max %s", shortTime(r.Late.P50), shortTime(r.Late.P99), shortTime(r.Late.Max))
		if n := r.Calls.Waited; n > r.Calls.Sent/1000 {
			late += fmt.Sprintf("; %s waited until fewer were in flight", grouped(n))
		}
		rows = append(rows, []string{"Late by", late})
	}
	return rows
}

func (r *report) latencyRows() [][]string {
	rows := [][]string{{"Latency", ""}, {"min"}, {"50 %"}, {"75 %"}, {"90 %"}, {"95 %"}, {"99 %"}, {"99.9 %"}, {"99.99 %"}, {"max"}, {"mean"}, {"stddev"}}
	columns := []*summary{&r.Latency}
	if r.Reply != nil {
		rows[0] = []string{"Latency", "from due", "from sent"}
		columns = append(columns, r.Reply)
	}
	for _, s := range columns {
		for i, v := range []float64{s.Min, s.P50, s.P75, s.P90, s.P95, s.P99, s.P999, s.P9999, s.Max, s.Mean, s.StdDev} {
			rows[i+1] = append(rows[i+1], shortTime(v))
		}
	}
	return rows
}

// maxBarRows is the number of bars in a text, without the last.
const maxBarRows = 14

// barRows returns a row for each bar. The bars are as fine as maxBarRows permits. The last
// has all values from the longest thousandth on.
func (r *report) barRows() (rows [][]string) {
	var bars []bar
	for _, steps := range [][]int64{tenBars, fiveBars, threeBars, oneBar} {
		bars = distribution(r.latency, steps)
		n := 0
		for n < len(bars) && bars[n].From < r.Latency.P999 {
			n++
		}
		if n < len(bars) {
			for _, b := range bars[n+1:] {
				bars[n].Count += b.Count
				bars[n].To = b.To
			}
			bars = bars[:n+1]
		}
		if n <= maxBarRows {
			break
		}
	}
	most := int64(0)
	for _, b := range bars {
		most = max(most, b.Count)
	}
	const width = 40
	total := r.latency.TotalCount()
	for _, b := range bars {
		length := int((b.Count*width + most - 1) / most) // a rare value is seen, too
		rows = append(rows, []string{
			"over " + shortTime(b.From), "to " + shortTime(b.To),
			fmt.Sprintf("%6.2f %%", 100*float64(b.Count)/float64(total)), strings.Repeat("█", length),
		})
	}
	return rows
}

func (r *report) errorRows() (rows [][]string) {
	for _, e := range r.Errors {
		kind := e.Kind
		if e.Code != 0 {
			kind += " " + strconv.Itoa(e.Code)
		}
		rows = append(rows, []string{grouped(e.Count), kind, e.Message})
	}
	return rows
}

// shortTime returns a time in microseconds with three digits.
func shortTime(us float64) string {
	switch {
	case us < 999.5:
		return threeDigits(us) + " µs"
	case us < 999_500:
		return threeDigits(us/1e3) + " ms"
	}
	return threeDigits(us/1e6) + " s"
}

// threeDigits returns a number with three digits or more.
func threeDigits(x float64) string {
	switch {
	case x < 9.995:
		return strconv.FormatFloat(x, 'f', 2, 64)
	case x < 99.95:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return grouped(int64(x + 0.5))
}

// shortNumber returns a number with three digits or more, and without a fraction of zero.
func shortNumber(x float64) string {
	text := threeDigits(x)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// grouped returns a number with commas between thousands.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// shortDuration is shortTime of a Duration.
func shortDuration(d time.Duration) string { return shortTime(float64(d) / 1e3) }
