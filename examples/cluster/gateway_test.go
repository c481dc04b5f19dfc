package main

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"example.com/rpcx"
)

// A gateway that drains says so at /ready, and goes on to serve, and to accept, until the
// time for notice is over.
func TestDrainBeginsWithReadiness(t *testing.T) {
	c, err := startNodes(1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	g, err := startGateway(t.Context(), gatewayConfig{conn: c[0].Conn, listen: "tcp://127.0.0.1:0", ready: "127.0.0.1:0", notice: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer g.kill()
	status := func() int {
		resp, err := http.Get("http://" + g.readyAddr + "/ready")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := status(); got != http.StatusOK {
		t.Errorf("before, the status is %d", got)
	}
	noticed, notice := context.WithCancel(t.Context())
	drained := make(chan error, 1)
	// Owner: the test. End: notice.
	go func() { drained <- g.drain(noticed) }()
	until(t, "the gateway is not ready", func() bool { return status() == http.StatusServiceUnavailable })
	s, err := rpcx.Dial(t.Context(), g.addr, nil)
	if err != nil {
		t.Fatalf("a client that comes meanwhile: %v", err)
	}
	defer s.Close()
	// Nobody serves the method, and the gateway says so.
	if e, ok := errors.AsType[*rpcx.Error](s.Call(t.Context(), "work", rpcx.Args{0}, nil)); !ok || !e.NotStarted() {
		t.Errorf("its call: %v", e)
	}
	notice()
	<-drained
	<-s.Done()
}
