package peers

import (
	"net/http"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
)

func needJSONRPClib(t *testing.T) {
	t.Helper()
	interoptest.Need(t, "apt-get install python3-jsonrpclib-pelix", interoptest.Python, "-c", "import jsonrpclib")
}

// The client of jsonrpclib-pelix takes only the status 200, also where nothing is to be
// answered.
func TestInteropJSONRPClibClient(t *testing.T) {
	noLeak(t)
	needJSONRPClib(t)
	for version, protocol := range map[string]rpcx.Protocol{"2.0": rpcx.JSONRPCv2, "1.0": rpcx.JSONRPCv1} {
		for name, p := range map[string]rpcx.Protocol{"": protocol, " detected": rpcx.JSONRPCAutoDetect} {
			t.Run(version+name, func(t *testing.T) {
				w := serveHTTP(t, rpcx.Options{Protocol: p}, func(h *rpchttp.Handler) {
					h.Empty = func(*http.Request) int { return http.StatusOK }
					h.Compress = 1000
				})
				interoptest.Checks(t, interoptest.Python, "jsonrpclib_peer.py", "client", w.url+"/rpc", version)
			})
		}
	}
}

// A client of ours uses the server of jsonrpclib-pelix, in both versions.
func TestInteropJSONRPClibServer(t *testing.T) {
	noLeak(t)
	needJSONRPClib(t)
	for version, protocol := range map[string]rpcx.Protocol{"2.0": rpcx.JSONRPCv2, "1.0": rpcx.JSONRPCv1} {
		t.Run(version, func(t *testing.T) {
			c, err := rpchttp.Dial(startHTTPPeer(t, interoptest.Python, "jsonrpclib_peer.py", "server", version), &rpcx.Options{
				Protocol: protocol,
				FirstID:  1, // the library takes 0 for no id
				Limits:   rpcx.Limits{Outgoing: 10},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx := interopContext(t)
			callsHTTPServer(t, ctx, c, &rpcx.Error{Code: rpcx.CodeInternalError, Message: "refused"})
			futuresOfHTTPServer(t, ctx, c)
			if protocol == rpcx.JSONRPCv2 {
				batchOfHTTPServer(t, ctx, c)
			}
		})
	}
}
