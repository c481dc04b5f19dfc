package benchmarks

import (
	"context"
	"runtime"
	"runtime/metrics"
)

// An IdleSample is what both ends of an idle connection keep.
type IdleSample struct {
	Bytes      float64 `json:"bytes"` // of heap and stacks
	Goroutines float64 `json:"goroutines"`
}

// MeasureIdle connects a number of clients to peer's server, makes one call
// with each, and measures what remains when all are idle.
func MeasureIdle(ctx context.Context, peer Peer, sessions int) (IdleSample, error) {
	row := Row{Name: "Idle", Conns: sessions, Callers: sessions, op: echo}
	load := Load{Callers: 1, Notified: func() {}}
	server, err := peer.Start(load)
	if err != nil {
		return IdleSample{}, err
	}
	b := &Bench{server: server, row: row}
	defer b.Close()
	bytesBefore, goroutinesBefore := inUse()
	for i := range sessions {
		client, err := peer.Dial(ctx, server.Addr().String(), load)
		if err != nil {
			return IdleSample{}, err
		}
		b.clients = append(b.clients, client)
		c := newCaller(client, i, Row{})
		if err := echo(ctx, &c); err != nil {
			return IdleSample{}, err
		}
	}
	bytes, goroutines := inUse()
	return IdleSample{
		Bytes:      (bytes - bytesBefore) / float64(sessions),
		Goroutines: (goroutines - goroutinesBefore) / float64(sessions),
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
