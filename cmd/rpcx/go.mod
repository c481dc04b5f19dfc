module example.com/rpcx/cmd/rpcx

go 1.26.0

replace (
	example.com/rpcx => ../..
	example.com/rpcx/openrpc => ../../openrpc
)

require (
	example.com/rpcx v0.0.0-00010101000000-000000000000
	github.com/HdrHistogram/hdrhistogram-go v1.4.0
	github.com/ergochat/readline v0.1.3
	github.com/itchyny/gojq v0.12.20
	golang.org/x/term v0.48.0
	golang.org/x/text v0.44.0
)

require (
	github.com/bahlo/generic-list-go v0.2.0 // indirect
	github.com/buger/jsonparser v1.1.2 // indirect
	github.com/invopop/jsonschema v0.14.0 // indirect
	github.com/pb33f/ordered-map/v2 v2.3.1 // indirect
	go.yaml.in/yaml/v4 v4.0.0-rc.2 // indirect
)

require (
	example.com/rpcx/openrpc v0.0.0-00010101000000-000000000000
	github.com/coder/websocket v1.8.15 // indirect
	github.com/itchyny/timefmt-go v0.1.9 // indirect
	golang.org/x/sync v0.25.0
	golang.org/x/sys v0.50.0
)
