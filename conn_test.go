package rpcx_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// certificate returns the configurations of a TLS server for 127.0.0.1, and of
// a client that trusts it.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	h := httptest.NewTLSServer(nil) // has a certificate for tests
	defer h.Close()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	return &tls.Config{Certificates: h.TLS.Certificates}, &tls.Config{RootCAs: roots}
}

// freePort returns an address on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// dialSoon dials a server that is about to listen.
func dialSoon(t *testing.T, d *rpcx.Dialer, addr string, opts *rpcx.Options) *rpcx.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		s, err := d.Dial(ctx, addr, opts)
		if err == nil {
			return s
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

func TestListenAndServeAndDial(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	for name, addr := range map[string]string{
		"tcp":  "tcp://" + freePort(t),
		"TCP":  "TCP://" + freePort(t),
		"tls":  "tls://" + freePort(t),
		"ssl":  "ssl://" + freePort(t),
		"unix": "unix://" + filepath.Join(t.TempDir(), "socket"),
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			secure := name == "tls" || name == "ssl"
			srv := &rpcx.Server{TLS: serverTLS, Options: *handling(methods{
				"back": func(ctx context.Context, req *rpcx.Request) (any, error) {
					return rpcx.Call[string](ctx, req.Session(), "reply", rpcx.Args{"and back"})
				},
				"secure": func(_ context.Context, req *rpcx.Request) (any, error) {
					_, ok := req.Session().NetConn().(*tls.Conn)
					return ok, nil
				},
			})}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			served := make(chan error, 1)
			go func() { served <- srv.ListenAndServe(ctx, addr) }()

			s := dialSoon(t, &rpcx.Dialer{TLS: clientTLS}, addr, handling(methods{"reply": reply}))
			if got, err := rpcx.Call[string](t.Context(), s, "back", nil); err != nil || got != "and back" {
				t.Errorf("got %q, %v", got, err)
			}
			if got, err := rpcx.Call[bool](t.Context(), s, "secure", nil); err != nil || got != secure {
				t.Errorf("the connection is secure: %v, %v", got, err)
			}
			if s.RemoteAddr() == nil || s.LocalAddr() == nil || s.Role() != rpcx.RoleClient {
				t.Errorf("it goes from %v to %v as %v", s.LocalAddr(), s.RemoteAddr(), s.Role())
			}
			if err := srv.ListenAndServe(ctx, addr); err == nil || errors.Is(err, rpcx.ErrServerClosed) {
				t.Errorf("an address that is in use: %v", err)
			}
			cancel()
			if err := <-served; err != nil {
				t.Errorf("ListenAndServe returns %v", err)
			}
			<-s.Done()
			if err := s.Err(); err != io.EOF {
				t.Errorf("the client's session ended with %v", err)
			}
			if _, err := rpcx.Dial(t.Context(), addr, nil); err == nil {
				t.Error("somebody listens still")
			}
		})
	}
}

func TestListenAndServeEndsAfterItsSessions(t *testing.T) {
	noLeak(t)
	begun, end := make(chan struct{}), make(chan struct{})
	srv := &rpcx.Server{Options: *handling(methods{"m": func(ctx context.Context, _ *rpcx.Request) (any, error) {
		close(begun)
		<-end
		return "done", nil
	}})}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	addr := "tcp://" + freePort(t)
	go func() { served <- srv.ListenAndServe(ctx, addr) }()
	s := dialSoon(t, &rpcx.Dialer{}, addr, nil)
	defer s.Close()
	f := s.Go(t.Context(), "m", nil)
	<-begun
	cancel()
	for { // until the shutdown has begun
		if err := s.Call(t.Context(), "m", nil, nil); errors.Is(err, rpcx.ErrServerBusy) {
			break
		}
	}
	select {
	case err := <-served:
		t.Errorf("ListenAndServe returns %v while a request is handled", err)
	default:
	}
	close(end)
	if err := <-served; err != nil {
		t.Errorf("ListenAndServe returns %v", err)
	}
	if err := f.Wait(t.Context(), nil); err != nil {
		t.Errorf("the request that was handled: %v", err)
	}
	if n := srv.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	srv := &rpcx.Server{}
	for name, addr := range map[string]string{
		"no scheme":       "127.0.0.1:80",
		"only a scheme":   "tcp://",
		"another scheme":  "udp://127.0.0.1:80",
		"no port":         "tcp://127.0.0.1",
		"a port too high": "tcp://127.0.0.1:65536",
		"no name":         "unix://",
		"nothing":         "",
		"no such folder":  "unix:///there/is/no/such/folder/socket",
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := rpcx.Dial(t.Context(), addr, nil); err == nil || s != nil || !strings.Contains(err.Error(), addr) {
				t.Errorf("Dial returns %v, %v", s, err)
			}
			if err := srv.ListenAndServe(t.Context(), addr); err == nil || errors.Is(err, rpcx.ErrServerClosed) {
				t.Errorf("ListenAndServe returns %v", err)
			}
		})
	}
	if err := srv.ListenAndServe(t.Context(), "tls://127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("without a certificate, ListenAndServe returns %v", err)
	}
}

