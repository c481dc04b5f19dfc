package benchmarks

import (
	"context"
	"net"
	"net/http"
	"sync"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	coder "github.com/coder/websocket"
	"github.com/ethereum/go-ethereum/rpc"
)

// The peers that have WebSockets, and an echo over the library that rpcx uses, as
// its documentation has it.
var (
	wsFloorPeer = Peer{
		Name:  "floor-ws",
		Title: "floor: coder/websocket echo, no RPC",
		Kind:  Floor,
		Over:  "floor-ws",
		Start: func(Load) (Server, error) {
			return startWeb(http.HandlerFunc(echoMessages), nil)
		},
		Dial: dialWSFloor,
	}
	rpcxWSPeer = Peer{
		Name:  "rpcx-ws",
		Title: "rpcx (WebSocket)",
		Kind:  Ours,
		Over:  "floor-ws",
		Start: func(load Load) (Server, error) {
			server := &rpcx.Server{Options: rpcx.Options{Limits: outOfReach.server, Handler: rpcxHandler(load, rawEcho)}}
			acceptor := &websocket.Acceptor{Server: server, Config: rpcxWSConfig}
			return startWeb(acceptor, func() { server.Close() })
		},
		Dial: dialRPCXWS,
	}
	gethWSPeer = Peer{
		Name:  "geth-ws",
		Title: "go-ethereum/rpc (WebSocket)",
		Kind:  JSON,
		Over:  "floor-ws",
		Start: func(load Load) (Server, error) {
			server := rpc.NewServer()
			if err := server.RegisterName("bench", &gethService{load.Notified}); err != nil {
				return nil, err
			}
			return startWeb(server.WebsocketHandler(nil), server.Stop)
		},
		Dial: dialGethWS,
	}
)

// webServer serves WebSockets.
type webServer struct {
	*acceptor
	stop func() // may be nil
}

func startWeb(h http.Handler, stop func()) (Server, error) {
	l, err := listen()
	if err != nil {
		return nil, err
	}
	go http.Serve(l, h) // until webServer.Close
	return webServer{l, stop}, nil
}

func (s webServer) Close() error {
	if s.stop != nil {
		s.stop()
	}
	return s.acceptor.Close()
}

var rpcxWSConfig = websocket.Config{MaxSize: rpcxMaxSize}

func dialRPCXWS(ctx context.Context, addr string, _ Load) (Client, error) {
	d := websocket.Dialer{Config: rpcxWSConfig}
	session, err := d.Dial(ctx, "ws://"+addr, &rpcx.Options{Limits: outOfReach.client})
	if err != nil {
		return nil, err
	}
	return rpcxClient{session, echoMethod}, nil
}

func dialGethWS(ctx context.Context, addr string, _ Load) (Client, error) {
	client, err := rpc.DialWebsocket(ctx, "ws://"+addr, "")
	if err != nil {
		return nil, err
	}
	return gethClient{client, nopConn{}}, nil
}

// nopConn stands for a connection that its client closes.
type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }

// echoMessages sends back each message of a WebSocket.
func echoMessages(w http.ResponseWriter, r *http.Request) {
	ws, err := coder.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	ctx := context.Background()
	for {
		kind, msg, err := ws.Read(ctx)
		if err != nil || ws.Write(ctx, kind, msg) != nil {
			return
		}
	}
}

// wsFloorClient is the floor's client: replies come in the order of the messages.
type wsFloorClient struct {
	ws *coder.Conn

	mu      sync.Mutex
	waiting []chan string
	ended   bool
}

func dialWSFloor(ctx context.Context, addr string, _ Load) (Client, error) {
	ws, _, err := coder.Dial(ctx, "ws://"+addr, nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	c := &wsFloorClient{ws: ws}
	go c.read() // until the connection is closed
	return c, nil
}

func (c *wsFloorClient) Echo(_ context.Context, text string) (string, error) {
	reply := replyChans.Get().(chan string)
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return "", net.ErrClosed
	}
	c.waiting = append(c.waiting, reply)
	err := c.ws.Write(context.Background(), coder.MessageText, []byte(text))
	c.mu.Unlock()
	if err != nil {
		return "", err
	}
	got, ok := <-reply
	if !ok {
		return "", net.ErrClosed
	}
	replyChans.Put(reply)
	return got, nil
}

func (c *wsFloorClient) read() {
	for {
		_, msg, err := c.ws.Read(context.Background())
		c.mu.Lock()
		if err != nil {
			for _, reply := range c.waiting {
				close(reply)
			}
			c.waiting, c.ended = nil, true
			c.mu.Unlock()
			return
		}
		reply := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.mu.Unlock()
		reply <- string(msg)
	}
}

func (c *wsFloorClient) Close() error { return c.ws.CloseNow() }
