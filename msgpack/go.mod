module example.com/rpcx/msgpack

go 1.26.0

replace example.com/rpcx => ../

require (
	example.com/rpcx v0.0.0-00010101000000-000000000000
	github.com/google/go-cmp v0.7.0
	github.com/vmihailenco/msgpack/v5 v5.4.1
)

require (
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
)
