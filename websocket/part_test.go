package websocket_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	coder "github.com/coder/websocket"
)

// begin begins a text message of size bytes, which are yet to come.
func begin(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	header := binary.BigEndian.AppendUint64([]byte{0x81, 0x80 | 127}, uint64(size))
	if _, err := conn.Write(append(header, 0, 0, 0, 0)); err != nil { // a mask that changes nothing
		t.Fatal(err)
	}
}

// partServer serves srv in a bubble, and returns a connection to it.
func partServer(t *testing.T, srv *rpcx.Server, config websocket.Config) (conn net.Conn, s *rpcx.Session, stop func()) {
	t.Helper()
	l, stopped := inMemory(&websocket.Acceptor{Server: srv, Config: config})
	d := websocket.Dialer{Dialer: rpcx.Dialer{DialContext: l.dial}, Config: websocket.Config{PingInterval: -1}}
	client, err := d.Dial(t.Context(), "ws://memory/", nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	for s = range srv.Sessions() {
	}
	return client.NetConn(), s, func() {
		srv.Close()
		client.NetConn().Close()
		<-client.Done()
		srv.Wait(context.Background())
		stopped()
	}
}

// What has come of a large message counts for Server.MaxQueuedBytes until it is
// handled, and shows that the peer is there.
func TestPartsOfMessages(t *testing.T) {
	const frameHeader = 14
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
		srv.Options.Limits.IdleTimeout = 10 * time.Second
		conn, s, stop := partServer(t, srv, websocket.Config{})
		defer stop()
		const size = 500_000
		msg := `{"jsonrpc":"2.0","method":"echo","params":["` + strings.Repeat("x", size-47) + `"]}`
		begin(t, conn, len(msg))
		part := len(msg) / 5
		for rest := msg; rest != ""; rest = rest[min(part, len(rest)):] {
			time.Sleep(8 * time.Second)
			if _, err := conn.Write([]byte(rest[:min(part, len(rest))])); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			came := len(msg) - len(rest) + part
			if n := srv.Stats().QueuedBytes; came < len(msg) && (n < came || n > 2*came) {
				t.Errorf("of a message %d bytes have come, and %d wait", came, n)
			}
		}
		if got := s.Stats(); got.RequestsReceived != 1 || got.BytesReceived != uint64(frameHeader+len(msg)) {
			t.Errorf("stats are %+v", got)
		}
		if n := srv.Stats().QueuedBytes; n > 2000 { // what the request takes
			t.Errorf("%d bytes wait when all is done", n)
		}
	})
}

func TestPartsBeyondMaxQueuedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxQueuedBytes: 100_000}
		conn, s, stop := partServer(t, srv, websocket.Config{})
		defer stop()
		begin(t, conn, 900_000)
		conn.Write(make([]byte, 900_000))
		err := ended(t, s)
		if _, ok := errors.AsType[*rpcx.FrameError](err); !ok || !strings.Contains(err.Error(), "Server.MaxQueuedBytes") {
			t.Errorf("the session ended with %v", err)
		}
	})
}

// A large message has to go on when memory is short.
func TestPartOfAMessageHasToGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxQueuedBytes: 300_000}
		srv.Options.Limits.SendTimeout = 7 * time.Second
		conn, s, stop := partServer(t, srv, websocket.Config{})
		defer stop()
		begin(t, conn, 900_000)
		start := time.Now()
		conn.Write(make([]byte, 150_000))
		<-s.Done()
		if took := time.Since(start); took < 7*time.Second || took > 10*time.Second {
			t.Errorf("the session ended after %v", took)
		}
		if err := s.Err(); !strings.Contains(err.Error(), "Limits.SendTimeout") {
			t.Errorf("the session ended with %v", err)
		}
	})
}

// A message that is too large costs what has come of it, and is not read for ever.
func TestMessageWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		srv.Options.Limits.CostPerByte = 0.001
		srv.Options.Limits.CostError = 1
		conn, s, stop := partServer(t, srv, websocket.Config{MaxSize: 1000})
		defer stop()
		start := time.Now()
		begin(t, conn, math.MaxInt)
		chunk := make([]byte, 100_000)
		sent := 0
		for ; sent < 100_000_000; sent += len(chunk) {
			if _, err := conn.Write(chunk); err != nil {
				break
			}
		}
		err := ended(t, s)
		if _, ok := errors.AsType[*rpcx.FrameError](err); !ok || sent > 17<<20 || time.Since(start) > time.Second {
			t.Errorf("after %d bytes and %v the session ended with %v", sent, time.Since(start), err)
		}
		if got := s.Stats(); got.Errors != 1 || got.Cost < 1+1 || got.Cost > 1+5 { // with what was read ahead
			t.Errorf("stats are %+v", got)
		}
	})
}

