module example.com/rpcx/examples/proxies

go 1.26.0

replace (
	example.com/rpcx => ../../
	example.com/rpcx/proxyproto => ../../proxyproto
)

require (
	example.com/rpcx v0.0.0-00010101000000-000000000000
	example.com/rpcx/proxyproto v0.0.0-00010101000000-000000000000
	golang.org/x/sync v0.24.0
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/pires/go-proxyproto v0.15.0 // indirect
)
