package rpcx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"example.com/rpcx"
)

// connectLines joins a server session to a client that writes and prints lines.
func connectLines(h rpcx.Handler) (say func(line string), printLines func(n int), end func()) {
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Handler: h})
	lines := bufio.NewScanner(here)
	return func(line string) { fmt.Fprintln(here, line) },
		func(n int) {
			for range n {
				lines.Scan()
				fmt.Println(lines.Text())
			}
		},
		func() { server.Close(); here.Close(); <-server.Done() }
}

// A handler subscribes its peer. The value that is published before the reply leaves after
// the reply.
func ExampleHub() {
	hub := new(rpcx.Hub)
	form := &rpcx.Correlation{Methods: []string{"tick"}, ID: []string{"id"}, Value: []string{"time"}}
	router := rpcx.NewRouter()
	router.Handle("subscribe", rpcx.Func(func(ctx context.Context, topic string) (any, error) {
		sub, err := hub.Subscribe(ctx, topic, form, 7) // a nil id lets the hub make one
		if err != nil {
			return nil, err
		}
		_ = hub.Publish(ctx, topic, "11:59")
		return sub.ID(), nil
	}, "topic"))

	say, printLines, end := connectLines(router)
	defer end()
	say(`{"jsonrpc":"2.0","method":"subscribe","params":["clock"],"id":1}`)
	printLines(2)
	_ = hub.Publish(context.Background(), "clock", "12:00")
	printLines(1)
	fmt.Printf("%+v\n", hub.Stats())
	// Output:
	// {"jsonrpc":"2.0","result":7,"id":1}
	// {"jsonrpc":"2.0","method":"tick","params":{"id":7,"time":"11:59"}}
	// {"jsonrpc":"2.0","method":"tick","params":{"id":7,"time":"12:00"}}
	// {Topics:1 Subscribers:1 Lagging:0 Published:2 Sent:2 Dropped:0 Ended:0}
}

// The form of Electrum: the reply is the present value, and the params of a notification
// are those of the call and the new value.
func ExampleHub_Handlers() {
	hub := new(rpcx.Hub)
	status := map[string]string{"8b01": "unpaid"}
	topic := func(_ context.Context, req *rpcx.Request) (string, error) {
		var args []string
		if err := req.Bind(&args); err != nil || len(args) != 1 {
			return "", rpcx.InvalidParams("one script hash is needed")
		}
		return args[0], nil
	}
	current := func(_ context.Context, topic string) (any, error) { return status[topic], nil }
	router := rpcx.NewRouter()
	subscribe, unsubscribe := hub.Handlers(rpcx.ElectrumScriptHash, topic, current)
	router.Handle("blockchain.scripthash.subscribe", subscribe)
	router.Handle("blockchain.scripthash.unsubscribe", unsubscribe)

	say, printLines, end := connectLines(router)
	defer end()
	say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["8b01"],"id":1}`)
	printLines(1)
	_ = hub.Publish(context.Background(), "8b01", "paid")
	printLines(1)
	say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.unsubscribe","params":["8b01"],"id":2}`)
	printLines(1)
	// Output:
	// {"jsonrpc":"2.0","result":"unpaid","id":1}
	// {"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["8b01","paid"]}
	// {"jsonrpc":"2.0","result":true,"id":2}
}

// The form of Ethereum: the reply is an id, which each notification has.
func ExampleHub_Handlers_ethereum() {
	hub := new(rpcx.Hub)
	topic := func(_ context.Context, req *rpcx.Request) (string, error) {
		var args []any
		if err := req.Bind(&args); err != nil || len(args) == 0 || args[0] != "newHeads" {
			return "", rpcx.InvalidParams("only newHeads is here")
		}
		return "newHeads", nil
	}
	router := rpcx.NewRouter()
	subscribe, unsubscribe := hub.Handlers(rpcx.EthSubscription, topic, nil)
	router.Handle("eth_subscribe", subscribe)
	router.Handle("eth_unsubscribe", unsubscribe)

	heads := make(chan string, 1)
	client, server := rpcx.Pipe(&rpcx.Options{Handler: rpcx.Func(func(p struct {
		Subscription string `json:"subscription"`
		Result       struct {
			Number string `json:"number"`
		} `json:"result"`
	}) {
		heads <- p.Result.Number
	})}, &rpcx.Options{Handler: router})
	defer func() { client.Close(); server.Close(); <-client.Done(); <-server.Done() }()

	ctx := context.Background()
	id, err := rpcx.Call[string](ctx, client, "eth_subscribe", rpcx.Args{"newHeads"})
	fmt.Println(len(id), err)
	_ = hub.Publish(ctx, "newHeads", map[string]string{"number": "0x1b4"})
	fmt.Println(<-heads)
	fmt.Println(rpcx.Call[bool](ctx, client, "eth_unsubscribe", rpcx.Args{id}))
	// Output:
	// 34 <nil>
	// 0x1b4
	// true <nil>
}

// A topic is a filter. The publisher asks for the topics that have subscribers, and publishes
// under each that matches.
func ExampleHub_Topics() {
	hub := new(rpcx.Hub)
	subscribe, _ := hub.Handlers(nil, func(_ context.Context, req *rpcx.Request) (string, error) {
		var args []string
		if err := req.Bind(&args); err != nil || len(args) != 1 {
			return "", rpcx.InvalidParams("a prefix is needed")
		}
		return args[0], nil
	}, nil)
	client, server := rpcx.Pipe(&rpcx.Options{}, &rpcx.Options{Handler: subscribe})
	defer func() { client.Close(); server.Close(); <-client.Done(); <-server.Done() }()
	ctx := context.Background()
	for _, prefix := range []string{"0xab", "0xabcd", "0xff"} {
		if err := client.Call(ctx, "eth_subscribe", rpcx.Args{prefix}, nil); err != nil {
			fmt.Println(err)
		}
	}
	const address = "0xabcdef"
	matching := 0
	for topic, subscribers := range hub.Topics() {
		if strings.HasPrefix(address, topic) {
			matching += subscribers
			_ = hub.Publish(ctx, topic, address)
		}
	}
	fmt.Println(matching, "subscribers")
	// Output: 2 subscribers
}