// Few bytes can be a message without end, of which no more comes out than is read.
func TestCompressedMessageWithoutEnd(t *testing.T) {
	config := websocket.Config{Compress: true, MaxSize: 1000}
	accepted := make(chan *rpcx.Session, 1)
	srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { accepted <- s }}
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	url := serve(t, &websocket.Acceptor{Server: srv, Config: config})
	ws := peer(t, url, &coder.DialOptions{CompressionMode: coder.CompressionNoContextTakeover})
	s := <-accepted
	w, err := ws.Writer(t.Context(), coder.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	// Owner: the test. End: the session closes the connection.
	go func() {
		_, _, err := ws.Read(t.Context()) // the answer, under id null
		if err == nil {
			_, _, err = ws.Read(t.Context())
		}
		read <- err
	}()
	zeros := make([]byte, 1<<20)
	for sent := 0; sent < 10_000 && err == nil; sent++ {
		_, err = w.Write(zeros)
	}
	if err == nil {
		t.Error("all of 10 GB was read")
	}
	if err := <-read; coder.CloseStatus(err) != coder.StatusMessageTooBig {
		t.Errorf("the peer is told %v", err)
	}
	if n := s.Stats().BytesReceived; n > 1<<20 {
		t.Errorf("%d bytes came out", n)
	}
	if _, ok := errors.AsType[*rpcx.FrameError](ended(t, s)); !ok {
		t.Errorf("the session ended with %v", s.Err())
	}
}

// A message that is dropped is charged for, though it does not end.
func TestDroppedBytesCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		srv.Options.Limits.CostPerByte = 0.001
		srv.Options.Limits.CostError = 1
		conn, s, stop := partServer(t, srv, websocket.Config{MaxSize: 1000})
		defer stop()
		const request = `{"jsonrpc":"2.0","id":1,"method":"` // which can be answered
		begin(t, conn, 3000)
		conn.Write(append([]byte(request), make([]byte, 3000-len(request))...))
		begin(t, conn, math.MaxInt)
		chunk := make([]byte, 100_000)
		conn.Write(append([]byte(request), chunk[:2000-len(request)]...))
		synctest.Wait()
		if got := s.Stats(); got.Errors != 2 || got.Cost < 2+3+1 || got.Cost > 2+3+3 { // with the frame headers
			t.Errorf("stats are %+v", got)
		}
		sent := 0
		for ; sent < 100_000_000; sent += len(chunk) {
			if _, err := conn.Write(chunk); err != nil {
				break
			}
			synctest.Wait()
		}
		// CostHard is reached after 10 MB; they are counted by the MiB.
		if sent < 10_000_000 || sent > 12_000_000 {
			t.Errorf("it ended after %d bytes", sent)
		}
		if err := ended(t, s); !errors.Is(err, rpcx.ErrExcessiveResourceUsage) {
			t.Errorf("the session ended with %v", err)
		}
	})
}

// Few bytes can be a message without end, which is charged for as it comes out.
func TestCompressedBytesCost(t *testing.T) {
	config := websocket.Config{Compress: true, MaxSize: 1000}
	accepted := make(chan *rpcx.Session, 1)
	srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { accepted <- s }}
	srv.Options.Limits.CostPerByte = 0.001
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	url := serve(t, &websocket.Acceptor{Server: srv, Config: config})
	ws := peer(t, url, &coder.DialOptions{CompressionMode: coder.CompressionNoContextTakeover})
	s := <-accepted
	w, err := ws.Writer(t.Context(), coder.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(`{"jsonrpc":"2.0","id":1,"method":"`)); err != nil { // it can be answered
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for sent := 0; sent < 10_000 && err == nil; sent++ {
		_, err = w.Write(zeros)
	}
	if err == nil {
		t.Error("all of 10 GB was read")
	}
	ended(t, s)
}

