package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"example.com/rpcx"
)

// returnServer is a server to which the clients return, in a process of its own.
type returnServer struct {
	rpcx.Server
	stopped chan error // receives the result of Serve, once
	ended   chan error // receives the result of Shutdown, once

	mu      sync.Mutex
	clients map[int]bool // that have said who they are
	most    int          // handshakes at once
}

// returnServed is what a server has counted since its start.
type returnServed struct {
	Clients    int    `json:"clients"`    // different clients that have said who they are
	Sessions   int    `json:"sessions"`   // live now
	Handshakes int    `json:"handshakes"` // most at once
	Refused    uint64 `json:"refused"`    // connections given up because of MaxHandshakes
}

// serveReturn is the process of a server. The parent gives orders until the parent ends.
func serveReturn() {
	srv := &returnServer{stopped: make(chan error, 1), ended: make(chan error, 1), clients: make(map[int]bool)}
	router := rpcx.NewRouter()
	router.Handle("listen", rpcx.Func(srv.listen))
	router.Handle("shutdown", rpcx.Func(srv.shutdown))
	router.Handle("finished", rpcx.Func(func() error { return <-srv.ended }))
	router.Handle("served", rpcx.Func(srv.served))
	parent := control(router)
	<-parent.Done()
	srv.Close()
}

// listen starts serving at addr, and returns the address.
func (srv *returnServer) listen(ctx context.Context, addr string, handshakes, sessions int, spread time.Duration) (string, error) {
	methods := rpcx.NewRouter()
	methods.Handle("server.version", rpcx.Func(func(client int) int {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.clients[client] = true
		return os.Getpid()
	}))
	methods.Handle("pid", rpcx.Func(os.Getpid))
	srv.Options.Handler = methods
	srv.MaxSessions, srv.MaxHandshakes, srv.ShutdownSpread = sessions, handshakes, spread
	srv.Preamble = srv.countHandshakes
	certificate, err := newCertificate()
	if err != nil {
		return "", err
	}
	l, err := rpcx.Listen(ctx, "tls://"+addr, &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return "", err
	}
	// Owner: the process. End: shutdown, or Close at the end of the process.
	go func() { srv.stopped <- srv.Serve(l) }()
	return l.Addr().String(), nil
}

// countHandshakes runs at the beginning of each handshake, which counts already.
func (srv *returnServer) countHandshakes(_ context.Context, conn net.Conn) (net.Conn, error) {
	n := srv.Stats().Handshakes
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.most = max(srv.most, n)
	return conn, nil
}

// shutdown begins to shut the server down, and returns when the server no longer listens.
func (srv *returnServer) shutdown() error {
	// Owner: the process. End: every session has ended.
	go func() { srv.ended <- srv.Shutdown(context.Background()) }()
	if err := <-srv.stopped; !errors.Is(err, rpcx.ErrServerClosed) {
		return err
	}
	return nil
}

func (srv *returnServer) served() returnServed {
	stats := srv.Stats()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return returnServed{len(srv.clients), stats.Sessions, srv.most, stats.Refused["Server.MaxHandshakes"]}
}
