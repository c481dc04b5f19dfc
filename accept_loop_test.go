package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// Listeners that cannot be compared, or be the key of a map.
type (
	listWithSlice struct {
		*memory
		names []string
	}
	listWithFunc struct {
		net.Listener
		log func()
	}
	listOfOne [1]any
)

func (l listOfOne) Accept() (net.Conn, error) { return l[0].([]*memory)[0].Accept() }
func (l listOfOne) Close() error              { return l[0].([]*memory)[0].Close() }
func (l listOfOne) Addr() net.Addr            { return l[0].([]*memory)[0].Addr() }

func TestServeTakesListenersThatCannotBeCompared(t *testing.T) {
	for name, listener := range map[string]func(*memory) net.Listener{
		"a struct with a slice":     func(m *memory) net.Listener { return listWithSlice{memory: m} },
		"a struct with a function":  func(m *memory) net.Listener { return listWithFunc{m, func() {}} },
		"an array that holds slice": func(m *memory) net.Listener { return listOfOne{[]*memory{m}} },
		"one in another":            func(m *memory) net.Listener { return listWithFunc{listWithSlice{memory: m}, nil} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
				m := newMemory()
				served := make(chan error, 2)
				for range 2 { // two calls with one listener are two
					go func() { served <- srv.Serve(listener(m)) }()
				}
				w := m.connect(t)
				w.say(ask("reply", 1))
				w.expect(answered("null", 1))
				srv.Close()
				srv.Wait()
				for range 2 {
					if err := <-served; err != rpcx.ErrServerClosed {
						t.Errorf("Serve returns %v", err)
					}
				}
				<-m.closed
				if err := srv.Serve(listener(m)); err != rpcx.ErrServerClosed {
					t.Errorf("after the end, Serve returns %v", err)
				}
			})
		})
	}
}

func TestStoppingDoesNotWaitForTheNextAccept(t *testing.T) {
	for name, stop := range map[string]func(*rpcx.Server){
		"StopListening": (*rpcx.Server).StopListening,
		"Close":         func(srv *rpcx.Server) { srv.Close() },
		"Shutdown": func(srv *rpcx.Server) {
			if err := srv.Shutdown(context.Background()); err != nil {
				panic(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{}
				m, served := newServer(t, srv)
				for range 9 { // until it is a second
					m.errs <- passing{}
				}
				synctest.Wait()
				takes(t, 0, func() {
					stop(srv)
					srv.Wait()
				})
				if err := <-served; err != rpcx.ErrServerClosed {
					t.Errorf("Serve returns %v", err)
				}
			})
		})
	}
}

// denying is an error that says that it does not pass.
type denying struct{ error }

func (denying) Temporary() bool { return false }
func (d denying) Unwrap() error { return d.error }

func TestErrorsOfAcceptThatPass(t *testing.T) {
	for name, err := range map[string]error{
		"as it is":         passing{},
		"wrapped":          fmt.Errorf("accept: %w", passing{}),
		"wrapped twice":    fmt.Errorf("accept: %w", fmt.Errorf("limit: %w", passing{})),
		"one of several":   fmt.Errorf("%w, %w", io.ErrNoProgress, passing{}),
		"joined":           errors.Join(io.ErrNoProgress, passing{}),
		"of an OpError":    &net.OpError{Op: "accept", Err: passing{}},
		"wrapped there":    &net.OpError{Op: "accept", Err: fmt.Errorf("limit: %w", passing{})},
		"an OpError in it": fmt.Errorf("limit: %w", &net.OpError{Op: "accept", Err: passing{}}),
	} {
		t.Run(name, func(t *testing.T) { serveSurvives(t, err) })
	}
}

// serveSurvives tests that a server goes on after an error of Accept.
func serveSurvives(t *testing.T, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		srv.Options.Logger = slog.New(log)
		m, served := newServer(t, srv)
		takes(t, 5*time.Millisecond, func() {
			m.errs <- err
			select {
			case m.conns <- newHungUp(t):
			case err := <-served:
				t.Errorf("Serve returns %v", err)
			}
		})
		synctest.Wait()
		if got := log.take(); len(got) == 0 || got[0] != "WARN accept failed" {
			t.Errorf("logged: %q", got)
		}
	})
}

// newHungUp returns a connection whose peer has hung up.
func newHungUp(t *testing.T) net.Conn {
	near, far := net.Pipe()
	far.Close()
	t.Cleanup(func() { near.Close() })
	return near
}

func TestErrorsOfAcceptThatEndServe(t *testing.T) {
	for name, err := range map[string]error{
		"closed":                    net.ErrClosed,
		"closed, wrapped":           &net.OpError{Op: "accept", Err: net.ErrClosed},
		"closed, and another":       errors.Join(passing{}, net.ErrClosed),
		"nothing known":             errors.New("the network is down"),
		"the end":                   io.EOF,
		"one that denies":           denying{io.EOF},
		"one that denies another's": denying{passing{}},
		"denied, wrapped":           fmt.Errorf("accept: %w", denying{passing{}}),
	} {
		t.Run(name, func(t *testing.T) { serveEnds(t, err) })
	}
}

// serveEnds tests that Serve returns an error of Accept.
func serveEnds(t *testing.T, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		m, served := newServer(t, srv)
		m.errs <- err
		synctest.Wait()
		select {
		case got := <-served:
			if fmt.Sprint(got) != fmt.Sprint(err) {
				t.Errorf("Serve returns %v", got)
			}
		default:
			t.Error("Serve goes on")
		}
	})
}
