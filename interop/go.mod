module example.com/rpcx/interop

go 1.26.0

replace example.com/rpcx => ../

require (
	example.com/rpcx v0.0.0-00010101000000-000000000000
	github.com/creachadair/jrpc2 v1.3.6
)

require (
	github.com/creachadair/mds v0.31.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
)
