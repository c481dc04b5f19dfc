package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"example.com/rpcx"
)

// Calculator is what the server exposes: an interface of Go's.
type Calculator interface {
	Add(ctx context.Context, a, b int) (int, error)
	Divide(ctx context.Context, a, b float64) (float64, error)
}

// CalculatorClient is the same for those who call it. Its functions are filled in.
type CalculatorClient struct {
	Add    func(ctx context.Context, a, b int) (int, error)
	Divide func(ctx context.Context, a, b float64) (float64, error)
}

type calculator struct{ secret int }

func (calculator) Add(_ context.Context, a, b int) (int, error) { return a + b, nil }

func (calculator) Divide(_ context.Context, a, b float64) (float64, error) {
	if b == 0 {
		return 0, rpcx.InvalidParams("division by zero")
	}
	return a / b, nil
}

// Secret is not in the interface.
func (c calculator) Secret() int { return c.secret }

// A calculator as an interface, and its typed client.
func ExampleBindProxy() {
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: rpcx.Expose[Calculator](calculator{42})})
	defer server.Close()
	defer client.Close()

	var calc CalculatorClient
	if err := rpcx.BindProxy(client.Remote(), &calc); err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	fmt.Println(calc.Add(ctx, 3, 4))
	fmt.Println(calc.Divide(ctx, 1, 8))
	fmt.Println(calc.Divide(ctx, 1, 0))
	fmt.Println(client.Remote().Call(ctx, nil, "secret"))
	// Output:
	// 7 <nil>
	// 0.125 <nil>
	// 0 division by zero (code -32602)
	// unknown method "secret": "rpcx_test.calculator.secret" is not exposed (code -32601)
}

// A peer whose methods have dots is called by whole names.
func ExampleBindProxy_dots() {
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		return req.Method, nil
	})})
	defer server.Close()
	defer client.Close()

	var math struct {
		Add func(ctx context.Context, a, b int) (string, error) `rpcx:"math.add"`
	}
	if err := rpcx.BindProxy(client.Remote(), &math); err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	fmt.Println(math.Add(ctx, 3, 4))
	var method string
	fmt.Println(client.Remote().Call(ctx, &method, "math.add", 3, 4), method)
	fmt.Println(client.Remote().At("math").Call(ctx, &method, "add", 3, 4), method)
	// Output:
	// math.add <nil>
	// <nil> math.add
	// <nil> math/add
}

func ExampleExpose() {
	for name := range rpcx.Expose[Calculator](calculator{}).Methods() {
		fmt.Println(name)
	}
	// Output:
	// Add
	// Divide
	// add
	// divide
}

// A tree of services, and how it changes while it serves.
func ExampleRouter_Mount() {
	house, kitchen := rpcx.NewRouter(), rpcx.NewRouter()
	kitchen.Handle("temperature", rpcx.Func(func() float64 { return 21.5 }))
	if err := house.Mount("kitchen", kitchen); err != nil {
		log.Fatal(err)
	}
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: house})
	defer server.Close()
	defer client.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[float64](ctx, client, "kitchen/temperature", nil))

	oven := rpcx.ExposeMap(map[string]any{"temperature": func() float64 { return 180 }})
	if err := kitchen.Mount("oven", oven); err != nil {
		log.Fatal(err)
	}
	fmt.Println("mounted at", oven.Path())
	fmt.Println(rpcx.Call[float64](ctx, client, "kitchen/oven/temperature", nil))

	kitchen.Remove("oven")
	fmt.Println(client.Call(ctx, "kitchen/oven/temperature", nil, nil))
	fmt.Println(oven.Mount("kitchen", kitchen))
	// Output:
	// 21.5 <nil>
	// mounted at kitchen/oven
	// 180 <nil>
	// unknown method "kitchen/oven/temperature": Name "oven" not found in "kitchen" (code -32601)
	// mount "kitchen": the router is mounted already, as "kitchen"
}

func ExampleExposeMap() {
	services := rpcx.ExposeMap(map[string]any{
		"ping": func() string { return "pong" },
		"math": map[string]any{
			"double": func(n int) int { return 2 * n },
			"divide": rpcx.Func(func(a, b float64) float64 { return a / b }, "a", "b"),
		},
	})
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: services})
	defer server.Close()
	defer client.Close()

	ctx := context.Background()
	math := client.Remote().At("math")
	var n, quotient float64
	fmt.Println(math.Call(ctx, &n, "double", 21), n)
	fmt.Println(math.Call(ctx, &quotient, "divide", rpcx.Named{"b": 4, "a": 1}), quotient)
	fmt.Println(math)
	// Output:
	// <nil> 42
	// <nil> 0.25
	// Proxy(pipe, "math")
}

// room is a chat: it calls all who have joined.
type room struct {
	mu      sync.Mutex
	members map[*rpcx.Session]chan string // what each is still to hear
}