// hubWire is a Broker for the hubs of one program. One for several machines passes the values
// to a message system.
type hubWire struct {
	mu       sync.Mutex
	receives map[string][]*func(topic string, value []byte)
}

func (b *hubWire) Publish(_ context.Context, topic string, value []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, receive := range b.receives[topic] {
		(*receive)(topic, value)
	}
	return nil
}

func (b *hubWire) Subscribe(topic string, receive func(topic string, value []byte)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.receives == nil {
		b.receives = make(map[string][]*func(string, []byte))
	}
	b.receives[topic] = append(b.receives[topic], &receive)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for i, r := range b.receives[topic] {
			if r == &receive {
				b.receives[topic] = append(b.receives[topic][:i:i], b.receives[topic][i+1:]...)
				return
			}
		}
	}, nil
}

// Two hubs with one broker: what is published at one reaches the subscribers of both.
func ExampleBroker() {
	broker := new(hubWire)
	east, west := &rpcx.Hub{Broker: broker}, &rpcx.Hub{Broker: broker}
	subscribe, _ := west.Handlers(rpcx.ElectrumHeaders,
		func(context.Context, *rpcx.Request) (string, error) { return "headers", nil },
		func(context.Context, string) (any, error) { return 1, nil })

	say, printLines, end := connectLines(subscribe)
	defer end()
	say(`{"jsonrpc":"2.0","method":"headers","id":1}`)
	printLines(1)
	_ = east.Publish(context.Background(), "headers", 2)
	printLines(1)
	// Output:
	// {"jsonrpc":"2.0","result":1,"id":1}
	// {"jsonrpc":"2.0","method":"headers","params":[2]}
}

// A chat room: members join, leave and speak. A member who does not read holds up nobody,
// and loses the connection.
func Example_chatRoom() {
	room := &rpcx.Hub{Queue: 20, Overflow: rpcx.EndSession}
	said := &rpcx.Correlation{Methods: []string{"said"}, ID: []string{"room"}, Value: []string{"text"}, Token: []string{"room"}, Unsubscribe: "leave"}
	join, leave := room.Handlers(said, func(_ context.Context, req *rpcx.Request) (string, error) {
		var p struct{ Room, Name string }
		err := req.Bind(&p)
		req.Session().SetValue("name", p.Name)
		return p.Room, err
	}, nil)
	router := rpcx.NewRouter()
	router.Handle("join", join)
	router.Handle("leave", leave)
	router.Handle("say", rpcx.Func(func(ctx context.Context, s *rpcx.Session, in, text string) error {
		return room.Publish(ctx, in, fmt.Sprint(s.Value("name"), ": ", text))
	}, "room", "text"))

	ctx := context.Background()
	member := func(name string) (*rpcx.Session, chan string) {
		heard := make(chan string, 1000)
		client, _ := rpcx.Pipe(&rpcx.Options{
			Order:   rpcx.Sequential, // one word after the other
			Handler: rpcx.Func(func(_, text string) { heard <- text }, "room", "text"),
		}, &rpcx.Options{Handler: router})
		if err := client.Call(ctx, "join", map[string]string{"room": "lobby", "name": name}, nil); err != nil {
			fmt.Println(name, "cannot join:", err)
		}
		return client, heard
	}
	speak := func(s *rpcx.Session, text string) {
		if err := s.Call(ctx, "say", rpcx.Args{"lobby", text}, nil); err != nil {
			fmt.Println(err)
		}
	}

	ada, adaHeard := member("Ada")
	bob, bobHeard := member("Bob")
	speak(ada, "Hello")
	fmt.Println("Ada hears", <-adaHeard)
	fmt.Println("Bob hears", <-bobHeard)
	speak(bob, "I have to go")
	fmt.Println("Ada hears", <-adaHeard)
	if err := bob.Call(ctx, "leave", map[string]string{"room": "lobby"}, nil); err != nil {
		fmt.Println(err)
	}
	speak(ada, "Bye")
	fmt.Println("Ada hears", <-adaHeard)
	fmt.Println("members:", room.Stats().Subscribers)

	here, there := net.Pipe() // a member that never reads
	slow := rpcx.NewSession(there, &rpcx.Options{Handler: router})
	fmt.Fprintln(here, `{"jsonrpc":"2.0","method":"join","params":{"room":"lobby","name":"Sleepy"},"id":1}`)
	for room.Stats().Ended == 0 {
		speak(ada, strings.Repeat("zz", 1000))
		<-adaHeard
	}
	<-slow.Done()
	fmt.Println("the slow member has gone:", errors.Is(slow.Err(), rpcx.ErrSlowPeer))
	speak(ada, "Anybody?")
	fmt.Println("Ada hears", <-adaHeard)
	for _, s := range []*rpcx.Session{ada, bob} {
		s.Close()
		<-s.Done()
	}
	// Output:
	// Ada hears Ada: Hello
	// Bob hears Ada: Hello
	// Ada hears Bob: I have to go
	// Ada hears Ada: Bye
	// members: 1
	// the slow member has gone: true
	// Ada hears Ada: Anybody?
}