func TestListenNeedsACertificate(t *testing.T) {
	secure, _ := certificate(t)
	for name, config := range map[string]*tls.Config{
		"no configuration":        nil,
		"an empty one":            {},
		"no certificates":         {Certificates: []tls.Certificate{}},
		"only what a client uses": {ServerName: "example.com", RootCAs: x509.NewCertPool()},
		"only names":              {NameToCertificate: map[string]*tls.Certificate{"example.com": &secure.Certificates[0]}},
	} {
		free := freePort(t)
		for _, scheme := range []string{"tls", "ssl"} {
			l, err := rpcx.Listen(t.Context(), scheme+"://"+free, config)
			if err == nil {
				l.Close()
			}
			if err == nil || l != nil || !strings.Contains(err.Error(), "TLS") || !strings.Contains(err.Error(), free) {
				t.Errorf("%s: Listen returns %v, %v", name, l, err)
			}
			srv := &rpcx.Server{TLS: config}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // or else it would serve
			if err := srv.ListenAndServe(ctx, scheme+"://"+free); err == nil || errors.Is(err, rpcx.ErrServerClosed) {
				t.Errorf("%s: ListenAndServe returns %v", name, err)
			}
		}
	}
	for name, config := range map[string]*tls.Config{
		"certificates": secure,
		"GetCertificate": {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &secure.Certificates[0], nil
		}},
		"GetConfigForClient": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return secure, nil }},
	} {
		l, err := rpcx.Listen(t.Context(), "tls://127.0.0.1:0", config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		l.Close()
	}
	l, err := rpcx.Listen(t.Context(), "tcp://127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestDialFails(t *testing.T) {
	noLeak(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	free := freePort(t)
	for name, c := range map[string]struct {
		ctx  context.Context
		addr string
		want error
	}{
		"where nobody listens":          {t.Context(), "tcp://" + free, nil},
		"with a context that has ended": {ended, "tcp://" + free, context.Canceled},
	} {
		_, err := rpcx.Dial(c.ctx, c.addr, nil)
		var op *net.OpError
		if !errors.As(err, &op) && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.addr) {
			t.Errorf("%s: %v", name, err)
		}
	}

	serverTLS, clientTLS := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
	go srv.Serve(l)
	defer srv.Wait(context.Background())
	defer srv.Close()
	addr := "tls://" + l.Addr().String()
	_, err = rpcx.Dial(t.Context(), addr, nil)
	var untrusted *tls.CertificateVerificationError
	if !errors.As(err, &untrusted) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	d := rpcx.Dialer{TLS: clientTLS.Clone()}
	d.TLS.ServerName = "example.org"
	if _, err = d.Dial(t.Context(), addr, nil); !errors.As(err, &untrusted) {
		t.Errorf("a certificate for another host: %v", err)
	}
	d.TLS = clientTLS
	s, err := d.Dial(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if clientTLS.ServerName != "" {
		t.Error("the user's configuration was changed")
	}
	if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
		t.Error(err)
	}
}

// neverAnswers is a DialContext whose connections are never made.
func neverAnswers(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestDialIsBounded(t *testing.T) {
	for _, c := range []struct {
		name    string
		timeout time.Duration
		ctx     time.Duration // 0 for none
		want    time.Duration
	}{
		{"by 30 s", 0, 0, 30 * time.Second},
		{"by what the Dialer says", 3 * time.Second, 0, 3 * time.Second},
		{"by the context", 0, 5 * time.Second, 5 * time.Second},
		{"by nothing but the context", -1, time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			for what, dial := range map[string]struct {
				addr string
				hook func(ctx context.Context, network, addr string) (net.Conn, error)
			}{
				"the connection": {"tcp://a.test:1", neverAnswers},
				"the handshake": {"tls://a.test:1", func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					go io.Copy(io.Discard, far) // a peer that reads and says nothing
					return near, nil
				}},
			} {
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					if c.ctx > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, c.ctx)
						defer cancel()
					}
					d := rpcx.Dialer{Timeout: c.timeout, DialContext: dial.hook}
					takes(t, c.want, func() {
						_, err := d.Dial(ctx, dial.addr, nil)
						if !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("%s: %v", what, err)
						}
						if text := fmt.Sprintf("over %v (Dialer.Timeout)", c.want); strings.Contains(err.Error(), text) != (c.ctx == 0) {
							t.Errorf("%s: the error is %v", what, err)
						}
					})
				})
			}
		})
	}
}

func TestDialContextMakesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var asked []string
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		d := rpcx.Dialer{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, network+" "+addr)
			near, far := net.Pipe()
			srv.ServeConn(far)
			return near, nil
		}}
		for _, addr := range []string{"tcp://a.test:1", "unix:///a/b"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s, err := d.Dial(ctx, addr, nil)
			if err != nil {
				t.Fatal(err)
			}
			cancel() // which bounds only the dialling
			time.Sleep(time.Minute)
			if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
				t.Error(err)
			}
			s.Close()
			<-s.Done()
		}
		if got := strings.Join(asked, ", "); got != "tcp a.test:1, unix /a/b" {
			t.Errorf("asked for %s", got)
		}
		srv.Wait(context.Background())
	})
}

// stuck is a reader and a writer that waits until it is released, whatever is
// closed.
type stuck struct {
	release chan struct{}
	closed  chan struct{}
}

func newStuck() stuck { return stuck{make(chan struct{}), make(chan struct{})} }

func (s stuck) Read(p []byte) (int, error) {
	<-s.release
	return copy(p, "too late"), nil
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

func (s stuck) Close() error {
	close(s.closed)
	return nil
}

// What waits in a read and in a write that nothing can end does not hold a
// session up.
func TestJoinEndsWhatCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newStuck(), newStuck()
		conn := rpcx.Join(in, out)
		s := rpcx.NewSession(conn, nil)
		f := s.Go(t.Context(), "anything", nil)
		synctest.Wait() // reader and writer wait
		s.Close()
		<-s.Done()
		if err := f.Err(); !errors.Is(err, rpcx.ErrConnectionLost) {
			t.Errorf("the call failed with %v", err)
		}
		<-in.closed
		<-out.closed
		buf := make([]byte, 10)
		if _, err := conn.Read(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read after the end: %v", err)
		}
		if _, err := conn.Write(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after the end: %v", err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
		close(in.release) // what stayed behind ends
		close(out.release)
	})
}

func TestJoinCarriesASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, down := newHalfPipe(), newHalfPipe()
		both := handling(methods{"reply": reply})
		a := rpcx.NewSession(rpcx.Join(down.r, up.w), both)
		b := rpcx.NewSession(rpcx.Join(up.r, down.w), both)
		for _, s := range []*rpcx.Session{a, b} {
			live(t, s)
			if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
				t.Error(err)
			}
		}
		a.Close()
		if err := ended(t, b); err != io.EOF {
			t.Errorf("the other end ended with %v", err)
		}
		<-a.Done()
	})
}

// halfPipe carries bytes one way.
type halfPipe struct {
	r *io.PipeReader
	w *io.PipeWriter
}

func newHalfPipe() halfPipe {
	r, w := io.Pipe()
	return halfPipe{r, w}
}