// A WebSocket that has nothing to say does not keep the room of what it once said.
func TestLargeBuffersAreGivenBack(t *testing.T) {
	const sessions, size = 40, 900_000
	url := serveRPC(t, &rpcx.Server{Options: rpcx.Options{Handler: methods()}})
	heap := func() int {
		runtime.GC()
		runtime.GC() // for what is in pools
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int(stats.HeapAlloc)
	}
	msg := []byte(`{"jsonrpc":"2.0","method":"refuse","params":[],"id":1}` + strings.Repeat(" ", size))
	before := heap()
	for range sessions {
		ws := peer(t, url, nil)
		if err := ws.Write(t.Context(), coder.MessageText, msg); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if held := heap() - before; held > sessions*size/4 {
		t.Errorf("%d sessions hold %d bytes", sessions, held)
	}
}

// A session that ends to make room on its server tells its peer to come again.
func TestCloseCodeOfSessionsThatMakeRoom(t *testing.T) {
	part := func(t *testing.T, s *rpcx.Session, bytes int) {
		begin(t, s.NetConn(), 900_000)
		s.NetConn().Write(make([]byte, bytes)) // fails if the session ends meanwhile
		synctest.Wait()
	}
	for name, c := range map[string]struct {
		srv *rpcx.Server
		end func(t *testing.T, connect func() *rpcx.Session) (ended *rpcx.Session)
		is  error // what the session's error matches, but for ErrServerFull
	}{
		"a message that does not fit": {&rpcx.Server{MaxQueuedBytes: 100_000},
			func(t *testing.T, connect func() *rpcx.Session) *rpcx.Session {
				s := connect()
				part(t, s, 900_000)
				return s
			}, nil},
		"one that makes room for a later one": {&rpcx.Server{MaxQueuedBytes: 300_000},
			func(t *testing.T, connect func() *rpcx.Session) *rpcx.Session {
				s := connect()
				part(t, s, 150_000)
				part(t, connect(), 100_000)
				return s
			}, nil},
		"one that does not go on": {&rpcx.Server{MaxQueuedBytes: 300_000},
			func(t *testing.T, connect func() *rpcx.Session) *rpcx.Session {
				s := connect()
				part(t, s, 150_000)
				return s
			}, nil},
		"an idle session among many": {&rpcx.Server{MaxSessions: 1, CrowdedIdleTimeout: time.Second},
			func(t *testing.T, connect func() *rpcx.Session) *rpcx.Session { return connect() }, rpcx.ErrIdle},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := c.srv
				errs := make(chan error, 10)
				srv.OnSession = func(s *rpcx.Session) { s.OnClose(func(err error) { errs <- err }) }
				l, stopped := inMemory(&websocket.Acceptor{Server: srv, Config: websocket.Config{PingInterval: -1}})
				defer stopped()
				d := websocket.Dialer{Dialer: rpcx.Dialer{DialContext: l.dial}, Config: websocket.Config{PingInterval: -1}}
				var sessions []*rpcx.Session
				s := c.end(t, func() *rpcx.Session {
					s, err := d.Dial(t.Context(), "ws://memory/", nil)
					if err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					sessions = append(sessions, s)
					return s
				})
				if closed, ok := errors.AsType[*websocket.CloseError](ended(t, s)); !ok || closed.Code != 1013 || closed.Reason == "" {
					t.Errorf("the peer is told %v", s.Err())
				}
				err := <-errs
				_, framing := errors.AsType[*rpcx.FrameError](err)
				if !errors.Is(err, rpcx.ErrServerFull) || framing != (c.is == nil) || !framing && !errors.Is(err, c.is) {
					t.Errorf("the session ended with %v", err)
				}
				srv.Close()
				for _, s := range sessions {
					s.NetConn().Close()
					<-s.Done()
				}
				srv.Wait(context.Background())
			})
		})
	}
}

// Peers that do not read hold no more than twice the limit over WebSockets either.
func TestUnreadRepliesAreBounded(t *testing.T) {
	const limit, sessions, size = 8 << 20, 100, 300_000
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxQueuedBytes: limit}
		srv.Options.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			return strings.Repeat("x", size), nil
		})
		l, stopped := inMemory(&websocket.Acceptor{Server: srv, Config: websocket.Config{PingInterval: -1}})
		defer stopped()
		var conns []*coder.Conn
		for range sessions {
			ws := dialPeer(t, l)
			defer ws.CloseNow()
			conns = append(conns, ws)
		}
		synctest.Wait()
		before, most := heapBytes(), 0
		for i, ws := range conns {
			for range 10 {
				_ = ws.Write(t.Context(), coder.MessageText, []byte(`{"jsonrpc":"2.0","method":"m","id":1}`)) // fails if the session has ended
			}
			if i%10 == 9 {
				synctest.Wait()
				most = max(most, heapBytes()-before)
			}
		}
		n := srv.Stats().Sessions
		t.Logf("%.2f of the limit are held, at most; %d sessions are left", float64(most)/limit, n)
		if most > 2*limit || n == sessions {
			t.Errorf("%d bytes of memory are held, of %d, and %d sessions are left", most, limit, n)
		}
		srv.Close()
		for _, ws := range conns {
			ws.CloseNow()
		}
		srv.Wait(context.Background())
	})
}
