module example.com/rpcx/conformance/interop

go 1.26.0

replace example.com/rpcx => ../../

require (
	example.com/rpcx v0.0.0-00010101000000-000000000000
	github.com/btcsuite/btcd v0.24.2
	github.com/creachadair/jrpc2 v1.3.6
)

require (
	github.com/btcsuite/btcd/chaincfg/chainhash v1.1.0 // indirect
	github.com/creachadair/mds v0.31.0 // indirect
	golang.org/x/crypto v0.0.0-20200622213623-75b288015ac9 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.0.0-20200814200057-3d37ad5750ed // indirect
)