// A server on standard output whose client is gone ends its session, and decides
// itself how the program ends. SIGPIPE does not end it.
func TestStdioOutlivesItsReader(t *testing.T) {
	for _, c := range []struct {
		name       string
		input      bool // is closed, too
		stderr     bool // the program's standard error is closed before
		brokenPipe bool // is the cause
	}{
		{"the output is read no longer", false, false, true},
		{"the client is gone", true, false, false},
		{"a lower descriptor is free", false, true, true},
		{"a lower descriptor is free and the client is gone", true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range childRuns() {
				report := filepath.Join(t.TempDir(), "report")
				cmd := program(t, "sender")
				cmd.Env = append(cmd.Env, reportVariable+"="+report)
				if c.stderr {
					cmd.Env = append(cmd.Env, stderrVariable+"=closed")
				}
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(out, make([]byte, 100_000)); err != nil { // it is sending
					t.Error(err)
				}
				out.Close()
				if c.input {
					in.Close()
				}
				_ = cmd.Wait()
				if code := cmd.ProcessState.ExitCode(); code != 7 {
					t.Fatalf("the program ended with %v", cmd.ProcessState)
				}
				got, err := os.ReadFile(report)
				if err != nil {
					t.Fatal(err)
				}
				closed, rest, _ := strings.Cut(string(got), "\n")
				if rest != "done\n" || !strings.HasPrefix(closed, "closed, true") || c.brokenPipe && !strings.HasSuffix(closed, "broken pipe true") {
					t.Fatalf("the program says\n%s", got)
				}
			}
		})
	}
}

// childRuns is how often a child process is run that may fail once in a while. With the
// race detector each takes a second to start.
func childRuns() int {
	if race.Enabled || testing.Short() {
		return 3
	}
	return 8
}

// programVariable makes the test's own program one of programs.
const programVariable = "RPCX_TEST_PROGRAM"

// Variables of the program sender.
const (
	reportVariable = "RPCX_TEST_REPORT" // the file
	stderrVariable = "RPCX_TEST_STDERR" // if set, the standard error is closed
)

// readyVariable is set if descriptor 3 is for ready.
const readyVariable = "RPCX_TEST_READY"

var programs = map[string]func(){
	"plugin": func() {
		fmt.Fprint(os.Stderr, "the plugin starts\n\nand has ", "more to say\r\n")
		s := rpcx.NewSession(rpcx.Stdio(), handling(methods{
			"join": func(ctx context.Context, req *rpcx.Request) (any, error) {
				var words []string
				if err := req.Bind(&words); err != nil {
					return nil, err
				}
				return rpcx.Call[string](ctx, req.Session(), "loud", rpcx.Args{strings.Join(words, " ")})
			},
		}))
		<-s.Done()
		fmt.Fprint(os.Stderr, "the plugin ends") // without a newline
	},
	"stubborn": func() { // does not end with its input
		ready()
		stay()
	},
	"polite": func() { // nor does this, but it ends itself when it is asked to
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM, os.Interrupt)
		ready()
		if <-asked == os.Interrupt {
			os.Exit(6)
		}
		os.Exit(5)
	},
	"deaf": func() { // and this does neither
		signal.Ignore(syscall.SIGTERM)
		ready()
		stay()
	},
	"broken": func() { os.Exit(3) },
	"done":   func() { os.Exit(0) },
	"traced": func() { // panics when its first handler has returned
		s := rpcx.NewSession(rpcx.Stdio(), &rpcx.Options{
			Handler: rpcx.Func(func() {}),
			Trace: &rpcx.Trace{ReplySent: func(req *rpcx.Request, _ error, _ time.Duration) {
				panic("the trace of " + req.Method)
			}},
		})
		<-s.Done()
	},
	"usage": func() {
		fmt.Fprint(os.Stderr, "the program starts\nunknown flag: \"-x\"")
		os.Exit(2)
	},
	"garrulous": func() { // prints what is no message
		fmt.Println("welcome")
	},
	"survived": func() { // by a program that has its output
		path, err := os.Executable()
		if err != nil {
			panic(err)
		}
		cmd := exec.Command(path)
		cmd.Env = append(os.Environ(), programVariable+"=stubborn")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Fprintf(os.Stdout, `{"jsonrpc":"2.0","method":"pid","params":[%d]}`+"\n", cmd.Process.Pid)
	},
	"sender": func() { // sends until its session ends, and says in a file how that was
		report, err := os.Create(os.Getenv(reportVariable))
		if err != nil {
			panic(err)
		}
		if os.Getenv(stderrVariable) != "" {
			os.Stderr.Close()
		}
		s := rpcx.NewSession(rpcx.Stdio(), nil)
		s.OnClose(func(cause error) {
			fmt.Fprintf(report, "closed, %v, broken pipe %v\n", cause != nil, errors.Is(cause, syscall.EPIPE))
		})
		for err == nil {
			err = s.Notify(context.Background(), "news", rpcx.Args{strings.Repeat("x", 10_000)})
		}
		<-s.Done()
		fmt.Fprintln(report, "done")
		os.Exit(7)
	},
	"long-winded": func() {
		fmt.Fprint(os.Stderr, strings.Repeat("x", 10_000))
	},
}

