package rpcx_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// serverLogBurst is what a server logs of its sessions before the bytes received count: for
// errors, for what else peers cause, and for what ends sessions.
const serverLogBurst = 3 * 256 << 10

// visit has a session of its own say something, and end.
func visit(srv *rpcx.Server, text string) (said int) {
	near, far := net.Pipe()
	srv.ServeConn(near)
	// Owner: the caller. End: the connection is closed.
	go io.Copy(io.Discard, far)
	said, _ = io.WriteString(far, text) // fails if the session ends meanwhile
	far.Close()
	synctest.Wait()
	return said
}

// Many short sessions make a server log no more than two bytes for each byte received, but
// for what it has for all.
func TestServerLogIsBoundedByWhatIsReceived(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"refuse"}` + "\n"
	for name, c := range map[string]struct {
		text     string
		sessions int
	}{
		"two bytes":              {"x\n", 5000},
		"garbage":                {strings.Repeat("x\n", 200), 500},
		"zeros":                  {strings.Repeat("0\n", 200), 500},
		"notifications":          {strings.Repeat(note, 50), 500},
		"one notification":       {note, 5000},
		"handlers that fail":     {strings.Replace(note, "refuse", "fail", 1), 5000},
		"too much that is wrong": {strings.Repeat("x", 20_000) + "\n" + strings.Repeat("x\n", 100), 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				srv := &rpcx.Server{Options: *handling(failingMethods())}
				srv.Options.Logger = slog.New(slog.NewTextHandler(&out, nil))
				received := 0
				for range c.sessions {
					received += visit(srv, c.text)
				}
				srv.Close()
				srv.Wait(context.Background())
				t.Logf("%d bytes were logged for %d, and %d records left out", out.Len(), received, srv.Stats().LogRecordsLeftOut)
				if out.Len() > serverLogBurst+2*received {
					t.Errorf("%d bytes were logged for %d", out.Len(), received)
				}
				if srv.Stats().LogRecordsLeftOut == 0 {
					t.Error("no records were left out")
				}
			})
		})
	}
}

// What peers send hides no error of a handler, and no reason for which a session ends.
func TestServerLogShowsErrorsBesideBadMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: *handling(failingMethods())}
		srv.Options.Logger = slog.New(log)
		srv.Options.Limits.IdleTimeout = time.Second
		for range 3000 {
			visit(srv, "x\n")
		}
		left := srv.Stats().LogRecordsLeftOut
		if n := uint64(len(log.take())); left == 0 || n+left != 3000 {
			t.Errorf("of 3000 records %d were logged, and %d left out", n, left)
		}
		visit(srv, `{"jsonrpc":"2.0","method":"fail"}`+"\n")
		near, far := net.Pipe()
		srv.ServeConn(near)
		time.Sleep(2 * time.Second)
		if got := strings.Join(log.take(), "; "); got != "ERROR handler failed; INFO session is idle" {
			t.Errorf("logged was %q", got)
		}
		far.Close()
		time.Sleep(time.Minute)
		visit(srv, "x\n")
		if got := strings.Join(log.take(), "; "); got != "WARN too much to log of this server's sessions; WARN bad message" {
			t.Errorf("a minute later %q was logged", got)
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}
