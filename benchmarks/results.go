package benchmarks

import (
	"bufio"
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Results are what a number of runs found. In each run all peers were measured
// one after the other, so that run i of one peer compares with run i of another.
type Results struct {
	Date    string  `json:"date"`
	Go      string  `json:"go"`
	System  string  `json:"system"`
	CPU     string  `json:"cpu"`
	CPUs    int     `json:"cpus"`
	Seconds float64 `json:"secondsPerMeasure"`
	// Rows has the samples of each run by the names of the row and the peer.
	Rows map[string]map[string][]Sample `json:"rows"`
	// Sessions is how many connections there were for Idle.
	Sessions int                     `json:"sessions"`
	Idle     map[string][]IdleSample `json:"idle"`
}

// NewResults returns results without samples, described by this machine.
func NewResults(perMeasure time.Duration, sessions int) *Results {
	return &Results{
		Date:     time.Now().UTC().Format(time.DateOnly),
		Go:       runtime.Version(),
		System:   runtime.GOOS + "/" + runtime.GOARCH,
		CPU:      cpuModel(),
		CPUs:     runtime.GOMAXPROCS(0),
		Seconds:  perMeasure.Seconds(),
		Rows:     map[string]map[string][]Sample{},
		Sessions: sessions,
		Idle:     map[string][]IdleSample{},
	}
}

// Add stores the sample that the next run found.
func (r *Results) Add(row Row, peer Peer, s Sample) {
	if r.Rows[row.Name] == nil {
		r.Rows[row.Name] = map[string][]Sample{}
	}
	r.Rows[row.Name][peer.Name] = append(r.Rows[row.Name][peer.Name], s)
}

// IdleRow is the name of the idle sessions where the name of a row is wanted.
const IdleRow = "Idle"

// Values returns what each run found, for one operation: nanoseconds, or bytes
// for [IdleRow].
func (r *Results) Values(row, peer string) (values []float64) {
	if row == IdleRow {
		for _, s := range r.Idle[peer] {
			values = append(values, s.Bytes)
		}
		return values
	}
	for _, s := range r.Rows[row][peer] {
		values = append(values, s.Nanoseconds)
	}
	return values
}

// Median returns the medians of all runs, and false if there are none.
func (r *Results) Median(row, peer string) (Sample, bool) {
	samples := r.Rows[row][peer]
	return Sample{
		Nanoseconds: median(samples, func(s Sample) float64 { return s.Nanoseconds }),
		Allocs:      median(samples, func(s Sample) float64 { return s.Allocs }),
		Bytes:       median(samples, func(s Sample) float64 { return s.Bytes }),
	}, len(samples) > 0
}

// MedianIdle is Median for the idle sessions.
func (r *Results) MedianIdle(peer string) (IdleSample, bool) {
	samples := r.Idle[peer]
	return IdleSample{
		Bytes:      median(samples, func(s IdleSample) float64 { return s.Bytes }),
		Goroutines: median(samples, func(s IdleSample) float64 { return s.Goroutines }),
	}, len(samples) > 0
}

// Best returns the peer with the least median among those that are in, and false
// if none of them did the row.
func (r *Results) Best(row string, in func(Peer) bool) (best Peer, ok bool) {
	var least float64
	for _, p := range Peers {
		values := r.Values(row, p.Name)
		if m := median(values, float); len(values) > 0 && in(p) && (!ok || m < least) {
			best, least, ok = p, m, true
		}
	}
	return best, ok
}

// AnyWire tells of a peer that it is neither a floor nor rpcx.
func AnyWire(p Peer) bool { return p.Kind == JSON || p.Kind == Other }

// TwoWayJSON tells of a peer that it speaks JSON-RPC and calls in both directions
// on one connection.
func TwoWayJSON(p Peer) bool { return p.Kind == JSON && !p.OneWay }

// Save writes the results to a file as JSON.
func (r *Results) Save(name string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o666)
}

// LoadResults reads what Save wrote.
func LoadResults(name string) (*Results, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	return r, json.Unmarshal(data, r)
}

// median returns the median of what value takes from samples, 0 if there are none.
func median[T any](samples []T, value func(T) float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	slices.Sort(values)
	return (values[len(values)/2] + values[(len(values)-1)/2]) / 2
}

// float is median's value for numbers.
func float(f float64) float64 { return f }

// cpuModel returns the processor's name where the system tells it in a file.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
