package benchmarks

import (
	"context"
	"strings"

	"example.com/rpcx"
)

// What a path costs: the same method in a router, and three services below it.
var (
	rpcxRouterPeer = routed("rpcx-router", "rpcx (router)")
	rpcxPathPeer   = routed("rpcx-path", "rpcx (path of three services)", "one", "two", "three")
)

func routed(name, title string, path ...string) Peer {
	method := strings.Join(append(path, echoMethod), "/")
	return Peer{Name: name, Title: title, Kind: Ours, Start: startRouter(path), Dial: dialRPCX(outOfReach, method)}
}

// startRouter returns a Peer's Start whose server has a router, in which the
// method hangs below the services named by path.
func startRouter(path []string) func(Load) (Server, error) {
	return func(load Load) (Server, error) {
		root := rpcx.NewRouter()
		root.Handle(notifyMethod, rpcx.Func(func(context.Context) error {
			load.Notified()
			return nil
		}))
		r := root
		for _, name := range path {
			sub := rpcx.NewRouter()
			if err := r.Mount(name, sub); err != nil {
				return nil, err
			}
			r = sub
		}
		r.Handle(echoMethod, rawEcho)
		return serveRPCX(outOfReach, root)
	}
}
