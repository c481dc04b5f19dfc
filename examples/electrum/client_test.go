package main

import (
	"context"
	"strings"
	"testing"

	"example.com/rpcx"
)

// printed receives the lines of a program.
type printed chan string

func (p printed) Write(line []byte) (int, error) {
	p <- strings.TrimSpace(string(line))
	return len(line), nil
}

// expect waits for a line that begins with want, and drops the lines before.
func (p printed) expect(t *testing.T, want string) {
	t.Helper()
	var others []string
	for {
		select {
		case line := <-p:
			if strings.HasPrefix(line, want) {
				return
			}
			others = append(others, line)
		case <-t.Context().Done():
			t.Fatalf("printed %q, and not %q", others, want)
		}
	}
}

// serveTest serves at a free port until the test ends, and returns the address.
func serveTest(t *testing.T, srv *rpcx.Server, s *server, scheme string) (addr string) {
	t.Helper()
	listeners, err := s.listen(t.Context(), []string{scheme + "://127.0.0.1:0"}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	// Owner: the test. End: the server is closed.
	go func() { served <- srv.Serve(listeners[0]) }()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	return scheme + "://" + listeners[0].Addr().String()
}

const testAddress = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"

// The client prints what changes, over TCP and TLS, and ends in order.
func TestClient(t *testing.T) {
	for _, scheme := range []string{"tcp", "tls"} {
		s := newTestServer(t)
		addr := serveTest(t, s.rpcServer(), s, scheme)
		ctx, cancel := context.WithCancel(t.Context())
		out := make(printed, 1000)
		ended := make(chan error, 1)
		// Owner: the test. End: the end of ctx.
		go func() {
			ended <- run(ctx, []string{"client", "-connect", addr, "-address", testAddress, "-insecure"}, nil, out)
		}()
		out.expect(t, "status: no transactions")
		script, err := scriptOf(testAddress)
		if err != nil {
			t.Fatal(err)
		}
		err = s.update(func(c *chain) error { _, err := c.pay(script, coin); return err })
		if err != nil {
			t.Fatal(err)
		}
		out.expect(t, `status "`)
		if err := s.mine(1); err != nil {
			t.Fatal(err)
		}
		out.expect(t, "header 111, "+s.chain.tip().hash.String())
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the client ended with %v", err)
		}
		out.expect(t, "state closed")
	}
}

// A client can be ended while no server answers.
func TestClientWithoutServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := make(printed, 1000)
	ended := make(chan error, 1)
	// Owner: the test. End: the end of ctx.
	go func() {
		ended <- run(ctx, []string{"client", "-connect", "udp://nobody", "-address", testAddress}, nil, out)
	}()
	out.expect(t, "state backoff: ")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the client ended with %v", err)
	}
}

func TestClientErrors(t *testing.T) {
	for want, args := range map[string][]string{
		"-address is missing":        {},
		"neither an address of":      {"-address", "nobody"},
		"(wrong checksum in bech32)": {"-address", strings.Replace(testAddress, "q", "p", 1)},
	} {
		err := run(t.Context(), append([]string{"client"}, args...), nil, make(printed, 1000))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", args, err, want)
		}
	}

	headers := rpcx.Func(func() tip { return tip{5, strings.Repeat("00", 79)} })
	status := rpcx.Func(func(string) any { return nil })
	for want, methods := range map[string]map[string]rpcx.Handler{
		`unknown method "blockchain.headers.subscribe"`:    {},
		`unknown method "blockchain.scripthash.subscribe"`: {"blockchain.headers.subscribe": headers},
		"header 5 has not 80 bytes":                        {"blockchain.headers.subscribe": headers, "blockchain.scripthash.subscribe": status},
	} {
		router := rpcx.NewRouter()
		router.Handle("server.version", rpcx.Func(func(name string, versions []string) []string { return []string{name, versions[0]} }))
		for method, handler := range methods {
			router.Handle(method, handler)
		}
		addr := serveTest(t, &rpcx.Server{Options: rpcx.Options{Handler: router}}, newTestServer(t), "tcp")
		// The hash of a script, as an address.
		args := []string{"client", "-connect", addr, "-address", strings.Repeat("ab", 32)}
		err := run(t.Context(), args, nil, make(printed, 1000))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
