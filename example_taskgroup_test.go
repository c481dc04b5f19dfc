package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"example.com/rpcx"
)

// Happy eyeballs: all addresses are dialled, the first connection wins, and the
// others are given up. A task that cannot connect returns nil, and no error, for
// an error would end the race; connections that come too late are closed.
func ExampleTaskGroup_happyEyeballs() {
	ctx := context.Background()
	dial := func(ctx context.Context, addr string, takes time.Duration) (net.Conn, error) {
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

	g := rpcx.NewTaskGroup[net.Conn](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitFirst})
	addresses := map[string]time.Duration{"[2001:db8::1]:80": 0, "192.0.2.1:80": 10 * time.Millisecond, "192.0.2.2:80": time.Hour}
	winner := make(chan string, len(addresses))
	for addr, takes := range addresses {
		g.Go(func(ctx context.Context) (net.Conn, error) {
			conn, err := dial(ctx, addr, takes)
			if err != nil {
				return nil, nil
			}
			winner <- addr
			return conn, nil
		})
	}
	if err := g.Join(ctx); err != nil {
		fmt.Println(err)
		return
	}
	won, err := g.Result()
	if err != nil {
		fmt.Println(err) // rpcx.ErrNoTaskCompleted if none could connect
		return
	}
	defer won.Close()
	for task := range g.All(ctx) { // those that Join did not wait for
		if late, _ := task.Result(); late != nil {
			late.Close()
		}
	}
	fmt.Println("connected to", <-winner)
	// Output:
	// connected to 192.0.2.1:80
}

// Fan-out: many tasks, a few at a time, and results as they come.
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

// Daemons serve the other tasks in the background, and end with them.
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

// A deadline around a group: its tasks have that long, all together.
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

// A deadline that is no error: what there is by then is enough.
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

// A task that was started elsewhere joins a group.
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