// ready writes to descriptor 3, if a test has given one, that the program is ready.
// Who reads that sees its end when the program and all that it has started have ended.
func ready() {
	if os.Getenv(readyVariable) != "" {
		if _, err := os.NewFile(3, "ready").WriteString("."); err != nil {
			panic(err)
		}
	}
}

// stay does not return.
func stay() {
	r, _, err := os.Pipe()
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	panic(err)
}

// tellReady gives cmd a descriptor for ready, and returns the other end.
func tellReady(t *testing.T, cmd *exec.Cmd) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	_ = r.SetReadDeadline(time.Now().Add(time.Minute))
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(cmd.Env, readyVariable+"=3")
	return r
}

// awaitReady waits for n programs to be ready.
func awaitReady(t *testing.T, cmd *exec.Cmd, r *os.File, n int) {
	t.Helper()
	cmd.ExtraFiles[0].Close() // this program's
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Fatal("the program is not ready:", err)
	}
}

// nothingLeft fails the test if a process that has the descriptor of ready goes on.
func nothingLeft(t *testing.T, r *os.File) {
	t.Helper()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error("a process is left behind:", err)
	}
}

// program returns the command that runs one of programs.
func program(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), programVariable+"="+name)
	return cmd
}

// journal is a log that goroutines may write to.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) options() *rpcx.Options {
	return &rpcx.Options{Logger: slog.New(slog.NewTextHandler(j, nil)), Handler: methods{
		"loud": func(_ context.Context, req *rpcx.Request) (any, error) {
			var words []string
			err := req.Bind(&words)
			return strings.ToUpper(strings.Join(words, " ")), err
		},
	}}
}

func TestCommandCallsBothWays(t *testing.T) {
	noLeak(t)
	var log journal
	cmd := program(t, "plugin")
	s, err := rpcx.Command(t.Context(), cmd, log.options())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"", strings.Repeat("X", 300_000), "A B"} {
		if got, err := rpcx.Call[string](t.Context(), s, "join", rpcx.Args(anys(strings.Fields(strings.ToLower(want))))); got != want || err != nil {
			t.Errorf("%.20q: %.20q, %v", want, got, err)
		}
	}
	s.Close()
	<-s.Done()
	if !errors.Is(s.Err(), rpcx.ErrClosed) {
		t.Errorf("the session ended with %v", s.Err())
	}
	if cmd.ProcessState == nil || !cmd.ProcessState.Success() {
		t.Errorf("when the session is done, the program is in the state %v", cmd.ProcessState)
	}
	for _, line := range []string{`line="the plugin starts"`, `line="and has more to say"`, `line="the plugin ends"`, "program=" + cmd.Path} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log has no %s:\n%s", line, log.String())
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("the log has %d lines, want 3:\n%s", n, log.String())
	}
}

func anys(words []string) (list []any) {
	for _, word := range words {
		list = append(list, word)
	}
	return list
}

