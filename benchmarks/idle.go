package benchmarks

import (
	"context"
	"runtime"
	"runtime/metrics"
)

// An IdleSample is what one end of an idle connection keeps: half of what the
// connection's two ends do.
type IdleSample struct {
	Bytes      float64 `json:"bytes"` // of heap and stacks
	Goroutines float64 `json:"goroutines"`
}

// MeasureIdle connects a number of clients to peer's server, makes one call
// with each, and measures what remains when all are idle.
func MeasureIdle(ctx context.Context, peer Peer, sessions int) (IdleSample, error) {
	row := Row{Name: "Idle", Conns: sessions, Callers: sessions, op: echo}
	server, err := peer.Start(Load{Callers: 1, Notified: func() {}})
	if err != nil {
		return IdleSample{}, err
	}
	b := &Bench{server: server, row: row}
	defer b.Close()
	bytesBefore, goroutinesBefore := inUse()
	for i := range sessions {
		client, err := server.Dial(ctx)
		if err != nil {
			return IdleSample{}, err
		}
		b.clients = append(b.clients, client)
		c := newCaller(client, i, 0)
		if err := echo(ctx, &c); err != nil {
			return IdleSample{}, err
		}
	}
	bytes, goroutines := inUse()
	ends := 2 * float64(sessions)
	return IdleSample{
		Bytes:      (bytes - bytesBefore) / ends,
		Goroutines: (goroutines - goroutinesBefore) / ends,
	}, nil
}

// inUse returns how many bytes of heap and stacks are in use, and how many
// goroutines there are.
func inUse() (bytes, goroutines float64) {
	for range 5 { // pools take two collections to empty; a stack is halved in each
		runtime.GC()
	}
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(samples)
	return float64(samples[0].Value.Uint64() + samples[1].Value.Uint64()), float64(samples[2].Value.Uint64())
}
