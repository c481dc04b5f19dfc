package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"time"

	"example.com/rpcx"

	"golang.org/x/sync/errgroup"
)

// firstAnswer asks all servers at once, and returns the first answer. Servers that are
// down do not matter, unless all are: then the error has the error of each.
func firstAnswer(ctx context.Context, addrs ...string) (float64, error) {
	g := rpcx.NewTaskGroup[float64](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess})
	err := g.Do(ctx, func(context.Context) error {
		for _, addr := range addrs {
			g.Go(func(ctx context.Context) (float64, error) {
				s, err := rpcx.Dial(ctx, addr, nil)
				if err != nil {
					return 0, err
				}
				defer s.Close()
				return rpcx.Call[float64](ctx, s, "sum", rpcx.Args{1, 2})
			})
		}
		return nil
	})
	if err != nil {
		return 0, err // the cause of ctx
	}
	return g.Result()
}

// The first answer of three servers, one of which is down.
func ExampleTaskGroup_firstAnswer() {
	ctx := context.Background()
	srv := &rpcx.Server{Options: rpcx.Options{Handler: exampleMethods()}}
	var serving errgroup.Group
	var addrs []string
	for i := range 3 {
		l, err := rpcx.Listen(ctx, "tcp://127.0.0.1:0", nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		addrs = append(addrs, "tcp://"+l.Addr().String())
		if i == 0 {
			l.Close() // the server that is down
			continue
		}
		serving.Go(func() error { return srv.Serve(l) })
	}
	fmt.Println(firstAnswer(ctx, addrs...))

	fmt.Println(srv.Shutdown(ctx))
	fmt.Println(serving.Wait())
	// Output:
	// 3 <nil>
	// <nil>
	// rpcx: server closed
}

// If all servers are down, the error has the error of each of them.
func ExampleTaskGroup_allDown() {
	ctx := context.Background()
	_, err := firstAnswer(ctx, "unix:///nonexistent/a", "unix:///nonexistent/b", "unix:///nonexistent/c")
	fmt.Println(errors.Is(err, rpcx.ErrNoTaskCompleted))
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	lines := strings.Split(err.Error(), "\n") // errors.Join has an error on each line
	slices.Sort(lines[1:])
	fmt.Println(strings.Join(lines, "\n"))
	// Output:
	// true
	// true
	// rpcx: no task completed
	// dial unix:///nonexistent/a: dial unix /nonexistent/a: connect: no such file or directory
	// dial unix:///nonexistent/b: dial unix /nonexistent/b: connect: no such file or directory
	// dial unix:///nonexistent/c: dial unix /nonexistent/c: connect: no such file or directory
}

// With a limit of one, servers are asked in turn until one has answered.
func ExampleTaskGroup_Failures() {
	ctx := context.Background()
	g := rpcx.NewTaskGroup[string](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess, Limit: 1})
	for _, server := range []string{"first", "second", "third", "fourth"} {
		g.Go(func(context.Context) (string, error) {
			if server == "third" {
				return "answer of the third", nil
			}
			return "", fmt.Errorf("the %s is down", server)
		})
	}
	fmt.Println(g.Join(ctx))
	fmt.Println(g.Result())
	fmt.Println(g.Failures())
	// Output:
	// <nil>
	// answer of the third <nil>
	// [the first is down the second is down]
}

// A deadline for the first answer of many servers, two of which are asked at once. The
// group is made inside TimeoutAfter, with the context of that.
func ExampleTaskGroup_deadline() {
	ask := func(ctx context.Context, server string) (string, error) {
		switch server {
		case "down":
			return "", errors.New("connection refused")
		case "silent":
			<-ctx.Done()
			return "", context.Cause(ctx)
		}
		return "answer of " + server, nil
	}
	first := func(servers ...string) {
		var answer string
		var failures []error
		err := rpcx.TimeoutAfter(context.Background(), time.Second, func(ctx context.Context) error {
			g := rpcx.NewTaskGroup[string](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess, Limit: 2})
			for _, server := range servers {
				g.Go(func(ctx context.Context) (string, error) { return ask(ctx, server) })
			}
			err := g.Join(ctx) // the deadline's, or nil
			if err == nil {
				answer, err = g.Result() // the errors of all if none has answered
			}
			failures = g.Failures()
			return err
		})
		fmt.Printf("%q %v %q\n", answer, err, failures[0])
	}
	first("silent", "down", "good")   // the silent one is cancelled, and no failure
	first("silent", "down", "silent") // those that the deadline ends can be failures
	// Output:
	// "answer of good" <nil> "connection refused"
	// "" task timed out after 1s "connection refused"
}