// A program is asked to end by the end of its input, then by SIGTERM, and then it is
// killed. Each has its time.
func TestCommandEndsItsProgramInSteps(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGTERM")
	}
	const soon, late = time.Millisecond, time.Hour
	for _, c := range []struct {
		name, program string
		delay         time.Duration // cmd.WaitDelay
		exit, kill    time.Duration // limits
		state         string
		log           []string
	}{
		{"by its input", "plugin", 0, late, late, "exit status 0", nil},
		{"by its input, for which it has any time", "plugin", soon, -1, soon, "exit status 0", nil},
		{"by SIGTERM", "stubborn", 0, soon, late, "signal: terminated", []string{"is terminated", "program ended"}},
		{"by SIGTERM in its own way", "polite", 0, soon, -1, "exit status 5", []string{"is terminated", "program ended"}},
		{"by SIGKILL", "deaf", 0, soon, soon, "signal: killed", []string{"is terminated", "is killed", "program ended"}},
		{"by SIGKILL after the times of WaitDelay", "deaf", soon, 0, 0, "signal: killed", []string{"is terminated", "is killed", "program ended"}},
		{"by SIGTERM in spite of WaitDelay", "polite", soon, 0, late, "exit status 5", []string{"is terminated", "program ended"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeak(t)
			var log journal
			cmd := program(t, c.program)
			cmd.WaitDelay = c.delay
			r := tellReady(t, cmd)
			ctx, cancel := context.WithCancel(t.Context())
			opts := log.options()
			opts.Limits.ExitTimeout, opts.Limits.KillTimeout = c.exit, c.kill
			opts.Logger = slog.New(reluctant{opts.Logger.Handler()})
			s, err := rpcx.Command(ctx, cmd, opts)
			if err != nil {
				t.Fatal(err)
			}
			if c.program != "plugin" {
				awaitReady(t, cmd, r, 1)
			}
			f := s.Go(t.Context(), "anything", nil)
			cancel() // closes the session
			<-s.Done()
			if err := f.Err(); !errors.Is(err, rpcx.ErrConnectionLost) {
				t.Errorf("the call failed with %v", err)
			}
			if got := cmd.ProcessState.String(); got != c.state {
				t.Errorf("the program is in the state %q, want %q", got, c.state)
			}
			rest := log.String()
			for _, text := range c.log {
				_, after, found := strings.Cut(rest, text)
				if !found {
					t.Errorf("the log does not say %q in its place:\n%s", text, log.String())
				}
				rest = after
			}
			if n := strings.Count(log.String(), "level=WARN"); n != len(c.log) {
				t.Errorf("there are %d warnings, want %d:\n%s", n, len(c.log), log.String())
			}
		})
	}
}

// reluctant is a log that lets everybody go first.
type reluctant struct{ slog.Handler }

func (r reluctant) Handle(ctx context.Context, record slog.Record) error {
	for range 100_000 {
		runtime.Gosched()
	}
	return r.Handler.Handle(ctx, record)
}

func (r reluctant) WithAttrs(attrs []slog.Attr) slog.Handler {
	return reluctant{r.Handler.WithAttrs(attrs)}
}