func (r *room) Join(_ context.Context, s *rpcx.Session, member *rpcx.Proxy) error {
	queue := make(chan string, 16)
	r.mu.Lock()
	_, joined := r.members[s]
	if !joined {
		r.members[s] = queue
	}
	r.mu.Unlock() // before anything that may wait
	if joined {
		return rpcx.InvalidRequest("joined already")
	}
	s.OnClose(func(error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.members, s)
	})
	go deliver(s, member, queue)
	return nil
}

// deliver calls a member with what it is to hear, in that order. It ends with the
// session.
func deliver(s *rpcx.Session, member *rpcx.Proxy, queue <-chan string) {
	for {
		select {
		case text := <-queue:
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := member.Call(ctx, nil, "hear", text); err != nil && !errors.Is(err, rpcx.ErrConnectionLost) {
				log.Print(err) // the others hear it all the same
			}
			cancel()
		case <-s.Done():
			return
		}
	}
}

// Say waits for nobody: who is slow and has a full queue misses what is said.
func (r *room) Say(_ context.Context, text string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, queue := range r.members {
		select {
		case queue <- text:
		default:
		}
	}
	return nil
}

// member is what a client of the chat exposes.
type member struct {
	name  string
	heard chan string
}

func (m *member) Hear(_ context.Context, text string) error {
	if text == "" {
		return errors.New("nothing was said")
	}
	m.heard <- fmt.Sprintf("%s hears %q", m.name, text)
	return nil
}

// A chat, in which the server calls every client back. Each member has a queue, so that
// nobody waits for one that is slow. By Order: Sequential what a client says is passed on
// in the order in which it has said it.
func Example_chat() {
	type chat interface {
		Join(ctx context.Context, s *rpcx.Session, member *rpcx.Proxy) error
		Say(ctx context.Context, text string) error
	}
	type hearer interface {
		Hear(ctx context.Context, text string) error
	}
	server := rpcx.Expose[chat](&room{members: make(map[*rpcx.Session]chan string)})
	ctx := context.Background()
	heard := make(chan string)
	var last *rpcx.Session
	for _, name := range []string{"Kim", "Sascha"} {
		me := &member{name, heard}
		client, far := rpcx.Pipe(
			&rpcx.Options{Handler: rpcx.Expose[hearer](me), Objects: true},
			&rpcx.Options{Handler: server, Objects: true, Order: rpcx.Sequential})
		defer far.Close()
		defer client.Close()
		// The member is sent as a reference, and arrives as a proxy.
		if err := client.Remote().Call(ctx, nil, "join", me); err != nil {
			log.Fatal(err)
		}
		last = client
	}
	if err := last.Remote().Call(ctx, nil, "say", "hello, everybody"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-heard)
	fmt.Println(<-heard)
	// Unordered output:
	// Kim hears "hello, everybody"
	// Sascha hears "hello, everybody"
}

// Point is a type that travels as an object: as its coordinates, with a type's id.
type Point struct{ X, Y int }

func ExampleNewType() {
	points := []rpcx.Type{rpcx.NewType(
		func(p Point) ([2]int, error) { return [2]int{p.X, p.Y}, nil },
		func(xy [2]int) (Point, error) { return Point{xy[0], xy[1]}, nil },
	)}
	mirror := rpcx.ExposeMap(map[string]any{
		"mirror": rpcx.Func(func(p Point) any { return []any{p, Point{p.Y, p.X}} }, "point"),
	})
	client, server := rpcx.Pipe(
		&rpcx.Options{Objects: true, Types: points},
		&rpcx.Options{Objects: true, Types: points, Handler: mirror})
	defer server.Close()
	defer client.Close()
	fmt.Println(rpcx.Call[[]Point](context.Background(), client, "mirror", rpcx.Args{Point{1, 2}}))
	// Output: [{1 2} {2 1}] <nil>
}

// The wire of aiomas itself, as a Python program speaks it.
func Example_aiomas() {
	wire := func(h rpcx.Handler) *rpcx.Options {
		return &rpcx.Options{Protocol: rpcx.Aiomas, Framer: rpcx.LengthFramer{}, Handler: h}
	}
	client, server := rpcx.Pipe(wire(nil), wire(rpcx.ExposeMap(map[string]any{
		"add":  rpcx.Func(func(a, b int) int { return a + b }, "a", "b"),
		"sell": func() error { return errors.New("this parrot is dead") },
	})))
	defer server.Close()
	defer client.Close()

	ctx := context.Background()
	var sum int
	fmt.Println(client.Remote().Call(ctx, &sum, "add", 3, rpcx.Named{"b": 4}), sum) // by place and by name
	var e *rpcx.Error
	if errors.As(client.Remote().Call(ctx, nil, "sell"), &e) {
		fmt.Printf("%s\n%q\n", e.Message, e.Data)
	}
	// Output:
	// <nil> 7
	// this parrot is dead
	// "Traceback (most recent call last):\nthis parrot is dead\n"
}
