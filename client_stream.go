package rpcx

type clientStream struct{}

func (st *clientStream) end(error)                            {}
func (c *Client) resubscribe(cs *clientSession)               {}
func (c *Client) takeStreams(cs *clientSession, reason error) {}