// The end of Command's context closes the session. Whoever notices it first, the session
// or the call, tells its cause.
func TestCommandTellsTheCauseOfItsContext(t *testing.T) {
	noLeak(t)
	ctx, stop := context.WithCancelCause(t.Context())
	s, err := rpcx.Command(ctx, program(t, "stubborn"), &rpcx.Options{Limits: rpcx.Limits{ExitTimeout: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	same, other := s.Go(ctx, "same", nil), s.Go(t.Context(), "other", nil)
	stop(context.DeadlineExceeded)
	<-s.Done()
	matches(t, same.Err(), context.DeadlineExceeded)
	matches(t, other.Err(), context.DeadlineExceeded, rpcx.ErrClosed, rpcx.ErrConnectionLost)
	matches(t, s.Err(), context.DeadlineExceeded, rpcx.ErrClosed)
	after := s.Call(t.Context(), "after", nil, nil)
	matches(t, after, context.DeadlineExceeded, rpcx.ErrClosed)
	if want := "rpcx: session closed: context deadline exceeded"; s.Err().Error() != want || after.Error() != want {
		t.Errorf("the errors are %q and %q, want %q", s.Err(), after, want)
	}
}

func TestCommandTellsHowItsProgramHasEnded(t *testing.T) {
	for _, c := range []struct{ program, want string }{
		{"done", "program ended: exit status 0"},
		{"usage", `program ended: exit status 2 (its standard error ends with "unknown flag: \"-x\"")`},
	} {
		t.Run(c.program, func(t *testing.T) {
			noLeak(t)
			s, err := rpcx.Command(t.Context(), program(t, c.program), nil)
			if err != nil {
				t.Fatal(err)
			}
			lost := s.Call(t.Context(), "m", nil, nil)
			<-s.Done()
			for _, err := range []error{s.Err(), lost} {
				if !errors.Is(err, io.EOF) || !strings.HasSuffix(err.Error(), c.want) {
					t.Errorf("there is the error %v", err)
				}
			}
		})
	}
}

// A panic of a Trace is no handler's, and ends the program. The reply is queued before.
func TestPanicOfTraceEndsTheProgram(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "traced"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	s.Go(t.Context(), "m", nil)
	<-s.Done()
	if exit, ok := errors.AsType[*exec.ExitError](s.Err()); !ok || exit.ExitCode() != 2 {
		t.Errorf("the program ended with %v", s.Err())
	}
	if strings.Count(log.String(), "the trace of m") != 1 {
		t.Errorf("its standard error is\n%s", log.String())
	}
}

func TestCommandThatFails(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "broken"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	lost := s.Call(t.Context(), "m", nil, nil)
	matches(t, lost, rpcx.ErrConnectionLost)
	<-s.Done()
	for _, err := range []error{s.Err(), lost} {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 3 || !errors.Is(err, io.EOF) || !strings.HasSuffix(err.Error(), "program ended: exit status 3") {
			t.Errorf("there is the error %v", err)
		}
	}
	if !strings.Contains(log.String(), "exit status 3") {
		t.Errorf("the log says\n%s", log.String())
	}
}

// A program that has ended ends its session, though others have its output and
// its standard error. What it said before is handled, and the others are ended.
func TestCommandThatIsSurvived(t *testing.T) {
	noLeak(t)
	var log journal
	opts := log.options()
	pids := make(chan int, 1)
	opts.Handler = rpcx.Func(func(pid int) { pids <- pid })
	cmd := program(t, "survived")
	cmd.WaitDelay = 250 * time.Millisecond // in which what it said is read
	s, err := rpcx.Command(t.Context(), cmd, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-s.Done():
	case <-ctx.Done():
		t.Error("the session does not end")
	}
	if survivor, err := os.FindProcess(<-pids); err == nil {
		survivor.Kill()
	}
	if <-s.Done(); !errors.Is(s.Err(), io.EOF) || !cmd.ProcessState.Success() || strings.Contains(log.String(), "is killed") {
		t.Errorf("the session ended with %v, the program is in the state %v, and the log says\n%s", s.Err(), cmd.ProcessState, log.String())
	}
}

// A program that never ends a line takes no more memory than a line may have.
func TestCommandCutsLongLines(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "long-winded"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	for _, n := range []int{4096, 4096, 10_000 - 2*4096} {
		line := "line=" + strings.Repeat("x", n) + "\n"
		if rest := strings.Replace(log.String(), line, "", 1); rest == log.String() {
			t.Errorf("there is no line of %d bytes", n)
		}
	}
}

func TestCommandErrors(t *testing.T) {
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("not today"))
	used := program(t, "plugin")
	used.Stdout = os.Stderr
	for name, c := range map[string]struct {
		ctx  context.Context
		cmd  *exec.Cmd
		want string
	}{
		"there is no such program":  {t.Context(), exec.Command("/no/such/program"), "no such file"},
		"the output is taken":       {t.Context(), used, "Stdout is set"},
		"the context ended before":  {ended, program(t, "plugin"), "not today"},
		"the program's name is bad": {t.Context(), exec.Command(""), "no command"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rpcx.Command(c.ctx, c.cmd, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "start program: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestLogNamesTheProgramThatSentABadMessage(t *testing.T) {
	noLeak(t)
	var log journal
	cmd := program(t, "garrulous")
	s, err := rpcx.Command(t.Context(), cmd, log.options())
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if want := `msg="bad message" program=` + cmd.Path; !strings.Contains(log.String(), want) {
		t.Errorf("the log has no %s:\n%s", want, log.String())
	}
}

// Whoever notices first that a program is gone says why it went.
func TestCommandThatFailsWhileItIsWrittenTo(t *testing.T) {
	noLeak(t)
	var log journal
	s, err := rpcx.Command(t.Context(), program(t, "broken"), log.options())
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = s.Notify(t.Context(), "m", nil)
	}
	<-s.Done()
	if exit, ok := errors.AsType[*exec.ExitError](s.Err()); !ok || exit.ExitCode() != 3 {
		t.Errorf("the session ended with %v", s.Err())
	}
}
