// Package rpchttp runs JSON-RPC over HTTP: each message is the body of a POST, and the
// body of the response is the reply.
package rpchttp
