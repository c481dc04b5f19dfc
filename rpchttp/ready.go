package rpchttp

import (
	"io"
	"net/http"
	"time"

	"example.com/rpcx"
)

// Ready returns a handler that answers 200, or 503 once the Shutdown of srv has begun or srv
// was stopped; see [rpcx.Server.Ready]. With [rpcx.Server].ShutdownNotice, the 503 comes
// some time before the server accepts nothing any more. Mount the handler on a path of its
// own, for balancers.
func Ready(srv *rpcx.Server) http.Handler {
	if srv == nil {
		panic("rpcx: rpchttp.Ready with a nil *rpcx.Server")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		deadline, now := http.NewResponseController(w), time.Now()
		_ = deadline.SetReadDeadline(now.Add(readyTimeout)) // package http reads a body, if there is one
		_ = deadline.SetWriteDeadline(now.Add(2 * readyTimeout))
		w.Header().Set("Cache-Control", "no-store")
		if !srv.Ready() {
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
}

// readyTimeout bounds the reading of a body that the handler of Ready does not want, and
// then the writing of the answer.
const readyTimeout = 10 * time.Second

// BitcoindStatus is a [Handler].Status with the rules of bitcoind. An error of JSON-RPC 2.0
// has the status 200. In other versions, [rpcx.CodeInvalidRequest] has 400,
// [rpcx.CodeMethodNotFound] 404, and any other code 500.
func BitcoindStatus(_ *http.Request, e *rpcx.Error, p rpcx.Protocol) int {
	switch {
	case p == rpcx.JSONRPCv2:
		return http.StatusOK
	case e.Code == rpcx.CodeInvalidRequest:
		return http.StatusBadRequest
	case e.Code == rpcx.CodeMethodNotFound:
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}