// Happy eyeballs: all addresses are dialled, the first connection is used, and the other
// attempts are cancelled. Connections that come too late are closed.
func ExampleTaskGroup_happyEyeballs() {
	ctx := context.Background()
	dial := func(ctx context.Context, takes time.Duration) (net.Conn, error) {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if takes == 0 {
			return nil, errors.New("connection refused")
		}
		conn, peer := net.Pipe() // in place of a net.Dialer
		peer.Close()
		return conn, nil
	}

	g := rpcx.NewTaskGroup[net.Conn](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess})
	addresses := map[string]time.Duration{"[2001:db8::1]:80": 0, "192.0.2.1:80": 10 * time.Millisecond, "192.0.2.2:80": time.Hour}
	names := make(map[*rpcx.Task[net.Conn]]string)
	for addr, takes := range addresses {
		task := g.Go(func(ctx context.Context) (net.Conn, error) { return dial(ctx, takes) })
		names[task] = addr
	}
	if err := g.Join(ctx); err != nil {
		fmt.Println(err)
		return
	}
	conn, err := g.Result()
	if err != nil {
		fmt.Println(err) // no address could be connected to
		return
	}
	defer conn.Close()
	for task := range g.All(ctx) { // the tasks that Join has cancelled
		if late, err := task.Result(); err == nil {
			late.Close()
		}
	}
	fmt.Println("connected to", names[g.Completed()])
	// Output:
	// connected to 192.0.2.1:80
}

// Fan-out: many tasks, of which a few run at once, and results as the tasks finish.
func ExampleTaskGroup_fanOut() {
	ctx := context.Background()
	g := rpcx.NewTaskGroup[string](ctx, &rpcx.TaskGroupOptions{Limit: 2})
	last := make(chan struct{})
	err := g.Do(ctx, func(ctx context.Context) error {
		for _, name := range []string{"slow", "quick", "broken"} {
			g.Go(func(context.Context) (string, error) {
				switch name {
				case "slow":
					<-last
				case "broken":
					return "", errors.New("out of order")
				}
				return strings.ToUpper(name), nil
			})
		}
		for task := range g.All(ctx) {
			if result, err := task.Result(); err != nil {
				fmt.Println("error:", err)
				close(last)
			} else {
				fmt.Println(result)
			}
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// QUICK
	// error: out of order
	// SLOW
	// <nil>
}

// Daemons serve the other tasks in the background. Join cancels the daemons when the other
// tasks have finished.
func ExampleTaskGroup_GoDaemon() {
	ctx := context.Background()
	jobs := make(chan string)
	g := rpcx.NewTaskGroup[int](ctx, nil)
	daemon := g.GoDaemon(func(ctx context.Context) (int, error) {
		for {
			select {
			case job := <-jobs:
				fmt.Println("wrote", job)
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		}
	})
	g.Go(func(context.Context) (int, error) {
		jobs <- "one"
		jobs <- "two"
		return 2, nil
	})
	if err := g.Join(ctx); err != nil {
		fmt.Println(err)
	}
	n, err := g.Result()
	fmt.Println(n, err)
	fmt.Println("the daemon:", daemon.Err())
	// Output:
	// wrote one
	// wrote two
	// 2 <nil>
	// the daemon: rpcx: task cancelled
}

// A deadline around a group: all tasks together have 100 ms.
func ExampleTimeoutAfter() {
	err := rpcx.TimeoutAfter(context.Background(), 100*time.Millisecond, func(ctx context.Context) error {
		g := rpcx.NewTaskGroup[string](ctx, nil)
		for _, takes := range []time.Duration{0, time.Hour} {
			g.Go(func(ctx context.Context) (string, error) {
				select {
				case <-time.After(takes):
					return "done", nil
				case <-ctx.Done():
					return "", context.Cause(ctx)
				}
			})
		}
		err := g.Join(ctx)
		fmt.Println(g.Result()) // of the first to finish
		return err
	})
	var timeout *rpcx.TaskTimeout
	fmt.Println(errors.As(err, &timeout), err)
	// Output:
	// done <nil>
	// true task timed out after 100ms
}

// A deadline that is no error: the results until then are enough.
func ExampleIgnoreAfter() {
	var found []int
	expired, err := rpcx.IgnoreAfter(context.Background(), 100*time.Millisecond, func(ctx context.Context) error {
		for i := 0; ; i++ {
			select {
			case <-time.After(time.Duration(i*i) * time.Second):
				found = append(found, i)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	fmt.Println(found, expired, err)
	// Output:
	// [0] true <nil>
}

// Add puts a task that was started without a group into a group.
func ExampleTaskGroup_Add() {
	ctx := context.Background()
	task := rpcx.StartTask(ctx, func(context.Context) (string, error) { return "here", nil })

	g := rpcx.NewTaskGroup[string](ctx, nil)
	if err := g.Add(task); err != nil {
		fmt.Println(err)
	}
	fmt.Println(g.NextResult(ctx))
	fmt.Println(g.NextResult(ctx))
	fmt.Println(g.Join(ctx), g.Add(task))
	// Output:
	// here <nil>
	//  rpcx: no tasks remain
	// <nil> rpcx: task is in a group already
}
