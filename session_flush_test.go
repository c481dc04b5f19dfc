package rpcx_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
)

// Variables of the program notifier.
const (
	addrVariable = "RPCX_TEST_ADDR"
	sizeVariable = "RPCX_TEST_SIZE"
)

func init() {
	// The commonest program: it says what it has to say and ends.
	programs["notifier"] = func() {
		size := 0
		fmt.Sscan(os.Getenv(sizeVariable), &size)
		var s *rpcx.Session
		if addr := os.Getenv(addrVariable); addr == "stdio" {
			s = rpcx.NewSession(rpcx.Stdio(), nil)
		} else {
			var err error
			d := rpcx.Dialer{TLS: &tls.Config{InsecureSkipVerify: true}}
			if s, err = d.Dial(context.Background(), addr, nil); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		defer s.Close()
		for i := range 3 {
			s.Notify(context.Background(), "note", rpcx.Args{i, strings.Repeat("x", size)})
		}
	}
}

// A program that notifies and closes has sent all of it when it ends.
func TestCloseWritesWhatFits(t *testing.T) {
	serverTLS, _ := certificate(t)
	for name, listen := range map[string]func(t *testing.T) (net.Listener, string){
		"TCP": func(t *testing.T) (net.Listener, string) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return l, "tcp://" + l.Addr().String()
		},
		"unix": func(t *testing.T) (net.Listener, string) {
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			return l, "unix://" + path
		},
		"TLS": func(t *testing.T) (net.Listener, string) {
			l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
			if err != nil {
				t.Fatal(err)
			}
			return l, "tls://" + l.Addr().String()
		},
		"standard output": func(*testing.T) (net.Listener, string) { return nil, "stdio" },
	} {
		for _, size := range []int{0, 5000} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				l, addr := listen(t)
				if l != nil {
					defer l.Close()
				}
				for range childRuns() {
					cmd := program(t, "notifier")
					cmd.Env = append(cmd.Env, addrVariable+"="+addr, fmt.Sprint(sizeVariable, "=", size))
					heard := make(chan int, 1)
					count := func(lines *bufio.Scanner) {
						n := 0
						for lines.Scan() {
							n++
						}
						heard <- n
					}
					if l == nil {
						stdin, err := cmd.StdinPipe()
						if err != nil {
							t.Fatal(err)
						}
						defer stdin.Close()
						out, err := cmd.Output()
						if err != nil {
							t.Fatal(err)
						}
						heard <- strings.Count(string(out), "\n")
					} else {
						go func() {
							conn, err := l.Accept()
							if err != nil {
								heard <- 0
								return
							}
							defer conn.Close()
							count(bufio.NewScanner(conn))
						}()
						if out, err := cmd.CombinedOutput(); err != nil {
							t.Fatalf("%v: %s", err, out)
						}
					}
					if n := <-heard; n != 3 {
						t.Fatalf("%d of 3 notifications arrived", n)
					}
				}
			})
		}
	}
}

// Close does not wait for a peer that does not read, whatever is queued.
func TestCloseDoesNotWaitForThePeer(t *testing.T) {
	for name, pair := range map[string]func(t *testing.T) (near, far net.Conn){
		"TCP": func(t *testing.T) (near, far net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") },
		"TLS": func(t *testing.T) (net.Conn, net.Conn) {
			near, far := tlsPair(t)
			go far.Handshake()
			if err := near.Handshake(); err != nil {
				t.Fatal(err)
			}
			return near, far
		},
		"pipe": func(*testing.T) (near, far net.Conn) { return net.Pipe() },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t)
			defer far.Close()
			s := rpcx.NewSession(near, &rpcx.Options{Limits: rpcx.Limits{Outbox: 64 << 20}})
			for range 40 { // beyond what the buffers of the system hold
				if err := s.Notify(t.Context(), "note", rpcx.Args{strings.Repeat("x", 500_000)}); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			s.Close()
			if took := time.Since(began); took > 700*time.Millisecond { // of a second until it is given up
				t.Errorf("Close took %v", took)
			}
			<-s.Done()
		})
	}
}
