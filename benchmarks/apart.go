package benchmarks

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// A process of its own is this program once more, with its task in an environment
// variable. It has two uses: a server that is not in the client's process, and the
// memory of idle sessions, which what other peers left behind would change.

// apartEnv is the variable's name.
const apartEnv = "RPC_BENCHMARK_TASK"

// apartTask is the variable's value, as JSON.
type apartTask struct {
	Peer          string
	Idle          int // sessions to measure; 0 to serve
	Callers, Size int // of the load to serve
}

// RunApart does the task and exits if the process was started for one. Every
// program that measures must call RunApart first in main.
func RunApart() {
	env := os.Getenv(apartEnv)
	if env == "" {
		return
	}
	if err := runApart(env); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runApart(env string) error {
	var task apartTask
	if err := json.Unmarshal([]byte(env), &task); err != nil {
		return err
	}
	peers, err := FindPeers(task.Peer)
	if err != nil {
		return err
	}
	if task.Idle == 0 {
		return serveApart(peers[0], Load{Callers: task.Callers, Size: task.Size, Notified: func() {}})
	}
	s, err := MeasureIdle(context.Background(), peers[0], task.Idle)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// serveApart writes the server's address to the standard output, and ends at the
// end of the standard input, so that the process never outlives its parent.
func serveApart(peer Peer, load Load) error {
	server, err := peer.Start(load)
	if err != nil {
		return err
	}
	fmt.Println(server.Addr())
	io.Copy(io.Discard, os.Stdin)
	return server.Close()
}

// command returns this program with a task.
func (task apartTask) command() (*exec.Cmd, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	env, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), apartEnv+"="+string(env))
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// MeasureIdleApart is [MeasureIdle] in a process of its own.
func MeasureIdleApart(peer Peer, sessions int) (s IdleSample, err error) {
	cmd, err := apartTask{Peer: peer.Name, Idle: sessions}.command()
	if err != nil {
		return s, err
	}
	out, err := cmd.Output()
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(out, &s)
}

// apartServer is the parent's end of a server in a process of its own.
type apartServer struct {
	cmd   *exec.Cmd
	stdin io.Closer
	addr  net.Addr
}

func startApart(peer Peer, load Load) (Server, error) {
	cmd, err := apartTask{Peer: peer.Name, Callers: load.Callers, Size: load.Size}.command()
	if err != nil {
		return nil, err
	}
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
