package benchmarks

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// A server in a process of its own is this program once more, with what to serve
// in an environment variable. It writes its address to the standard output, and
// ends at the end of its standard input, so that it never outlives its parent.

// apartEnv is the variable's name.
const apartEnv = "RPC_BENCHMARK_SERVER"

// apartServe is the variable's value, as JSON.
type apartServe struct {
	Peer          string
	Callers, Size int
}

// ServeApart serves and exits if the process was started as a server. It must be
// called first in main of every program that measures.
func ServeApart() {
	env := os.Getenv(apartEnv)
	if env == "" {
		return
	}
	if err := serveApart(env); err != nil {
		fmt.Fprintln(os.Stderr, "server apart:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveApart(env string) error {
	var serve apartServe
	if err := json.Unmarshal([]byte(env), &serve); err != nil {
		return err
	}
	peers, err := FindPeers(serve.Peer)
	if err != nil {
		return err
	}
	server, err := peers[0].Start(Load{Callers: serve.Callers, Size: serve.Size, Notified: func() {}})
	if err != nil {
		return err
	}
	fmt.Println(server.Addr())
	io.Copy(io.Discard, os.Stdin)
	return server.Close()
}

// apartServer is the parent's end of a server in a process of its own.
type apartServer struct {
	cmd   *exec.Cmd
	stdin io.Closer
	addr  net.Addr
}

func startApart(peer Peer, load Load) (Server, error) {
	env, err := json.Marshal(apartServe{peer.Name, load.Callers, load.Size})
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), apartEnv+"="+string(env))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := apartServer{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		s.addr, err = net.ResolveTCPAddr("tcp", strings.TrimSpace(line))
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("starting a server apart: %w", err)
	}
	return s, nil
}

func (s apartServer) Addr() net.Addr { return s.addr }

func (s apartServer) Close() error {
	s.stdin.Close()
	return s.cmd.Wait()
}
