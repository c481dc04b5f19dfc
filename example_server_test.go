package rpcx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"example.com/rpcx"
)

// readProxyHeader reads a header of the PROXY protocol, version 1, byte by byte: what
// follows the header belongs to the session.
func readProxyHeader(_ context.Context, conn net.Conn) (net.Conn, error) {
	header := make([]byte, 0, 107) // at most so long, by the protocol
	for !strings.HasSuffix(string(header), "\r\n") {
		n := len(header)
		if n == cap(header) {
			return nil, errors.New("read the PROXY header: no end of line")
		}
		if _, err := io.ReadFull(conn, header[n:n+1]); err == io.EOF && n == 0 {
			return nil, net.ErrClosed // a health check that sends nothing: no log record
		} else if err != nil {
			return nil, fmt.Errorf("read the PROXY header: %w", err)
		}
		header = header[:n+1]
	}
	fields := strings.Fields(string(header))
	if len(fields) >= 2 && fields[0] == "PROXY" && fields[1] == "UNKNOWN" {
		return nil, net.ErrClosed // the proxy's own health check: closed without a log record
	}
	if len(fields) != 6 || fields[0] != "PROXY" {
		return nil, errors.New("read the PROXY header: wrong form")
	}
	client, err := netip.ParseAddrPort(net.JoinHostPort(fields[2], fields[4]))
	if err != nil {
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	return rpcx.WithAddrs(conn, net.TCPAddrFromAddrPort(client), nil), nil
}

// Behind a proxy, the PROXY header tells who the client is. In a program, take the Preamble
// of the module proxyproto, which accepts headers from the addresses of the proxies only.
func ExampleServer_preamble() {
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) string { return s.RemoteAddr().String() }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}, Preamble: readProxyHeader}
	l, err := rpcx.Listen(context.Background(), "tcp://127.0.0.1:0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- srv.Serve(l) }()

	conn, err := net.Dial("tcp", l.Addr().String()) // the proxy
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(conn, "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n")
	s := rpcx.NewSession(conn, nil)
	fmt.Println(rpcx.Call[string](context.Background(), s, "whoami", nil))
	s.Close()
	srv.Shutdown(context.Background())
	fmt.Println(<-served)
	// Output:
	// 203.0.113.7:56324 <nil>
	// rpcx: server closed
}

// readAhead is a connection from which r has read ahead.
type readAhead struct {
	net.Conn
	r *bufio.Reader
}

func (c *readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// The server speaks first. What it has read beyond the answer is read again.
func ExampleServer_preambleBanner() {
	srv := &rpcx.Server{
		Options: rpcx.Options{Handler: exampleMethods()},
		Preamble: func(_ context.Context, conn net.Conn) (net.Conn, error) {
			fmt.Fprintln(conn, "EXAMPLE 1.0")
			r := bufio.NewReader(conn)
			if _, err := r.ReadString('\n'); err != nil {
				return nil, err
			}
			return &readAhead{conn, r}, nil
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go srv.Serve(l)

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(conn, "hello\n"+`{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":1}`+"\n")
	lines := bufio.NewScanner(conn)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	conn.Close()
	srv.Shutdown(context.Background())
	// Output:
	// EXAMPLE 1.0
	// {"jsonrpc":"2.0","result":3,"id":1}
}

// The sessions of a server that ends have their turns within ShutdownSpread, which is a
// minute, say, in a program.
func ExampleServer_shutdownSpread() {
	srv := &rpcx.Server{
		Options:         rpcx.Options{Handler: exampleMethods()},
		ShutdownSpread:  10 * time.Millisecond,
		ShutdownTimeout: 10 * time.Second, // after the spread
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background()) // signal.NotifyContext, in a program
	defer cancel()
	served := make(chan error)
	go func() { served <- srv.ServeContext(ctx, l) }()
	for range 3 {
		s, err := rpcx.Dial(ctx, "tcp://"+l.Addr().String(), nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer func() { <-s.Done() }()
		s.Call(ctx, "sum", rpcx.Args{1}, nil)
	}
	cancel()
	fmt.Println(<-served)
	// Output: <nil>
}

// toldPipe is a transport that tells its peer by a code why the session ends.
type toldPipe struct{ *messagePipe }

func (c toldPipe) CloseWithError(err error) error {
	code := "internal error"
	switch {
	case errors.Is(err, rpcx.ErrServerClosed):
		code = "going away"
	case errors.Is(err, rpcx.ErrClosed):
		code = "bye"
	case errors.Is(err, rpcx.ErrExcessiveResourceUsage):
		code = "too expensive"
	}
	fmt.Println("the peer is told:", code)
	return c.messagePipe.Close()
}

func ExampleCloserWithError() {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: exampleMethods()}}
	here, there := newMessagePipe()
	srv.ServeMessageConn(toldPipe{there})
	client := rpcx.NewMessageSession(here, nil)
	srv.Shutdown(context.Background())
	<-client.Done()
	// Output: the peer is told: going away
}

// News begin after the reply to "subscribe", also if the request is a member of a batch.
func ExampleAfterReply() {
	router := rpcx.NewRouter()
	router.Handle("subscribe", rpcx.Func(func(ctx context.Context, s *rpcx.Session, topic string) (string, error) {
		if topic == "" { // errors first: AfterReply is for a reply of any kind
			return "", rpcx.InvalidParams("no topic")
		}
		rpcx.AfterReply(ctx, func(err error) {
			if err != nil {
				return // the peer has no reply, and expects no news
			}
			_, _ = s.TryNotify("news", rpcx.Args{topic, "it rains"})
		})
		return "subscribed", nil
	}))
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Handler: router})
	defer server.Close()

	fmt.Fprintln(here, `{"jsonrpc":"2.0","method":"subscribe","params":["weather"],"id":1}`)
	lines := bufio.NewScanner(here)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	here.Close()
	// Output:
	// {"jsonrpc":"2.0","result":"subscribed","id":1}
	// {"jsonrpc":"2.0","method":"news","params":["weather","it rains"]}
}

