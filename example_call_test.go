package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/rpcx"
)

// The result's type is the type argument.
func ExampleCall() {
	s, end := examplePipe()
	defer end()

	sum, err := rpcx.Call[float64](context.Background(), s, "sum", rpcx.Args{1, 2, 3.5})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(sum)
	// Output: 6.5
}

// Arguments by position.
func ExampleSession_Call() {
	s, end := examplePipe()
	defer end()

	var reply string
	err := s.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, &reply)
	fmt.Println(reply, err)
	// Output: Howdy <nil>
}

// Arguments by name, from a map or from a struct.
func ExampleSession_Call_named() {
	s, end := examplePipe()
	defer end()

	var reply string
	err := s.Call(context.Background(), "echo", map[string]any{"message": "from a map"}, &reply)
	fmt.Println(reply, err)

	type args struct {
		Message string `json:"message"`
	}
	err = s.Call(context.Background(), "echo", args{"from a struct"}, &reply)
	fmt.Println(reply, err)
	// Output:
	// from a map <nil>
	// from a struct <nil>
}

// The context bounds a call; where it has no deadline, Limits.RequestTimeout does. So a
// long poll is a call with a deadline that is far away. The server must allow as much:
// its Limits.ProcessingTimeout, 30 s by default, bounds the handler.
func ExampleSession_Call_timeout() {
	rain := make(chan bool)
	router := rpcx.NewRouter()
	router.Handle("news", rpcx.Func(func(ctx context.Context) (string, error) {
		select {
		case <-rain:
			return "it rains", nil
		case <-ctx.Done(): // the session ends, or Limits.ProcessingTimeout has passed
			return "", ctx.Err()
		}
	}))
	s, server := rpcx.Pipe(
		&rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 10 * time.Millisecond}},
		&rpcx.Options{Handler: router, Limits: rpcx.Limits{ProcessingTimeout: time.Hour}},
	)
	defer server.Close()
	defer s.Close()

	hour, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	poll := s.Go(hour, "news", nil)

	err := s.Call(context.Background(), "news", nil, nil)
	fmt.Println(err)
	fmt.Println(errors.Is(err, rpcx.ErrTimeout), errors.Is(err, context.DeadlineExceeded))

	close(rain)
	var news string
	err = poll.Wait(context.Background(), &news)
	fmt.Println(news, err)
	// Output:
	// rpcx: request timed out (Limits.RequestTimeout)
	// true true
	// it rains <nil>
}

// Go does not wait for the reply, so any number of calls may be under way.
func ExampleSession_Go() {
	s, end := examplePipe()
	defer end()
	ctx := context.Background()

	var futures []*rpcx.Future
	for i := range 3 {
		futures = append(futures, s.Go(ctx, "sum", rpcx.Args{i, i}))
	}
	for _, f := range futures {
		var sum float64
		err := f.Wait(ctx, &sum)
		fmt.Println(sum, err)
	}
	// Output:
	// 0 <nil>
	// 2 <nil>
	// 4 <nil>
}

// A future can be waited for with a context, in a select, or by a callback.
func ExampleFuture() {
	s, end := examplePipe()
	defer end()

	f := s.Go(context.Background(), "echo", rpcx.Args{"later"})
	called := make(chan struct{})
	f.OnDone(func(f *rpcx.Future) {
		fmt.Println("called back:", f.Err())
		close(called)
	})
	<-called

	select {
	case <-f.Done():
		var reply string
		err := f.Decode(&reply)
		fmt.Println(reply, err)
	case <-time.After(time.Minute):
		f.Cancel()
	}
	// Output:
	// called back: <nil>
	// later <nil>
}

