package rpcx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"example.com/rpcx"
)

// Shutdown lets what is under way be finished.
func ExampleSession_Shutdown() {
	started, release := make(chan struct{}), make(chan struct{})
	router := rpcx.NewRouter()
	router.Handle("work", rpcx.Func(func(ctx context.Context) (string, error) {
		close(started)
		<-release
		return "finished", nil
	}))
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer client.Close()

	f := client.Go(context.Background(), "work", nil)
	<-started
	time.AfterFunc(time.Millisecond, func() { close(release) })
	err := server.Shutdown(context.Background())
	fmt.Println("shut down:", err, server.Err())

	var reply string
	err = f.Wait(context.Background(), &reply)
	fmt.Println(reply, err)
	// Output:
	// shut down: <nil> rpcx: session closed
	// finished <nil>
}

// Seeing inside.

func ExampleTrace() {
	trace := &rpcx.Trace{
		Connected:       func(*rpcx.Session) { fmt.Println("connected") },
		RequestReceived: func(req *rpcx.Request) { fmt.Println("request", req.ID, req.Method) },
		ReplySent:       func(req *rpcx.Request, err error, _ time.Duration) { fmt.Println("reply", req.ID, err) },
		Closed:          func(_ *rpcx.Session, err error) { fmt.Println("closed:", err) },
	}
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: exampleMethods(), Trace: trace})
	_ = client.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, nil)
	client.Close()
	<-server.Done()
	// Output:
	// connected
	// request 0 echo
	// reply 0 <nil>
	// closed: EOF
}

// News begin after the reply to "subscribe", which has been queued when ReplySent is called.
func ExampleTrace_replySent() {
	router := rpcx.NewRouter()
	router.Handle("subscribe", rpcx.Func(func() string { return "subscribed" }))
	trace := &rpcx.Trace{ReplySent: func(req *rpcx.Request, err error, _ time.Duration) {
		if req.Method == "subscribe" && err == nil {
			_ = req.Session().Notify(context.Background(), "news", rpcx.Args{"it rains"})
		}
	}}
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Handler: router, Trace: trace})
	defer server.Close()

	fmt.Fprintln(here, `{"jsonrpc":"2.0","method":"subscribe","id":1}`)
	lines := bufio.NewScanner(here)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	here.Close()
	// Output:
	// {"jsonrpc":"2.0","result":"subscribed","id":1}
	// {"jsonrpc":"2.0","method":"news","params":["it rains"]}
}

// The peer is not told why a handler failed; the log is.
func ExampleOptions_logger() {
	router := rpcx.NewRouter()
	router.Handle("load", rpcx.Func(func() error { return errors.New("disk on fire") }))
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router, Logger: logger})
	err := s.Call(context.Background(), "load", nil, nil)
	s.Close()
	<-server.Done() // by now all is logged
	fmt.Println(err)
	// Output:
	// level=ERROR msg="handler failed" peer=pipe method=load error="disk on fire"
	// internal server error (code -32603)
}

func ExampleSession_Stats() {
	s, end := examplePipe()
	defer end()
	_ = s.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, nil)
	stats := s.Stats()
	fmt.Println(stats.MessagesSent, stats.MessagesReceived, stats.Pending)
	// Output: 1 1 0
}

// Protocols, framers, codecs.

// Messages can be built and read without a session.
func ExampleProtocol() {
	p := rpcx.JSONRPCv2
	msg, err := p.AppendRequest(nil, rpcx.ID("7"), "echo", rpcx.Args{"hi"}, nil)
	fmt.Printf("%s %v\n", msg, err)

	var m rpcx.Message
	p.Decode(&m, msg, 0)
	item := m.Items[0]
	fmt.Printf("%v %s %s %s\n", item.Kind, item.ID, item.Method, item.Params.Positional)

	msg, err = p.AppendResult(nil, item.ID, "hi", nil)
	fmt.Printf("%s %v\n", msg, err)
	// Output:
	// {"jsonrpc":"2.0","method":"echo","id":7,"params":["hi"]} <nil>
	// request 7 echo ["hi"]
	// {"jsonrpc":"2.0","result":"hi","id":7} <nil>
}

// A batch that was received can be ranged over.
func ExampleMessage() {
	var m rpcx.Message
	rpcx.JSONRPCv2.Decode(&m, []byte(`[
		{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":"a"},
		{"jsonrpc":"2.0","method":"ping"},
		{"foo":"boo"}
	]`), 100)
	fmt.Println(m.Batch, m.Len())
	for i, item := range m.All() {
		fmt.Println(i, item.Kind, item.ID, item.Method, item.Err)
	}
	// Output:
	// true 3
	// 0 request "a" sum <nil>
	// 1 notification  ping <nil>
	// 2 invalid   protocol error: "jsonrpc" is not "2.0" (code -32600)
}

func ExampleBatch_Append() {
	var b rpcx.Batch
	b.Call("sum", rpcx.Args{1, 2}, nil)
	b.Notify("ping", nil)
	msg, err := b.Append(nil, rpcx.JSONRPCv2, nil, func() rpcx.ID { return rpcx.ID("1") })
	fmt.Printf("%s %v\n", msg, err)
	// Output: [{"jsonrpc":"2.0","method":"sum","id":1,"params":[1,2]}, {"jsonrpc":"2.0","method":"ping"}] <nil>
}

// nulFramer ends each message with a zero byte, which JSON never has in it.
type nulFramer struct{ maxSize int }

func (f nulFramer) NewSplitter() bufio.SplitFunc {
	scanned := 0 // of data, the bytes that were looked at before
	return func(data []byte, _ bool) (advance int, token []byte, err error) {
		i := bytes.IndexByte(data[scanned:], 0)
		end := scanned + i
		switch {
		case i < 0 && len(data) <= f.maxSize:
			scanned = len(data)
			return 0, nil, nil // more, please
		case i < 0 || end > f.maxSize:
			return 0, nil, &rpcx.FrameError{Message: "message too long"} // ends the session
		}
		scanned = 0
		return end + 1, data[:end], nil
	}
}

func (f nulFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	return append(append(dst, msg...), 0), nil
}

// A framer of one's own: here, messages end with a zero byte.
func ExampleFramer() {
	framer := nulFramer{maxSize: 1 << 20}
	s, server := rpcx.Pipe(
		&rpcx.Options{Framer: framer},
		&rpcx.Options{Framer: framer, Handler: exampleMethods()},
	)
	defer server.Close()
	defer s.Close()

	fmt.Println(rpcx.Call[string](context.Background(), s, "echo", rpcx.Args{"Howdy"}))
	// Output: Howdy <nil>
}

// indenting is a codec that writes JSON for people to read.
type indenting struct{}

func (indenting) Append(dst []byte, v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(dst, data...), err
}

func (indenting) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// What a codec puts out is checked, and loses the white space: nothing gets into
// the stream that could be taken for the end of a message.
func ExampleCodec() {
	msg, err := rpcx.JSONRPCv2.AppendNotification(nil, "log", rpcx.Args{1, "two"}, indenting{})
	fmt.Printf("%s %v\n", msg, err)
	// Output: {"jsonrpc":"2.0","method":"log","params":[1,"two"]} <nil>
}
