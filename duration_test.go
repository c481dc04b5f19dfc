package rpcx_test

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
)

// durations returns the names of the exported fields of type time.Duration of a struct.
func durations[T any]() (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if f.IsExported() && f.Type == reflect.TypeFor[time.Duration]() {
			names = append(names, f.Name)
		}
	}
	return names
}

// setDuration sets a field of type time.Duration of the struct that p points to.
func setDuration(p any, name string, d time.Duration) {
	reflect.ValueOf(p).Elem().FieldByName(name).SetInt(int64(d))
}

// refused reports an error that does not say what is wrong.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("it is %v, want %q", err, want)
	}
}

// Each duration of the limits without a unit is refused by whatever takes options, before
// anything is connected, listened to or started.
func TestLimitsWithoutUnitAreRefused(t *testing.T) {
	names := durations[rpcx.Limits]()
	if len(names) < 11 {
		t.Fatalf("there are only the durations %q", names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			opts := &rpcx.Options{}
			setDuration(&opts.Limits, name, 30)
			want := "Limits." + name + " is 30ns: write 30*time.Second"
			d := rpcx.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
				t.Error("it is dialled")
				return nil, errors.New("not here")
			}}
			_, err := d.Dial(t.Context(), "tcp://localhost:1", opts)
			refused(t, err, want)
			_, err = rpcx.Command(t.Context(), exec.Command("cat"), opts)
			refused(t, err, want)
			_, err = rpcx.DialMessageSession(func() (rpcx.MessageConn, error) {
				t.Error("it is connected")
				return nil, errors.New("not here")
			}, opts)
			refused(t, err, want)

			refusedByServer(t, &rpcx.Server{Options: *opts}, want)
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			for function, call := range map[string]func(){
				"NewSession":        func() { rpcx.NewSession(near, opts) },
				"NewMessageSession": func() { rpcx.NewMessageSession(messageEnd(), opts) },
				"Pipe":              func() { rpcx.Pipe(nil, opts) },
				"Pipe's client":     func() { rpcx.Pipe(opts, nil) },
				"ServeConn":         func() { (&rpcx.Server{Options: *opts}).ServeConn(near) },
			} {
				func() {
					defer func() {
						if text, _ := recover().(string); text != "rpcx: "+want {
							t.Errorf("%s panics with %q", function, text)
						}
					}()
					call()
				}()
			}
		})
	}
}

// refusedByServer reports it if a function that serves does not return the error.
func refusedByServer(t *testing.T, srv *rpcx.Server, want string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, srv.Serve(l), want)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
	refused(t, srv.ServeContext(t.Context(), l), want)
	file := filepath.Join(t.TempDir(), "s")
	refused(t, srv.ListenAndServe(t.Context(), "unix://"+file), want)
}

func TestServerDurationsWithoutUnitAreRefused(t *testing.T) {
	names := durations[rpcx.Server]()
	if len(names) < 3 {
		t.Fatalf("there are only the durations %q", names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			srv := &rpcx.Server{}
			setDuration(srv, name, 5000)
			refusedByServer(t, srv, "Server."+name+" is 5µs: a duration is at least 1ms, with its unit, such as 30*time.Second")
		})
	}
}

func TestDialerTimeoutWithoutUnitIsRefused(t *testing.T) {
	d := rpcx.Dialer{Timeout: 10, DialContext: func(context.Context, string, string) (net.Conn, error) {
		t.Error("it is dialled")
		return nil, errors.New("not here")
	}}
	_, err := d.Dial(t.Context(), "tcp://localhost:1", nil)
	refused(t, err, "dial tcp://localhost:1: Dialer.Timeout is 10ns: write 10*time.Second")
	_, err = d.Connect(t.Context(), "tcp://localhost:1")
	refused(t, err, "dial tcp://localhost:1: Dialer.Timeout is 10ns: write 10*time.Second")
}

// Durations that mean something are taken: a millisecond, and below zero "off".
func TestDurationsThatAreTaken(t *testing.T) {
	for _, name := range durations[rpcx.Limits]() {
		for _, d := range []time.Duration{-1, time.Millisecond} {
			opts := &rpcx.Options{}
			setDuration(&opts.Limits, name, d)
			a, b := rpcx.Pipe(opts, opts)
			a.Close()
			b.Close()
			<-a.Done()
			<-b.Done()
		}
	}
}

func TestDialMessageSession(t *testing.T) {
	failure := errors.New("nobody is there")
	for name, c := range map[string]struct {
		conn rpcx.MessageConn
		err  error
		want string
	}{
		"an error":               {nil, failure, failure.Error()},
		"nothing":                {nil, nil, "connect returned neither a connection nor an error"},
		"a pointer that is nil ": {(*messagePipe)(nil), nil, "connect returned neither a connection nor an error"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return c.conn, c.err }, nil)
			if s != nil || err == nil || err.Error() != c.want {
				t.Errorf("it returns %v, %v", s, err)
			}
		})
	}
	wrapped := 0
	opts := &rpcx.Options{Middleware: []func(rpcx.Handler) rpcx.Handler{func(h rpcx.Handler) rpcx.Handler { wrapped++; return h }}}
	s, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return messageEnd(), nil }, opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	<-s.Done()
	if wrapped != 1 {
		t.Errorf("the middleware is wrapped %d times", wrapped)
	}
}

// messageEnd returns a connection whose peer is silent.
func messageEnd() rpcx.MessageConn {
	near, _ := newMessagePipe()
	return near
}
