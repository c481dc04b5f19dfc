package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"example.com/rpcx"
)

// Roles of the other processes: the first argument of the command line.
const (
	serverRole  = "server"
	hostileRole = "hostile"
	targetRole  = "target"

	hubServerRole  = "hub-server"
	hubClientsRole = "hub-clients"

	returnServerRole  = "return-server"
	returnClientsRole = "return-clients"
)

// process is another process of this program, with a session. Either side may call the
// other.
type process struct {
	*rpcx.Session
	role string
	cmd  *exec.Cmd
}

// start starts a process. handler handles the calls of the process.
func start(role string, handler rpcx.Handler) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := []string{program, role}
	if nice, err := exec.LookPath("nice"); err == nil && role == hostileRole {
		command = append([]string{nice, "-n", "19"}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
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
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	s := rpcx.NewSession(stdio{stdout, stdin}, &rpcx.Options{Handler: handler, Limits: patient})
	return &process{s, role, cmd}, nil
}

// stop ends the process, waits for the end, and joins a failure of the process with err.
func (p *process) stop(err error) error {
	p.Close()
	<-p.Done()
	if failed := p.cmd.Wait(); failed != nil {
		err = errors.Join(err, fmt.Errorf("the %s: %w", p.role, failed))
	}
	return err
}

// kill ends the process at once, and waits for the end.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.Done()
	_ = p.cmd.Wait() // says that the process was killed
	return nil
}

// control returns the session of a child process with the parent. The session ends when
// the parent does. With a Concurrency of 1, the session has at most one goroutine more
// than at the beginning.
func control(handler rpcx.Handler) *rpcx.Session {
	limits := patient
	limits.Concurrency = 1
	return rpcx.NewSession(stdio{os.Stdin, os.Stdout}, &rpcx.Options{
		Handler: handler,
		Limits:  limits,
	})
}

// patient holds limits that let calls between processes take any time.
var patient = rpcx.Limits{RequestTimeout: -1, ProcessingTimeout: -1}

// stdio joins two pipes to a connection.
type stdio struct {
	io.ReadCloser
	out io.WriteCloser
}

func (c stdio) Write(p []byte) (int, error) { return c.out.Write(p) }

func (c stdio) Close() error { return errors.Join(c.out.Close(), c.ReadCloser.Close()) }