// TryNotify waits for no session. A session whose peer does not read misses some news.
func ExampleSession_TryNotify() {
	heard := make(chan string)
	router := rpcx.NewRouter()
	router.Handle("news", rpcx.Func(func(text string) { heard <- text }))
	reads, client := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer client.Close()
	defer reads.Close()

	far, near := net.Pipe()
	defer far.Close()                                                              // nobody reads here
	deaf := rpcx.NewSession(near, &rpcx.Options{Limits: rpcx.Limits{Outbox: 100}}) // 4 MiB by default

	members := map[string]*rpcx.Session{"Kim": reads, "Sascha": deaf} // Server.Sessions, in a server
	for _, text := range []string{"it rains", "it snows"} {
		for name, s := range members {
			switch sent, err := s.TryNotify("news", rpcx.Args{text}); {
			case err != nil:
				fmt.Println(name, "is gone:", err)
			case !sent:
				fmt.Println(name, "misses:", text)
			}
		}
		fmt.Println("Kim hears:", <-heard)
	}
	// Output:
	// Kim hears: it rains
	// Sascha misses: it snows
	// Kim hears: it snows
}

// requestUserKey is the key of the user's name in the contexts of handlers.
type requestUserKey struct{}

// Handlers find the user in their context, as do the functions that the handlers call.
func ExampleOptions_context() {
	router := rpcx.NewRouter()
	router.Handle("login", rpcx.Func(func(s *rpcx.Session, name string) { s.SetValue("user", name) }))
	router.Handle("greet", rpcx.Func(func(ctx context.Context) string {
		return fmt.Sprint("Hello, ", ctx.Value(requestUserKey{}))
	}))
	opts := &rpcx.Options{
		Handler: router,
		Context: func(ctx context.Context, req *rpcx.Request) context.Context {
			if user := req.Session().Value("user"); user != nil {
				ctx = context.WithValue(ctx, requestUserKey{}, user)
			}
			return ctx
		},
	}
	client, server := rpcx.Pipe(nil, opts)
	defer server.Close()
	defer client.Close()

	_ = client.Call(context.Background(), "login", rpcx.Args{"Ada"}, nil)
	fmt.Println(rpcx.Call[string](context.Background(), client, "greet", nil))
	// Output: Hello, Ada <nil>
}

// A middleware prints each request with its number, its wait and its place in a batch.
func ExampleRequest_Seq() {
	numbered := func(next rpcx.Handler) rpcx.Handler {
		return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			waited := time.Since(req.Arrived())
			n, of := req.Batch()
			fmt.Printf("request %d: %s, member %d of %d, waited less than a minute: %v\n",
				req.Seq(), req.Method, n, of, waited < time.Minute)
			return next.ServeRPC(ctx, req)
		})
	}
	client, server := rpcx.Pipe(nil, &rpcx.Options{
		Handler:    exampleMethods(),
		Middleware: []func(rpcx.Handler) rpcx.Handler{numbered},
		Order:      rpcx.Sequential, // for the output
	})
	defer server.Close()
	defer client.Close()

	_ = client.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, nil)
	var batch rpcx.Batch
	batch.Call("echo", rpcx.Args{"Hi"}, nil)
	batch.Call("echo", rpcx.Args{"Hello"}, nil)
	_ = client.SendBatch(context.Background(), &batch)
	// Output:
	// request 1: echo, member 0 of 0, waited less than a minute: true
	// request 2: echo, member 1 of 2, waited less than a minute: true
	// request 3: echo, member 2 of 2, waited less than a minute: true
}

