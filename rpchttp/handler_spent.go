package rpchttp

import (
	"net/netip"
	"sync"
	"time"
)

// spentClients remembers, for a moment, which clients were answered 429. A compressed body
// of such a client is refused before it is decompressed: a kilobyte can become a megabyte,
// and the budget is known only afterwards.
type spentClients struct {
	mu      sync.Mutex
	clients map[netip.Prefix]spentClient // at most maxSpentClients
}

type spentClient struct {
	at         time.Time
	retryAfter string // the header of the answer
}

const (
	// spentMoment is how long a client is remembered.
	spentMoment     = time.Second
	maxSpentClients = 1024
)

// add remembers that a client was answered 429.
func (s *spentClients) add(client netip.Prefix, retryAfter string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == nil || len(s.clients) >= maxSpentClients {
		s.clients = make(map[netip.Prefix]spentClient)
	}
	s.clients[client] = spentClient{time.Now(), retryAfter}
}

// recall reports whether a client was answered 429 just now, and with which Retry-After.
func (s *spentClients) recall(client netip.Prefix) (retryAfter string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[client]
	if ok && time.Since(c.at) >= spentMoment {
		delete(s.clients, client)
		return "", false
	}
	return c.retryAfter, ok
}