// A call that is cancelled ends at once. The peer is not told.
func ExampleFuture_Cancel() {
	release := make(chan struct{})
	router := rpcx.NewRouter()
	router.Handle("wait", rpcx.Func(func(ctx context.Context) error {
		<-release
		return nil
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	defer close(release)

	f := s.Go(context.Background(), "wait", nil)
	fmt.Println(f.Err(), f.Decode(nil)) // it is not over
	f.Cancel()
	fmt.Println(f.Wait(context.Background(), nil))
	fmt.Println(errors.Is(f.Err(), rpcx.ErrCancelled), errors.Is(f.Err(), context.Canceled))
	// Output:
	// <nil> rpcx: not done
	// rpcx: call cancelled
	// true true
}

// A notification is not answered. What was notified before Close is still written.
func ExampleSession_Notify() {
	heard := make(chan string)
	router := rpcx.NewRouter()
	router.Handle("log", rpcx.Func(func(ctx context.Context, line string) error {
		heard <- line
		return nil
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()

	fmt.Println(s.Notify(context.Background(), "log", rpcx.Args{"it rains"}))
	fmt.Println(<-heard)
	s.Close()
	// Output:
	// <nil>
	// it rains
}

// Batches.

// The results of a batch go where Call was told; SendBatch fills them in.
func ExampleBatch() {
	s, end := examplePipe()
	defer end()

	var b rpcx.Batch
	var reply string
	var sum float64
	b.Call("echo", rpcx.Args{"Me again"}, &reply)
	b.Call("sum", rpcx.Args{1, 2}, &sum)
	b.Notify("echo", rpcx.Args{"not answered"})
	fmt.Println(b.Len(), "in one message")

	err := s.SendBatch(context.Background(), &b)
	fmt.Println(reply, sum, err)
	// Output:
	// 3 in one message
	// Me again 3 <nil>
}

// Of a batch, some calls may fail and others not.
func ExampleSession_SendBatch() {
	s, end := examplePipe()
	defer end()

	var b rpcx.Batch
	var reply string
	good := b.Call("echo", rpcx.Args{"good"}, &reply)
	bad := b.Call("nope", nil, nil)
	err := s.SendBatch(context.Background(), &b)

	fmt.Println(err)
	fmt.Println(errors.Is(err, rpcx.ErrMethodNotFound)) // some call failed with it
	fmt.Println(reply, good.Err())
	fmt.Println(bad.Err())
	// Output:
	// 1 of 2 batch requests failed, the first, number 2: unknown method "nope" (code -32601)
	// true
	// good <nil>
	// unknown method "nope" (code -32601)
}

// GoBatch does not wait. The batch has a future, and so has each call in it.
func ExampleSession_GoBatch() {
	s, end := examplePipe()
	defer end()
	ctx := context.Background()

	var b rpcx.Batch
	var sum float64
	item := b.Call("sum", rpcx.Args{4, 5}, &sum)
	whole := s.GoBatch(ctx, &b)

	fmt.Println(item.Wait(ctx, nil), sum) // fills sum
	fmt.Println(whole.Wait(ctx, nil))
	// Output:
	// <nil> 9
	// <nil>
}

// A notification behind a reply can be handled before Call returns. A handler that has to
// know the result waits for the future, which is done by then.
func ExampleFuture_Wait_order() {
	feed := rpcx.NewRouter()
	feed.Handle("subscribe", rpcx.Func(func() int { return 7 }))
	feed.Handle("publish", rpcx.Func(func(ctx context.Context, s *rpcx.Session, text string) error {
		return s.Notify(ctx, "news", rpcx.Args{7, text})
	}))

	subscribed, handled := make(chan *rpcx.Future, 1), make(chan bool)
	router := rpcx.NewRouter()
	router.Handle("news", rpcx.Func(func(ctx context.Context, number int, text string) error {
		defer close(handled)
		f := <-subscribed
		subscribed <- f // for the next
		var own int
		err := f.Wait(ctx, &own)
		fmt.Println(text, number == own, err)
		return err
	}))
	s, server := rpcx.Pipe(&rpcx.Options{Handler: router}, &rpcx.Options{Handler: feed, Order: rpcx.Sequential})
	defer server.Close()
	defer s.Close()

	ctx := context.Background()
	subscribed <- s.Go(ctx, "subscribe", nil)
	if err := s.Notify(ctx, "publish", rpcx.Args{"it rains"}); err != nil {
		fmt.Println(err)
		return
	}
	<-handled
	// Output: it rains true <nil>
}
