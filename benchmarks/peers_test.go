package benchmarks

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	RunApart()
	os.Exit(m.Run())
}

// Every peer does every row that it can, with the right replies, and leaves
// nothing running.
func TestPeers(t *testing.T) {
	for _, peer := range Peers {
		t.Run(peer.Name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			for _, row := range Rows {
				if testing.Short() {
					row.Conns = min(row.Conns, 8)
					row.Callers = min(row.Callers, 32*row.Conns)
				}
				b, err := Open(t.Context(), peer, row)
				if errors.Is(err, errors.ErrUnsupported) {
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", row.Name, err)
				}
				if err := b.Run(t.Context(), 2*row.Callers); err != nil {
					t.Errorf("%s: %v", row.Name, err)
				}
				if err := b.Close(); err != nil {
					t.Errorf("%s: closing: %v", row.Name, err)
				}
				checkGoroutines(t, row.Name, before)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	for _, peer := range Peers {
		s, err := MeasureIdle(t.Context(), peer, 20)
		if err != nil {
			t.Errorf("%s: %v", peer.Name, err)
		} else if s.Bytes <= 0 {
			t.Errorf("%s: %.0f bytes for a connected client and its server", peer.Name, s.Bytes)
		}
	}
}

// A task of a process of its own comes back with its result, or fails.
func TestApart(t *testing.T) {
	s, err := MeasureIdleApart(floorPeer, 20)
	if err != nil {
		t.Fatal(err)
	}
	if s.Bytes < 4096 || s.Goroutines < 1 || s.Goroutines > 2 {
		t.Errorf("%+v for a connection with a goroutine at one end", s)
	}
	if _, err := MeasureIdleApart(Peer{Name: "nobody"}, 20); err == nil {
		t.Error("no error about nobody")
	}
	if _, err := startApart(Peer{Name: "nobody"}, Load{}); err == nil {
		t.Error("no error about a server of nobody")
	}
}

func TestFind(t *testing.T) {
	if rows, err := FindRows("Conns200,One"); err != nil || len(rows) != 2 || rows[0].Name != "One" {
		t.Errorf("found %v, %v", rows, err)
	}
	if _, err := FindPeers("floor,nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("want an error about nobody, got %v", err)
	}
}

// checkGoroutines fails t if there are still more goroutines than before after
// a grace in which those that were told to end may do so.
func checkGoroutines(t *testing.T, row string, before int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Fatalf("%s: %d goroutines before, %d after:\n%s", row, before, runtime.NumGoroutine(), stacks)
		}
	}
}