// The signature of a handler says how its method can be called.
func ExampleSignatureOf() {
	h := rpcx.Func(func(city string, days int) ([]float64, error) { return nil, nil }, "city", "days?")
	sig, _ := rpcx.SignatureOf(h)
	for _, p := range sig.Params {
		fmt.Println(p.Name, p.Type, "optional:", p.Optional)
	}
	fmt.Println("result:", sig.Result)
	// Output:
	// city string optional: false
	// days int optional: true
	// result: []float64
}

// A method "help" lists the methods that have a Doc, as they can be called.
func ExampleDocumented() {
	router := rpcx.NewRouter()
	router.Handle("forecast", rpcx.Documented(
		rpcx.Func(func(city string, days int) ([]float64, error) { return nil, nil }, "city", "days?"),
		rpcx.Doc{Summary: "Temperatures of the next days", Public: true, Examples: []rpcx.Example{
			{Name: "tomorrow", Params: rpcx.Args{"Oslo", 1}, Result: []float64{-3.5}},
		}}))
	router.Handle("debug", rpcx.Func(func() {}))

	for method, h := range router.Handlers() {
		doc, documented := rpcx.DocOf(h)
		if !documented || !doc.Public {
			continue
		}
		var params []string
		if sig, ok := rpcx.SignatureOf(h); ok {
			for _, p := range sig.Params {
				params = append(params, p.Name+" "+p.Type.String())
			}
		}
		fmt.Printf("%s(%s): %s\n", method, strings.Join(params, ", "), doc.Summary)
	}
	// Output: forecast(city string, days int): Temperatures of the next days
}

// httpPeer is the peer of an exchange over HTTP.
type httpPeer struct{ addr net.Addr }

func (p httpPeer) RemoteAddr() net.Addr { return p.addr }

// rpcOverHTTP returns a handler that answers each POST by srv.
func rpcOverHTTP(srv *rpcx.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if r.Method != http.MethodPost || mediaType != "application/json" {
			http.Error(w, "POST application/json", http.StatusBadRequest)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		var peer any
		if addr, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			peer = httpPeer{net.TCPAddrFromAddrPort(addr)}
		}
		reply, err := srv.ServeMessage(r.Context(), peer, body, nil)
		status := http.StatusOK
		var costs *rpcx.CostError
		var refused *rpcx.Error
		switch {
		case errors.As(err, &costs):
			status = http.StatusTooManyRequests
			w.Header().Set("Retry-After", strconv.Itoa(int(costs.RetryAfter)))
		case errors.As(err, &refused): // not started: the client may try again
			status = http.StatusServiceUnavailable
			w.Header().Set("Retry-After", "1")
		case err != nil: // the client is gone, or a handler has closed the session
			status = http.StatusInternalServerError
		case reply == nil:
			status = http.StatusNoContent
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		w.Write(reply)
	})
}

// An http.Handler over ServeMessage. The same server may also serve connections, with the
// same limits.
func ExampleServer_ServeMessage() {
	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(a, b int) int { return a + b }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}

	web := httptest.NewServer(rpcOverHTTP(srv))
	defer web.Close()
	post := func(message string) {
		resp, err := http.Post(web.URL, "application/json", strings.NewReader(message))
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(body))))
	}
	post(`{"jsonrpc":"2.0","method":"add","params":[1,2],"id":1}`)
	post(`[{"jsonrpc":"2.0","method":"add","params":[3,4],"id":2},{"jsonrpc":"2.0","method":"sub","id":3}]`)
	post(`{"jsonrpc":"2.0","method":"add","params":[1,2]}`)
	srv.Shutdown(context.Background())
	post(`{"jsonrpc":"2.0","method":"add","params":[1,2],"id":4}`)
	http.DefaultClient.CloseIdleConnections()
	// Output:
	// 200 {"jsonrpc":"2.0","result":3,"id":1}
	// 200 [{"jsonrpc":"2.0","result":7,"id":2}, {"jsonrpc":"2.0","error":{"code":-32601,"message":"unknown method \"sub\""},"id":3}]
	// 204
	// 503 {"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - shutting down","data":{"started":false,"reason":"shutting down"}},"id":4}
}
