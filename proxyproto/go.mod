module example.com/rpcx/proxyproto

go 1.26.0

replace example.com/rpcx => ../

require (
	example.com/rpcx v0.0.0-00010101000000-000000000000
	github.com/pires/go-proxyproto v0.15.0
)

require golang.org/x/sync v0.24.0 // indirect
